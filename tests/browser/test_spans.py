"""The position axis: a circuit at spans is drawn as in its file, each node in its span's column."""

import re

import pytest
from report_runs import GROUPED, SMALL, make_run

from browser.cases import ends, loaded
from browser.test_edges import crossings
from browser.test_phone import LETTERS, PHONE, SMALLEST
from browser.view import View
from circuitprune.circuits.span_graph import span_graph, spans_of
from circuitprune.files.whole import write_json
from circuitprune.lens.predictions import ExamplePairs, NextTokens, TokenPair
from circuitprune.views.report import write_report

ORDER = ("IO", "S1", "rest", "S2", "end")
"""Of the spans in the prompt below; in the graph they stand in the order of the alphabet."""
NAMES = ("IO", "S1", "S2", "rest", "end")
DEALT = ("rest", "IO", "S1", "rest", "S2", "rest", "end")
SIZES = (30, 60)


def at_spans(graph):
    """A graph at five spans, in which something differs everywhere."""
    row = [NAMES.index(name) for name in DEALT]
    return span_graph(graph, spans_of(NAMES, [(row, row, row)], everywhere=True))


@pytest.fixture(scope="module", params=[SMALL, GROUPED], ids=["heads", "groups"])
def spanned(request, tmp_path_factory):
    """A run at spans, with a pair whose tokens are dealt to them."""
    run = make_run(tmp_path_factory.mktemp("spans"), at_spans(request.param), sizes=SIZES)
    tokens = tuple(f"Ġ{name}-token" for name in DEALT)
    pair = TokenPair(tokens, tokens, ("a",), ("b",), NextTokens((), (), ()), DEALT)
    write_json(run / "pairs.json", ExamplePairs("test", 1, 30, (pair,)))
    return write_report([run])


def expected(circuit):
    """Lines `(writer@span, reader@span, kind)` of a drawing with their edges, from the file alone.

    Keys and values are read at all spans that see theirs, and where a head that they feed writes.
    """
    names = [span.name for span in circuit.graph.spans]
    sees = {span.name: {names[place] for place in span.sees} for span in circuit.graph.spans}
    parted = [(name, *name.rsplit("@", 1)) for name in circuit.edges]
    writes = {(edge.split("->")[0], span) for _, edge, span in parted}
    found = {}
    for name, edge, span in parted:
        writer, reader, kind = ends(edge)
        places = [span]
        if kind in ("k", "v"):
            fed = fed_by(circuit.graph, reader)
            seeing = [other for other in names if span in sees[other]]
            places = [s for s in seeing if any((head, s) in writes for head in fed)] or [span]
        for place in places:
            line = (f"{writer}@{span}", f"{reader}@{place}", kind)
            found.setdefault(line, set()).add(name)
    return found


def fed_by(graph, reader):
    """The heads that read these keys and values."""
    shared = re.fullmatch(r"a(\d+)\.kv(\d+)", reader)
    if not shared:
        return [reader]
    size = graph.n_heads // graph.n_kv_readers
    first = int(shared[2]) * size
    return [f"a{shared[1]}.h{head}" for head in range(first, first + size)]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_drawn_equals_the_file(view, spanned, size):
    view.open(spanned, f"#size={size}")
    circuit = loaded(spanned.parent, size)
    lines = expected(circuit)
    assert view.edges() == set(lines)
    titles = view.page.locator("#drawing .edge").evaluate_all(
        "(all) => all.map((x) => [x.dataset.from, x.dataset.to, x.classList[1],"
        " x.querySelector('title').textContent])"
    )
    assert {tuple(found[:3]): set(found[3].split(", ")) for found in titles} == lines
    assert view.kept_nodes() == {node for line in lines for node in line[:2]}
    assert f"{size} edges among {len(circuit.nodes)} nodes" in view.text("#drawn")
    assert "Drawn:" not in view.text("#drawn")
    assert crossings(view) == []


def test_nodes_stand_in_the_columns_of_their_spans_in_the_order_of_prompts(view, spanned):
    view.open(spanned)
    axis = view.page.locator("#drawing .span")
    names = axis.evaluate_all("(all) => all.map((x) => x.dataset.span)")
    assert tuple(names) == ORDER
    starts = axis.evaluate_all("(all) => all.map((x) => x.querySelector('path')?.getBBox().x ?? 0)")
    assert starts == sorted(starts)
    for name, box in view.page.locator("#drawing .node").evaluate_all(
        "(all) => all.map((x) => { const b = x.querySelector('rect').getBBox();"
        " return [x.dataset.node, [b.x, b.x + b.width]]; })"
    ):
        place = ORDER.index(name.split("@")[1])
        after = [*starts, 1e9][place + 1]
        assert starts[place] <= box[0] and box[1] <= after, name
    said = axis.evaluate_all("(all) => all.map((x) => x.querySelector('title').textContent)")
    assert said[2] == "rest, on pair 1: rest-token rest-token rest-token" and "IO-token" in said[0]


def test_a_nodes_lists_and_an_edges_card_say_the_span(view, spanned):
    view.open(spanned)
    circuit = loaded(spanned.parent, 30)
    lines = expected(circuit)
    node = max((line[1] for line in lines if line[2] == "v"), key=lambda n: (n.count("end"), n))
    view.page.evaluate("(id) => select(id)", node)
    into = {name for line, names in lines.items() if line[1] == node for name in names}
    listed = view.page.evaluate(
        "(id) => [...new Set(picture.edgesAt(id).into.flatMap((c) => c.edges))].map(edgeName)", node
    )
    assert set(listed) == into and "node=" in view.fragment
    view.open(spanned, view.fragment)
    assert view.text("#node h3").startswith(node)
    edge = next(name for line, names in lines.items() if line[2] in "kv" for name in names)
    places = {line[1].split("@")[1] for line, names in lines.items() if edge in names}
    by_name = "(name) => selectEdge([circuit().edges.find((e) => edgeName(e) === name)])"
    view.page.evaluate(by_name, edge)
    said = view.page.evaluate("spanFacts(edgesAtHand()[0])[0].slice(0, 2)")
    assert said == ["at", edge.rsplit("@", 1)[1]]
    looked = view.page.evaluate("spanFacts(edgesAtHand()[0])[1][1]")
    assert set(looked.split(", ")) == places and looked in view.text("#node")
    assert view.page.locator("#drawing .edge.on").count() == len(places)


def test_the_table_has_a_row_for_each_edge_and_its_span(view, spanned):
    view.open(spanned)
    view.page.locator("#table-box > summary").click()
    rows = view.page.locator("#edges tbody tr").evaluate_all(
        "(rows) => rows.map(({ cells }) => [0, 1, 3].map((i) => cells[i].innerText))"
    )
    rows = [f"{writer}->{reader}@{span}" for writer, reader, span in rows]
    assert sorted(rows) == sorted(loaded(spanned.parent, 30).edges)


def test_two_circuits_at_spans_are_compared_edge_by_edge(view, spanned):
    view.open(spanned).page.locator("#compare").scroll_into_view_if_needed()
    view.page.locator("#comparison .node").first.wait_for()
    small, large = (loaded(spanned.parent, size) for size in SIZES)
    assert set(small.edges) <= set(large.edges)
    assert f"{len(small.edges)} edges in both, 0 only in A, 30 only in B" in view.text("#compared")
    drawn = view.edges(".edge", "#comparison")
    assert drawn == set(expected(small)) | set(expected(large))


def test_hidden_and_pinned_nodes_and_names_come_back_with_the_address(view, spanned):
    view.open(spanned)
    first, second = sorted(name for (name,) in view.named(".node", "node"))[:2]
    view.page.evaluate("([a, b]) => { hide(a); pin(b); }", [first, second])
    view.open(spanned, view.fragment)
    assert view.page.locator(f'#drawing [data-node="{first}"]').count() == 0
    assert second in view.page.evaluate("[...state.pinned]")


def test_five_spans_can_be_read_on_a_phone(browser, spanned):
    context = browser.new_context(viewport=PHONE, has_touch=True)
    view = View(context).open(spanned)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    found = view.page.evaluate(LETTERS)
    assert len(found) > 50
    assert [text for text in found if text["size"] < SMALLEST - 0.05] == []
    box = view.page.locator("#drawing").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    context.close()
    assert view.said == [] and view.asked == []


def test_without_spans_there_is_no_axis(view, run):
    view.open(run / "report.html")
    assert view.page.locator(".span").count() == 0 and view.page.locator("#span-key").count() == 0
