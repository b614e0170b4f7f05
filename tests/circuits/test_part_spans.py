"""Graphs of parts at spans: names, files, tables, and where there are gates."""

from pathlib import Path

import pytest
import torch

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import Cut, PartGraph, part_graph
from circuitprune.circuits.part_spans import PartSpanGraph, at_spans
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import select
from circuitprune.circuits.span_graph import SpanGraph, base_of, grid_of, span_graph, spans_of
from circuitprune.errors import GraphError
from circuitprune.evidence.draws import cell_of_edges, matched, relabelled
from circuitprune.evidence.idle_edges import random_path

EDGES = Graph(2, 2, 1, d_model=8)
CUTS = (
    Cut("input", 0),
    Cut("a0.h0", 1),
    Cut("a0.h1", 2),
    Cut("m0", 3, "neuron", 4),
    Cut("resid0", 3, "feature", 2),
    Cut("a1.h0", 4),
    Cut("m1", 6, "feature", 3, True),
)
NAMES = ("a", "S2", "b", "end")
SPANS = spans_of(NAMES, [([0, 1, 2, 3], [7, 8, 9, 9], [7, 5, 9, 9])], everywhere=False)
"""Of a prompt of four tokens, each a span of its own, of which the second differs."""
GRAPH = at_spans(part_graph(EDGES, "feature", CUTS), SPANS)


def at(name: str) -> set[str]:
    return {one.partition("@")[2] for one in GRAPH.edges if one.startswith(name)}


def test_parts_stand_where_they_can_matter() -> None:
    assert isinstance(GRAPH, PartSpanGraph) and GRAPH.unit == "part"
    assert at("input") == {"S2"}, "the input differs there alone"
    assert at("a0.h1") == at("m0.n3") == at("resid0.f1") == {"S2", "b", "end"}
    assert at("a1") == at("m1.f0") == at("m1.error") == {"end"}, "of the last layer"
    assert GRAPH.edges[:2] == ("input@S2", "a0.h0@S2")


@pytest.mark.parametrize("parallel", [False, True])
def test_a_node_has_gates_where_its_edges_have(parallel: bool) -> None:
    """All cuts but of the stream: at the spans of the edges out of the node."""
    base = Graph(2, 2, 2, parallel=parallel)
    cuts = tuple(Cut(name, writer) for writer, name in enumerate(base.writers))
    nodes, edges = at_spans(part_graph(base, "node", cuts), SPANS), span_graph(base, SPANS)
    of = {(edges.writers[w], s) for w, s in zip(edges.edge_writer, edges.edge_span, strict=True)}
    expected = {f"{name}@{NAMES[span]}" for name, span in {(n, int(s)) for n, s in of}}
    assert {*nodes.edges} == expected


def test_a_cut_stream_differs_where_anything_in_it_does() -> None:
    """In parallel layers the first MLP reads the input alone, and heads write behind it too."""
    base = Graph(2, 2, 2, parallel=True)
    cuts = Cut("m0", 3), Cut("resid0", 3)
    graph = at_spans(part_graph(base, "node", cuts), SPANS)
    assert graph.edges == ("m0@S2", "resid0@S2", "resid0@b", "resid0@end")


def test_names_positions_and_ends() -> None:
    assert [GRAPH.edge_index(name) for name in GRAPH.edges] == [*range(GRAPH.n_edges)]
    for cut, of in enumerate(CUTS):
        own = GRAPH.edges[GRAPH.parts(cut)]
        assert all(name.startswith(of.of) for name in own) and own
        assert {int(w) for w in GRAPH.edge_writer[GRAPH.parts(cut)]} == {of.writer}
        assert {int(c) for c in GRAPH.edge_cut[GRAPH.parts(cut)]} == {cut}
    assert {*GRAPH.edge_reader.tolist()} == {EDGES.n_readers - 1}
    assert "29 parts at spans (a, S2, b, end), level feature" in GRAPH.describe()
    for name, says in {
        "m0.n1": "'m1.error@span' with one of a, S2, b, end",
        "m0.n9@end": "no part 'm0.n9'",
        "m0.n1@a": "has no gate",
    }.items():
        with pytest.raises(GraphError, match=says):
            GRAPH.edge_index(name)


def test_without_spans_it_is_the_graph_of_parts() -> None:
    assert base_of(GRAPH) == part_graph(EDGES, "feature", CUTS)
    assert isinstance(at_spans(EDGES, SPANS), SpanGraph)
    assert not isinstance(at_spans(EDGES, SPANS), PartGraph)
    others = at_spans(part_graph(EDGES, "feature", CUTS[:3]), SPANS), base_of(GRAPH)
    assert not any(GRAPH.same_edges(one) or one.same_edges(GRAPH) for one in others)
    values = torch.arange(GRAPH.n_edges)
    assert torch.equal(grid_of(GRAPH, values, -1)[GRAPH.exists], values)
    assert GRAPH.ungrouped() is GRAPH and torch.equal(GRAPH.ungroup(values), values)


@pytest.mark.parametrize("ranked", [False, True])
def test_a_file_holds_parts_and_spans(tmp_path: Path, ranked: bool) -> None:
    mask = GRAPH.mask_of(["input@S2", "m0.n2@b", "m1.error@end"])
    scores = (torch.arange(float(GRAPH.n_edges)) - 4).where(mask, torch.nan)
    ranking = scores + 1 if ranked else None
    circuit = Circuit(GRAPH, mask, scores, {"task": "x"}, ranking, "eap")
    path = tmp_path / "circuit.json"
    circuit.save(path)
    found = Circuit.load(path)
    assert found == circuit and found.graph == GRAPH
    assert found.edges == ("input@S2", "m0.n2@b", "m1.error@end")
    assert Circuit.load(path, GRAPH) == circuit and circuit.nodes == ("input", "m0", "m1")
    for other in (EDGES, base_of(GRAPH), at_spans(EDGES, SPANS)):
        with pytest.raises(GraphError, match="expected a graph"):
            Circuit.load(path, other)
    with pytest.raises(GraphError, match="parts at spans; take 'circuitprune'"):
        circuit.save(path, "mib")


def test_the_table_tells_part_and_span(tmp_path: Path) -> None:
    circuit = Circuit.from_names(GRAPH, ["m0.n2@b", "m1.error@end"])
    write_edges_csv(tmp_path / "parts.csv", circuit)
    assert (tmp_path / "parts.csv").read_text() == (
        "part,writer,reader,kind,layer,span\n"
        "m0.n2,m0,logits,logits,2,b\nm1.error,m1,logits,logits,2,end\n"
    )


def test_selection_and_random_circuits() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(GRAPH.n_edges, generator=generator)
    mask = select(GRAPH, scores, 9)
    assert mask.sum() == 9 and torch.equal(live_edges(GRAPH, mask), mask)
    cells = cell_of_edges(GRAPH)
    for draw in (matched, relabelled):
        drawn = draw(GRAPH, mask, generator)
        assert torch.equal(cells[drawn].bincount(minlength=99), cells[mask].bincount(minlength=99))
    assert len(random_path(GRAPH, mask, generator)) == 1
    with pytest.raises(GraphError, match="greedy"):
        select(GRAPH, scores, 3, "greedy")
