"""A circuit of 20,000 edges: painted, not made of elements, and still answering."""

import pytest
from report_runs import make_run

from browser.cases import loaded, neighbours
from circuitprune.circuits.graph import Graph
from circuitprune.views.report import write_report

SIZES = (300, 20_000)
MOST_LISTED = 200
"""Edges of one list in the panel."""
PAINTED = """() => {
    const canvas = document.querySelector("#drawing").parentNode.querySelector("canvas");
    if (canvas.hidden || !canvas.width) return 0;
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let at = 3; at < data.length; at += 4) found += data[at] > 0;
    return found / (data.length / 4);
}"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("large"), Graph(12, 12, 12, d_model=768), sizes=SIZES)
    write_report([run])
    return run


@pytest.fixture
def opened(view, large):
    return view.open(large / "report.html", f"#size={SIZES[1]}")


def test_edges_are_painted_not_made(opened):
    assert opened.text("#drawn").startswith("20,000 edges among")
    assert opened.page.locator("#drawing .edge").count() == 0
    assert opened.page.evaluate(PAINTED) > 0.1
    assert opened.page.evaluate("document.querySelectorAll('*').length") < 5000
    opened.page.locator("#size").press("Home")
    assert opened.page.locator("#drawing .edge").count() == SIZES[0]
    assert opened.page.evaluate(PAINTED) == 0


def test_a_click_lists_the_right_neighbours(opened, large):
    circuit = loaded(large, SIZES[1])
    for node in ("a5.h3", "m8", "logits"):
        opened.node(node).click()
        into, out = neighbours(circuit, node)
        counts = opened.page.locator("#node h4").all_inner_texts()[:2]
        assert counts == [f"in ({len(into):,})", f"out ({len(out):,})"]
        for listed, expected in zip(opened.listed(), (into, out), strict=True):
            assert len(listed) == min(MOST_LISTED, len(expected))
            assert set(listed) <= set(expected) and len(set(listed)) == len(listed)
        assert opened.page.locator("#drawing .edge.on").count() == len(into) + len(out)


def test_the_filter_brings_the_strongest_back_as_elements(opened):
    opened.page.locator("#strongest").press("Home")
    for _ in range(7):
        opened.page.locator("#strongest").press("PageUp")
    said = opened.text("#strongest-text")
    n = int(said.removeprefix("strongest ").replace(",", ""))
    assert 500 < n < 3000
    assert opened.page.locator("#drawing .edge").count() == n
    assert opened.page.evaluate(PAINTED) == 0


def test_the_table_is_paged(opened):
    opened.unfold()
    n_rows = opened.page.locator("#edges tbody tr").count()
    assert 0 < n_rows <= 500 and "20,000" in opened.text("#edges-pages")
    first = opened.text("#edges tbody tr >> nth=0")
    opened.page.locator("#edges-pages button").last.click()
    assert opened.text("#edges tbody tr >> nth=0") != first


def test_the_saved_drawing_holds_what_is_painted(opened):
    text = opened.saved("#save-svg")
    assert text.count('class="edge ') == SIZES[1]
