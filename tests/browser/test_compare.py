"""Two circuits on one drawing: which edges are in the first, in the second, in both."""

from dataclasses import replace

import pytest
from report_runs import GROUPED, make_run

from browser.cases import drawn, loaded
from circuitprune.runs.frontier import read_results, write_results
from circuitprune.views.report import write_report

LOOKS = ("a", "both", "b")
SIZES = (300, 1000)
"""Edges of the circuits; the smaller is chosen, and large enough for two runs to share some."""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A report of two runs of one graph and of one of another graph."""
    folder = tmp_path_factory.mktemp("compare")
    for name in ("one", "two", "small"):
        (folder / name).mkdir()
    runs = [make_run(folder / "one", sizes=SIZES), make_run(folder / "two", seed=1, sizes=SIZES)]
    return write_report([*runs, make_run(folder / "small", GROUPED)])


@pytest.fixture
def opened(view, three):
    view.open(three).page.locator("#compare").scroll_into_view_if_needed()
    view.page.locator("#comparison .node").first.wait_for()
    return view


def edges(opened, look):
    return opened.edges(f".edge.{look}", "#comparison")


def parts(a, b):
    """Edges in the first alone, in both, in the second alone."""
    return drawn(a) - drawn(b), drawn(a) & drawn(b), drawn(b) - drawn(a)


def test_edges_are_told_apart_and_counted(opened, three):
    one, two = (loaded(three.parents[1] / name, 300) for name in ("one", "two"))
    expected = parts(one, two)
    assert all(expected)
    assert tuple(edges(opened, look) for look in LOOKS) == expected
    first, both, second = map(len, expected)
    said = opened.text("#compared")
    assert f"{both} edges in both, {first} only in A, {second} only in B" in said
    assert f"Jaccard {float(f'{one.jaccard(two):.3g}'):g}" in said
    dashes = {
        look: opened.page.locator(f"#comparison .edge.{look}").first.get_attribute(
            "stroke-dasharray"
        )
        for look in LOOKS
    }
    assert len(set(dashes.values())) == 3


def test_sizes_of_one_run_are_compared(opened, three):
    menus = [opened.page.locator(f"#side-{side}") for side in "ab"]
    menus[0].select_option(label="one, 300 edges")
    menus[1].select_option(label="one, 1,000 edges")
    small, large = (loaded(three.parents[1] / "one", n) for n in (300, 1000))
    assert tuple(edges(opened, look) for look in LOOKS) == parts(small, large)
    opened.page.locator("#swap").click()
    assert tuple(edges(opened, look) for look in LOOKS) == parts(large, small)
    assert len(edges(opened, "a")) == 700 and len(edges(opened, "b")) == 0
    assert opened.page.locator("#side-a").input_value() == "0.1"
    fragment = opened.fragment
    opened.open(three, fragment).page.locator("#compare").scroll_into_view_if_needed()
    opened.page.locator("#comparison .node").first.wait_for()
    assert len(edges(opened, "a")) == 700


def test_a_part_can_be_left_out(opened, three):
    one, two = (loaded(three.parents[1] / name, 300) for name in ("one", "two"))
    opened.page.get_by_role("checkbox", name="in both").uncheck()
    first, _, second = parts(one, two)
    assert opened.edges(".edge", "#comparison") == first | second
    opened.unfold()
    assert opened.page.locator("#differences tbody tr").count() == min(50, len(first | second))


def test_a_node_lists_its_edges_by_where_they_are(opened, three):
    one, two = (loaded(three.parents[1] / name, 300) for name in ("one", "two"))
    opened.page.locator('#comparison [data-node="logits"]').click()
    found = opened.page.locator("#compared-node ul").evaluate_all(
        "(lists) => lists.map((list) => [...list.children].map((row) => row.innerText).sort())"
    )
    a, b = ({x for x in c.edges if x.endswith("->logits")} for c in (one, two))
    assert found == [sorted(a - b), sorted(a & b), sorted(b - a)]


def test_a_run_of_another_graph_is_said_to_be_incomparable(opened):
    assert opened.text("#incomparable").startswith("small is of a model with other sizes")
    options = opened.page.locator("#side-a option").all_inner_texts()
    assert {text.split(",")[0] for text in options} == {"one", "two"}


def test_an_address_tells_circuits_of_equal_size_apart(view, tmp_path):
    """As ACDC's may be: 40 edges each, and none in both."""
    run = make_run(tmp_path, sizes=(40, 300))
    frontier, circuits = read_results(run)
    other = circuits[1].mask & ~circuits[0].mask
    other[other.nonzero()[40:]] = False
    points = [frontier.points[0], replace(frontier.points[1], mask=other)]
    write_results(run, replace(frontier, points=points), None, circuits[0].ranking, "")
    report = write_report([run])
    view.open(report, "#size=40_2&compare=0.40-0.40_2")
    view.page.locator("#compare").scroll_into_view_if_needed()
    view.page.locator("#comparison .node").first.wait_for()
    assert view.edges() == drawn(loaded(run, "40_2")) != drawn(loaded(run, 40))
    assert "0 edges in both, 40 only in A, 40 only in B" in view.text("#compared")
    view.page.keyboard.press("H")
    assert "size=40_2" in view.fragment and "0.40-0.40_2" in view.fragment
