"""Graphs of parts: names, sizes, selection, files."""

import json

import pytest
import torch

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import Cut, part_graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import select
from circuitprune.errors import GraphError

EDGES = Graph(2, 2, 1, d_model=8)
CUTS = (
    Cut("input", 0),
    Cut("a0.h0", 1),
    Cut("m0", 3, "neuron", 4),
    Cut("m1", 6, "feature", 3, True),
)
GRAPH = part_graph(EDGES, "neuron", CUTS)


def test_names_and_positions() -> None:
    names = ("input", "a0.h0", "m0.n0", "m0.n1", "m0.n2", "m0.n3", "m1.f0", "m1.f1", "m1.error")
    assert GRAPH.edges == names and GRAPH.n_edges == GRAPH.n_edges_ungrouped == 9
    assert [GRAPH.edge_index(name) for name in names] == [*range(9)]
    assert [GRAPH.edge_name(i) for i in range(9)] == [*names]
    assert GRAPH.edge_writer.tolist() == [0, 1, 3, 3, 3, 3, 6, 6, 6]
    assert GRAPH.parts(2) == slice(2, 6)
    assert GRAPH.reader_layer.tolist() == EDGES.reader_layer.tolist()


def test_unknown_parts_and_wrong_cuts_are_refused() -> None:
    with pytest.raises(GraphError, match=r"no part 'm0.n4'.*'input', 'm1.error'"):
        GRAPH.edge_index("m0.n4")
    for cuts in ((), (CUTS[0], CUTS[0]), (Cut("m9", 7),), (Cut("m0", 3, "neuron", 0),)):
        with pytest.raises(GraphError):
            part_graph(EDGES, "neuron", cuts)
    with pytest.raises(GraphError, match="level node, neuron or feature"):
        part_graph(EDGES, "edge", CUTS)


def test_other_cuts_are_other_graphs() -> None:
    assert not GRAPH.same_edges(EDGES) and not EDGES.same_edges(GRAPH)
    assert not GRAPH.same_edges(part_graph(EDGES, "neuron", CUTS[:3]))
    assert GRAPH.same_edges(part_graph(Graph(2, 2, 1), "neuron", CUTS))


def test_the_best_parts_are_taken_and_none_dangles() -> None:
    scores = torch.tensor([0.0, 5, 1, 9, 2, 0, 7, 3, 4])
    mask = select(GRAPH, scores, 3)
    assert [GRAPH.edge_name(i) for i in mask.nonzero().flatten().tolist()] == [
        "a0.h0",
        "m0.n1",
        "m1.f0",
    ]
    assert torch.equal(live_edges(GRAPH, mask), mask)
    assert Circuit(GRAPH, mask).nodes == ("a0.h0", "m0", "m1")
    with pytest.raises(GraphError, match="greedy"):
        select(GRAPH, scores, 3, "greedy")


@pytest.mark.parametrize("ranking", [None, torch.arange(9.0)])
def test_a_circuit_of_parts_goes_through_a_file(tmp_path, ranking) -> None:
    mask = GRAPH.mask_of(["input", "m0.n2", "m1.error"])
    circuit = Circuit(GRAPH, mask, torch.arange(9.0) - 4, {"task": "ioi"}, ranking, "eap")
    path = tmp_path / "circuit.json"
    circuit.save(path)
    read = Circuit.load(path)
    assert read.graph == GRAPH and torch.equal(read.mask, mask)
    assert read.edges == ("input", "m0.n2", "m1.error")
    read.save(tmp_path / "again.json")
    assert json.loads(path.read_text()) == json.loads((tmp_path / "again.json").read_text())
    for format in ("mib", "edge_pruning"):
        with pytest.raises(GraphError, match="is of edges, and this circuit is of parts"):
            circuit.save(tmp_path / "other.json", format)
    with pytest.raises(GraphError, match="expected a graph of 2 layers"):
        Circuit.load(path, EDGES)


@pytest.mark.parametrize(
    "damage", [{"level": 3}, {"cuts": 1}, {"cuts": [{"of": "m0"}]}, {"level": "edge"}]
)
def test_a_damaged_file_is_refused(tmp_path, damage) -> None:
    path = tmp_path / "circuit.json"
    Circuit(GRAPH, GRAPH.mask_of(["input"])).save(path)
    value = json.loads(path.read_text())
    value["circuitprune"]["graph"] |= damage
    path.write_text(json.dumps(value))
    with pytest.raises(GraphError):
        Circuit.load(path)


def test_the_table_names_parts(tmp_path) -> None:
    write_edges_csv(tmp_path / "parts.csv", GRAPH, {"score": torch.arange(9.0)})
    lines = (tmp_path / "parts.csv").read_text().splitlines()
    assert lines[0] == "part,writer,reader,kind,layer,score"
    assert lines[4] == "m0.n1,m0,logits,logits,2,3.0"
