"""Graphs of edges at spans: names, files, and which gates there are, against paths drawn out."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import to_dot, write_edges_csv
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges, live_from
from circuitprune.circuits.selection import select
from circuitprune.circuits.span_graph import (
    Span,
    SpanGraph,
    base_of,
    flat_of,
    grid_of,
    in_prompt_order,
    named_spans,
    span_graph,
    spans_of,
)
from circuitprune.errors import GraphError
from circuitprune.evidence.draws import cell_of_edges, matched, relabelled

SIZES = [Graph(2, 4, 2), Graph(2, 2, 2, parallel=True), Graph(3, 2, 1)]
ROW = ([0, 1, 2, 3], [7, 8, 9, 9], [7, 5, 9, 9])
"""A prompt of four tokens, each a span of its own; the second differs."""
NAMES = ("a", "S2", "b", "end")


def graph_of(base: Graph) -> SpanGraph:
    return span_graph(base, spans_of(NAMES, [ROW], everywhere=False))


def random(n: int, seed: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


def live_by_paths(graph: SpanGraph, mask: Tensor) -> set[str]:
    """Kept gates on a path, by walking from node to node and token to token."""
    base, kept = graph.base, mask.nonzero().flatten().tolist()
    steps = []  # (gate, (writer, token), every (node, token) that it feeds)
    for gate in kept:
        writer, _, reader = graph.edge_name(gate).rpartition("@")[0].partition("->")
        token = int(graph.edge_span[gate])
        later = range(token, 4) if reader.endswith(("<k>", "<v>")) else [token]
        feeds = [base.writers[w] for w in base.heads_of_reader(base.reader_index(reader))]
        steps.append((gate, (writer, token), [(x, t) for x in feeds or ["logits"] for t in later]))
    reached, leads = {("input", 1)}, {("logits", 3)}
    for _ in range(3 * base.n_layers + 2):
        for _, start, ends in steps:
            reached |= {*ends} if start in reached else set()
            leads |= {start} if leads & {*ends} else set()
    return {
        graph.edge_name(gate) for gate, start, ends in steps if start in reached and leads & {*ends}
    }


@pytest.mark.parametrize("base", SIZES, ids=str)
def test_live_gates_are_those_on_a_path_of_nodes_and_tokens(base: Graph) -> None:
    graph = graph_of(base)
    every = torch.ones(graph.n_edges, dtype=torch.bool)
    assert live_by_paths(graph, every) == {*graph.edges} and 0 < graph.n_edges < 4 * base.n_edges
    free = span_graph(base, [Span(n, (0, 1, 2, 3), True, True) for n in NAMES])
    assert free.n_edges == 4 * base.n_edges
    for seed, share in enumerate((0.15, 0.3, 0.3, 0.6)):
        mask = random(graph.n_edges, seed) < share
        live = live_edges(graph, mask)
        names = {graph.edge_name(i) for i in live.nonzero().flatten().tolist()}
        assert names == live_by_paths(graph, mask)


@pytest.mark.parametrize("base", SIZES, ids=str)
def test_live_edges_of_every_prefix(base: Graph) -> None:
    graph = graph_of(base)
    order = random(graph.n_edges, 1).argsort()
    places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    found = live_from(graph, places)
    for n in (0, 1, 5, 20, len(order) // 2, len(order)):
        assert torch.equal(found <= n, live_edges(graph, places < n)), n
    mask = select(graph, random(graph.n_edges, 2), 30)
    assert mask.sum() <= 30 and torch.equal(live_edges(graph, mask), mask)


def test_nothing_stands_where_nothing_can_differ_or_lead_on() -> None:
    graph = graph_of(SIZES[0])
    assert int(graph.exists[:, 0].sum()) == 0, "in front of the difference"
    assert not [name for name in graph.edges if name.startswith("input") and "@S2" not in name]
    assert {name.rpartition("@")[2] for name in graph.edges if "->logits" in name} == {"end"}
    last = [n.partition("->")[2] for n in graph.edges if n.partition("->")[2].startswith("a1")]
    assert {r.rpartition("@")[2] for r in last if "<q>" in r} == {"end"}
    assert {r.rpartition("@")[2] for r in last if "<k>" in r} == {"S2", "b", "end"}


def test_names_are_edges_and_their_span() -> None:
    graph = graph_of(SIZES[0])
    assert [graph.edge_index(name) for name in graph.edges] == [*range(graph.n_edges)]
    assert graph.edge_index("input->a1.h3<k>@S2") == graph.edge_index("input->a1.kv1<k>@S2")
    assert f"{graph.n_edges} edges at spans (a, S2, b, end)" in graph.describe()
    for name, says in {
        "input->m0": "'writer->reader@span' with one of a, S2, b, end",
        "input->m0@S3": "with one of a, S2, b, end",
        "m1->m0@end": "m1 is not upstream of m0",
        "input->m0@end": "has no gate",
    }.items():
        with pytest.raises(GraphError, match=says):
            graph.edge_index(name)
    with pytest.raises(GraphError, match="at spans"):
        graph.edge_at(0, 0)
    with pytest.raises(GraphError, match="at spans"):
        graph.block_view(torch.zeros(graph.n_edges), graph.logits_block)


def test_spans_that_cannot_be() -> None:
    whole = Span("x", (0,), True, True)
    named_badly, seeing_nothing = Span("x@y", (0,), True, True), Span("x", (1,), True, True)
    for spans in ([], [whole, whole], [named_badly], [seeing_nothing]):
        with pytest.raises(GraphError, match="span"):
            span_graph(SIZES[0], spans)
    with pytest.raises(GraphError, match="an answer must stand where something differs"):
        span_graph(SIZES[0], [Span("x", (0,), True, False), Span("y", (1,), False, True)])


@pytest.mark.parametrize("base", SIZES, ids=str)
def test_a_file_holds_the_spans(base: Graph, tmp_path: Path) -> None:
    graph, path = graph_of(base), tmp_path / "circuit.json"
    scores = random(graph.n_edges, 3) - 0.5
    mask = random(graph.n_edges, 4) < 0.3
    known = scores.where(mask, torch.nan)
    for circuit in (
        Circuit(graph, mask),
        Circuit(graph, mask, known, method="eap"),
        Circuit(graph, mask, known, {"task": "x"}, known + 1),
    ):
        circuit.save(path)
        found = Circuit.load(path)
        assert found == circuit and found.graph.spans == graph.spans
        assert Circuit.load(path, graph) == circuit
        with pytest.raises(GraphError, match="see `spans`"):
            Circuit.load(path, base)
        assert found.n_edges_ungrouped >= found.n_edges == int(mask.sum())
        with pytest.raises(GraphError, match="edges at spans; take 'circuitprune'"):
            circuit.save(path, "mib")
    whole = circuit.ungrouped()
    back = {graph.edge_name(graph.edge_index(name)) for name in whole.edges}
    assert back == {*circuit.edges}


def test_tables_and_drawings_tell_the_span(tmp_path: Path) -> None:
    graph = graph_of(SIZES[0])
    circuit = Circuit.from_names(graph, ["input->a0.h0<q>@S2", "a0.h0->logits@end"])
    write_edges_csv(tmp_path / "edges.csv", circuit)
    assert (tmp_path / "edges.csv").read_text() == (
        "writer,reader,kind,layer,span\ninput,a0.h0<q>,q,0,S2\na0.h0,logits,logits,2,end\n"
    )
    assert 'label="@S2"' in to_dot(circuit) and circuit.nodes == ("input", "a0.h0", "logits")


@pytest.mark.parametrize("base", SIZES, ids=str)
def test_random_circuits_keep_what_they_should(base: Graph) -> None:
    graph = graph_of(base)
    mask = live_edges(graph, random(graph.n_edges, 5) < 0.4)
    cells, generator = cell_of_edges(graph), torch.Generator().manual_seed(0)
    for draw in (matched, relabelled):
        drawn = draw(graph, mask, generator)
        assert torch.equal(cells[drawn].bincount(minlength=99), cells[mask].bincount(minlength=99))
        assert torch.equal(live_edges(graph, drawn), drawn)
    values = random(graph.n_edges, 6)
    assert torch.equal(flat_of(graph, grid_of(graph, values, 0.0)), values)
    assert base_of(graph) == base and base_of(base) is base
    assert all(a <= b for a, b in pairwise(graph.edge_base.tolist()))


def test_spans_in_the_order_in_which_prompts_go_through_them() -> None:
    names, dealt = ("IO", "S1", "S2", "rest", "end"), (3, 1, 3, 0, 3, 2, 3, 4)
    spans = spans_of(names, [(dealt, dealt, dealt)], everywhere=True)
    assert [names[place] for place in in_prompt_order(spans)] == ["S1", "IO", "rest", "S2", "end"]
    patched = spans_of(NAMES, [ROW], everywhere=False)
    assert [patched[place].name for place in in_prompt_order(patched)] == [*NAMES]
    backwards = spans_of(NAMES[::-1], [(ROW[0][::-1], ROW[1], ROW[2])], everywhere=True)
    assert [backwards[place].name for place in in_prompt_order(backwards)] == [*NAMES]


def test_tokens_have_the_names_of_their_spans() -> None:
    assert named_spans(graph_of(SIZES[0]), (1, 1, 3)) == ("S2", "S2", "end")
    assert named_spans(SIZES[0], (1, 1, 3)) is None
