"""Figures of the evidence show every number of the files, each in its place."""

import pytest
from report_evidence import FAMILIES, TOKENS, judge, stability, transfer, triangle
from report_runs import make_run

from browser.cases import loaded
from circuitprune.files.records import to_json
from circuitprune.files.whole import read_json, write_json
from circuitprune.views.report import write_report

MIDDLES = """(marks) => marks.map((mark) => {
    const { x, y, width, height } = mark.lastElementChild.getBoundingClientRect();
    return [x + width / 2, y + height / 2];
})"""
RUNS = ["runs/seed0", "runs/seed1", "runs/seed2"]


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A verified run with a study of stability and a comparison."""
    run = judge(make_run(tmp_path_factory.mktemp("studied")))
    write_json(run / "stability.json", stability(RUNS))
    write_json(run / "compare.json", transfer(RUNS))
    write_report([run])
    return run


@pytest.fixture
def opened(view, studied):
    return view.open(studied / "report.html")


@pytest.fixture
def sections(studied):
    return read_json(studied / "verification.json", checked=True)["sections"]


def marks(opened, figure, selector):
    return opened.page.locator(f"#figure-{figure} svg.chart {selector}")


# ---------------------------------------------------------------- sections


def test_every_section_has_its_sentence(opened, sections):
    for name, section in sections.items():
        assert section["sentence"] in opened.text(f'[data-section="{name}"]')


def test_completeness_has_a_mark_for_each_knock_out_in_its_place(opened, sections):
    points = sections["completeness"]["points"]
    found = marks(opened, "completeness", ".point")
    families = found.evaluate_all("(all) => all.map((x) => x.dataset.family)")
    assert families == [point["family"] for point in points] == list(FAMILIES)
    places = found.evaluate_all(MIDDLES)
    assert linear([x for x, _ in places], [p["model"] for p in points])
    assert linear([-y for _, y in places], [p["circuit"] for p in points])


def linear(pixels, values):
    """Whether pixels grow evenly with values, to two pixels."""
    rate = (pixels[0] - pixels[-1]) / (values[0] - values[-1])
    expected = [pixels[0] + rate * (v - values[0]) for v in values]
    return rate > 0 and pixels == pytest.approx(expected, abs=2)


def test_minimality_has_a_bar_for_each_edge(opened, studied, sections):
    found = marks(opened, "minimality", "[data-edge]")
    names = found.evaluate_all("(all) => all.map((x) => x.dataset.edge)")
    assert sorted(names) == sorted(loaded(studied).edges)
    rise = {row["edge"]: row["kl"]["value"] for row in sections["minimality"]["edges"]}
    titles = found.locator("title").all_text_contents()
    assert all(name in title for name, title in zip(names, titles, strict=True))
    assert [rise[name] for name in names] == sorted(rise.values(), reverse=True)


def test_random_circuits_are_all_counted(opened, sections):
    for family, found in sections["random_circuits"]["families"].items():
        bars = marks(opened, "random_circuits", f'[data-family="{family}"]')
        counts = bars.evaluate_all("(all) => all.map((x) => Number(x.dataset.count))")
        assert sum(counts) == len(found["kl_of_each"])


# ---------------------------------------------------------------- studies


def cells(opened, figure):
    """Numbers of a matrix, by row."""
    found = marks(opened, figure, ".matrix-cell").evaluate_all(
        "(all) => all.map((x) => [x.dataset.row, x.dataset.column, "
        "x.querySelector('text').textContent])"
    )
    n = max(int(row) for row, _, _ in found) + 1
    rows = [[float(text) for row, _, text in found if int(row) == i] for i in range(n)]
    assert all(len(row) == n for row in rows)
    return rows


def test_stability_is_a_matrix_of_every_two_runs(opened):
    jaccard = to_json(stability(RUNS).groups["seed"].jaccard)
    assert cells(opened, "stability_seed_edges") == jaccard["edges"]
    assert cells(opened, "stability_seed_nodes") == jaccard["nodes"]
    times = marks(opened, "stability_seed_kept", "[data-times]")
    assert times.count() == len(RUNS)


def test_pairs_of_empty_circuits_say_that_they_have_no_index(view, tmp_path):
    run, study = make_run(tmp_path), to_json(stability(RUNS))
    for shared in study["groups"]["seed"]["jaccard"].values():
        shared[1][2] = shared[2][1] = None
    study["groups"]["seed"]["overlap"]["nodes"] |= dict.fromkeys(("mean", "low", "high"))
    write_json(run / "stability.json", study)
    compared = to_json(transfer(RUNS))
    compared["overlap"][0]["edge_jaccard"] = None
    write_json(run / "compare.json", compared)
    view.open(write_report([run]))
    for name, row, column in (("stability_seed_edges", 1, 2), ("overlap", 0, 1)):
        cell = marks(view, name, f"[data-row='{row}'][data-column='{column}']")
        assert cell.locator("title").text_content() == "not measured"
    assert "mean \u2013" in view.text("#figure-stability_seed_nodes")


def test_transfer_is_a_matrix_of_circuits_by_pairs(opened):
    values = [cell.faithfulness.value for cell in transfer(RUNS).transfer.cells]
    n = len(RUNS)
    assert cells(opened, "transfer") == [values[i : i + n] for i in range(0, n * n, n)]
    assert cells(opened, "overlap") == [
        [1.0 if i == j else 0.25 for j in range(3)] for i in range(3)
    ]


# ---------------------------------------------------------------- a node, the pairs


def test_a_selected_head_shows_where_it_looks(opened, sections):
    head = sections["function"]["heads"][0]["head"]
    assert opened.page.locator("#reading").is_hidden()
    opened.node(head).click()
    weights = opened.page.locator("#reading [data-query]").evaluate_all(
        "(all) => all.map((x) => [x.dataset.query, x.dataset.key, x.getAttribute('fill-opacity')])"
    )
    expected = [(i, j, w) for i, row in enumerate(triangle(4)) for j, w in enumerate(row)]
    assert [(int(i), int(j), float(w)) for i, j, w in weights] == expected
    assert opened.page.locator("#reading code").all_inner_texts() == [t.strip() for t in TOKENS]
    assert "previous-token" in opened.text("#reading")


def test_a_selected_node_shows_what_its_edges_are_worth(opened, studied):
    opened.node("m2").click()
    rows = opened.page.locator("#reading table tr td.first").all_inner_texts()
    own = {name for name in loaded(studied).edges if "m2" in name.split("->")}
    assert own and own <= set(rows)
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#reading").is_hidden()


def test_the_cells_of_a_row_stand_on_one_line(opened):
    """In every table of the page, a selected node's too."""
    opened.node("m2").click()
    uneven = opened.page.evaluate(
        """() => [...document.querySelectorAll('tr')].filter((row) => {
            const boxes = [...row.children].map((cell) => cell.getBoundingClientRect());
            const [{ top, height }] = boxes;
            return boxes.some((box) => box.top !== top || box.height !== height);
        }).map((row) => row.outerHTML)"""
    )
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("tr").count() > 20 and uneven == []


def test_a_run_without_evidence_says_how_to_get_it(view, run):
    view.open(run / "report.html").node("m2").click()
    assert "circuitprune verify" in view.text("#reading")
    assert "circuitprune verify" in view.text("#tests")


def test_predictions_stand_under_their_pair(opened):
    def rows(key):
        found = opened.page.locator(f'[data-next="{key}"] tr')
        return [row.split("\t")[:2] for row in found.all_inner_texts()]

    assert [token.split()[0] for token, _ in rows("model")] == [t.strip() for t in TOKENS]
    assert [chance for _, chance in rows("model")][:2] == ["50.0 %", "25.0 %"]
    assert [token.split()[0] for token, _ in rows("circuit")] == [t.strip() for t in TOKENS[::-1]]
    assert rows("model")[0][0].endswith("✓") and rows("model")[1][0].endswith("✗")


def test_a_kl_that_rounding_left_below_zero_is_zero(view, tmp_path):
    run = judge(make_run(tmp_path))
    value = read_json(run / "frontier.json")
    for point in value["points"]:
        point["kl"] = -3e-8
    write_json(run / "frontier.json", value)
    write_report([run])
    opened = view.open(run / "report.html")
    assert "0 nats" in opened.text("#cards") and "KL 0 nats" in opened.text("body")
    assert "e-8" not in opened.text("body")
