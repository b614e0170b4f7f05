"""The card of a neuron or feature holds what the run's files say of it, and nothing runs in it."""

import pytest
from report_evidence import judge
from report_runs import HOSTILE, SMALL, make_run

from browser.cases import loaded
from circuitprune.circuits.part_graph import Cut, part_graph
from circuitprune.circuits.part_spans import at_spans
from circuitprune.circuits.span_graph import spans_of
from circuitprune.files.whole import read_json, write_json
from circuitprune.views.report import write_report

NAME = "m0.f3"
TOKENS = [f" t{i}" for i in range(20)] + list(HOSTILE)
PEAKS = [{"prompt": 0, "at": 15, "value": 3.25}, {"prompt": 1, "at": 1, "value": -1.5}]
EDGES = [
    {"part": "a0.h1", "into": NAME, "effect": -0.75},
    {"part": NAME, "into": "m1.n2", "effect": 0.5},
    {"part": NAME, "into": "logits", "effect": -0.25},
]


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """A verified run of 12 features and 20 neurons, and heads, one feature of which was read."""
    cuts = [Cut("input", 0), *(Cut(name, at) for at, name in enumerate(SMALL.writers[1:9], 1))]
    features, neurons = Cut("m0", 9, "feature", 13, True), Cut("m1", 18, "neuron", 20)
    graph = part_graph(SMALL, "feature", (*cuts, features, neurons))
    run = judge(make_run(tmp_path_factory.mktemp("parts"), graph, sizes=(7, 40, graph.n_edges)))
    told = read_json(run / "verification.json", checked=True)
    card = {"part": NAME, "on": 0.125, "examples": PEAKS}
    card |= {"promotes": [[HOSTILE[0], 2.0], [" b", 1.0]], "demotes": [[" c", -0.5]]}
    told["sections"]["function"]["parts"] = {
        "n_parts": 30,
        "n_pairs": 64,
        "parts": [card],
        "prompts": [TOKENS, [" x", HOSTILE[1], " y"]],
    }
    write_json(run / "verification.json", told)
    about = {"circuit": "circuits/7.json", "metric": "logit_diff", "steps": 1, "threshold": 0.1}
    write_json(run / "part_edges.json", {**about, "edges": EDGES})
    write_report([run])
    return run


@pytest.fixture
def card(view, parted):
    size = max(int(path.stem) for path in (parted / "circuits").glob("*.json"))
    view.open(parted / "report.html", f"#size={size}")
    assert NAME in loaded(parted, size).edges
    view.page.evaluate("(name) => selectPart(name)", NAME)
    return view


def test_examples_are_those_of_the_file_with_their_tokens_marked(card):
    rows = card.page.locator(".peaks li").evaluate_all(
        "(rows) => rows.map((row) => [row.querySelector('b').innerText,"
        " row.querySelector('mark').textContent])"
    )
    assert [(float(value), token) for value, token in rows] == [(3.25, " t15"), (-1.5, HOSTILE[1])]
    first = card.page.locator(".context").first.text_content()
    assert " t5" in first and " t4 " not in first and first.startswith("…")
    assert "12.5 % of the tokens of 64 clean prompts" in card.text("#part-examples")
    assert card.text("#reading h3") == "What feature 3 of MLP of layer 0 does"


def test_promoted_and_demoted_tokens_are_those_of_the_file(card):
    rows = card.page.locator("#part-logits tr").evaluate_all(
        "(rows) => rows.map((row) => [row.cells[0].textContent, Number(row.cells[1].innerText)])"
    )
    assert rows == [[HOSTILE[0], 2], [" b", 1], [" c", -0.5]]


def test_edges_to_other_parts_are_those_of_the_file_and_lead_there(card):
    rows = card.page.locator(".moves").evaluate_all(
        "(all) => all.flatMap((one) => [...one.querySelectorAll('tr')].map("
        "(row) => [one.dataset.way, row.cells[0].innerText, Number(row.cells[1].innerText)]))"
    )
    assert rows == [["part", "a0.h1", -0.75], ["into", "m1.n2", 0.5], ["into", "logits", -0.25]]
    card.page.locator(".moves button", has_text="m1.n2").click()
    assert card.text("#reading h3") == "What neuron 2 of MLP of layer 1 does"
    assert "this is none of them" in card.text("#reading")
    assert card.text("#node h3").startswith("m1.n2")


def test_a_part_is_chosen_from_its_nodes_list_and_comes_back_with_the_address(card, parted):
    card.node("m0").click()
    card.page.locator("#node li button", has_text=NAME).first.click()
    assert card.text("#node h3").startswith(NAME)
    card.open(parted / "report.html", card.fragment)
    assert card.page.locator(".peaks li").count() == len(PEAKS)
    card.page.keyboard.press("Escape")
    assert card.page.locator("#reading").is_hidden()


def test_without_files_the_card_says_the_commands(view, parted, tmp_path):
    graph = loaded(parted, 7).graph
    run = make_run(tmp_path, graph, sizes=(graph.n_edges,))
    view.open(write_report([run]))
    view.page.evaluate("(name) => selectPart(name)", NAME)
    said = view.text("#reading")
    assert "circuitprune verify RUN" in said and "circuitprune part-edges RUN" in said


def test_two_circuits_of_parts_are_compared_part_by_part(view, parted):
    view.open(parted / "report.html").page.locator("#compare").scroll_into_view_if_needed()
    view.page.locator("#comparison .node").first.wait_for()
    assert "40 edges in both, 0 only in A, 2 only in B" in view.text("#compared")


SPANS = ("S2", "rest", "end")


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """The same with a gate at each span, a feature of which was read."""
    cuts = [Cut("input", 0), *(Cut(name, at) for at, name in enumerate(SMALL.writers[1:9], 1))]
    whole = part_graph(SMALL, "feature", (*cuts, Cut("m0", 9, "feature", 13, True)))
    spans = spans_of(SPANS, [([0, 1, 2], [5, 5, 5], [6, 5, 5])], everywhere=False)
    graph = at_spans(whole, spans)
    run = judge(make_run(tmp_path_factory.mktemp("placed"), graph, sizes=(7, 40, graph.n_edges)))
    told = read_json(run / "verification.json", checked=True)
    card = {"part": NAME, "on": 0.125, "examples": PEAKS, "promotes": [[" b", 1.0]], "demotes": []}
    parts = {"n_parts": 12, "n_pairs": 64, "parts": [card], "prompts": [TOKENS, TOKENS]}
    told["sections"]["function"]["parts"] = parts
    write_json(run / "verification.json", told)
    about = {"circuit": "circuits/7.json", "metric": "logit_diff", "steps": 1, "threshold": 0.1}
    edge = {"part": "a0.h1@rest", "into": f"{NAME}@end", "effect": -0.75}
    write_json(run / "part_edges.json", {**about, "edges": [edge]})
    write_report([run])
    return run, graph


def test_parts_at_spans_stand_in_their_columns_and_have_a_card(view, placed):
    """A line leads from each to the answer's logits; cards tell one span from another."""
    run, graph = placed
    view.open(run / "report.html", f"#size={graph.n_edges}")
    drawn = view.page.evaluate("() => [...picture.plan.nodes.keys()]")
    ends = [
        (graph.writers[w], SPANS[s])
        for w, s in zip(graph.edge_writer, graph.edge_span, strict=True)
    ]
    assert {*drawn} == {f"{writer}@{span}" for writer, span in ends} | {"logits@end"}
    assert "lines lead to where the answer is" in view.text("#span-key")
    view.page.evaluate("(name) => selectPart(name)", f"{NAME}@end")
    assert view.text("#reading h3") == "What feature 3 of MLP of layer 0 at end does"
    assert view.page.locator(".peaks li").count() == len(PEAKS)
    assert view.page.locator(".moves tr").evaluate_all(
        "(rows) => rows.map((row) => row.cells[0].innerText)"
    ) == ["a0.h1@rest"]
    view.page.evaluate("(name) => selectPart(name)", f"{NAME}@rest")
    assert view.page.locator(".moves tr").count() == 0
