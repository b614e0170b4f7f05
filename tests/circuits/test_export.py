"""Tables and DOT text hold what the circuit holds, and nothing in them is run."""

import csv
import re

import pytest
import reference_graph
import torch

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import to_dot, write_edges_csv
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import KIND_COLOURS
from circuitprune.errors import GraphError

each_graph = pytest.mark.parametrize("graph", reference_graph.GRAPHS, ids=Graph.describe)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def some_circuit(graph, **provenance):
    gen = torch.Generator().manual_seed(0)
    return Circuit(graph, torch.rand(graph.n_edges, generator=gen) < 0.4, None, provenance)


@each_graph
def test_csv_of_a_circuit_has_its_kept_edges_with_their_values(graph, tmp_path):
    circuit = some_circuit(graph)
    score = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(1))
    write_edges_csv(
        tmp_path / "e.csv", circuit, {"score": score, "size": torch.arange(graph.n_edges)}
    )
    rows = read(tmp_path / "e.csv")
    assert tuple(f"{row['writer']}->{row['reader']}" for row in rows) == circuit.edges
    for row in rows:
        edge = graph.edge_index(f"{row['writer']}->{row['reader']}")
        assert list(row) == ["writer", "reader", "kind", "layer", "score", "size"]
        assert torch.tensor(float(row["score"])) == score[edge] and int(row["size"]) == edge
        node, _, port = row["reader"].partition("<")
        assert row["kind"] == (port[:1] or ("logits" if node == "logits" else "mlp"))
        layer = graph.n_layers if node == "logits" else int(re.findall(r"\d+", node)[0])
        assert int(row["layer"]) == layer


def test_csv_of_a_graph_has_every_edge(tmp_path):
    graph = Graph(2, 2, 1)
    write_edges_csv(tmp_path / "e.csv", graph)
    assert [f"{r['writer']}->{r['reader']}" for r in read(tmp_path / "e.csv")] == list(graph.edges)


def test_csv_of_an_empty_circuit_is_a_header(tmp_path):
    write_edges_csv(tmp_path / "e.csv", Circuit.from_names(Graph(1, 1, 1), []))
    assert (tmp_path / "e.csv").read_text() == "writer,reader,kind,layer\n"


def test_csv_cells(tmp_path):
    graph = Graph(1, 1, 1)
    circuit = Circuit.from_names(graph, ["input->m0", "input->logits"])
    value = torch.full((graph.n_edges,), -0.5, dtype=torch.float64)
    value[graph.edge_index("input->logits")] = torch.nan
    columns = {"=cmd()": value, '@a,"b"': circuit.mask, "plain": torch.zeros(graph.n_edges)}
    write_edges_csv(tmp_path / "e.csv", circuit, columns)
    assert (tmp_path / "e.csv").read_text().splitlines() == [
        'writer,reader,kind,layer,\'=cmd(),"\'@a,""b""",plain',
        "input,m0,mlp,0,-0.5,1,0.0",
        "input,logits,logits,1,,1,0.0",
    ]


def test_csv_refuses_columns_of_another_length(tmp_path):
    with pytest.raises(GraphError, match=r"column 'score' has shape \(3,\), expected \(\d+,\)"):
        write_edges_csv(tmp_path / "e.csv", Graph(1, 1, 1), {"score": torch.zeros(3)})
    assert not (tmp_path / "e.csv").exists()


DOT_EDGE = r'^  "(.+)" -> "(.+)" \[color="(#\w{6})", penwidth=(\d\.\d\d)\];$'


@each_graph
def test_dot_has_the_nodes_and_edges_by_query_head(graph):
    circuit = some_circuit(graph)
    text, whole = to_dot(circuit), circuit.ungrouped()
    edges = re.findall(DOT_EDGE, text, re.MULTILINE)
    expected = [name.partition("<")[0].split("->") for name in whole.edges]
    assert [[writer, node] for writer, node, *_ in edges] == expected
    kinds = [whole.graph.reader_kind[r] for r in whole.graph.edge_reader[whole.mask].tolist()]
    assert [colour for *_, colour, _ in edges] == [KIND_COLOURS[kind] for kind in kinds]
    ranks = [re.findall(r'"(.+?)";', line) for line in text.splitlines() if "rank=same" in line]
    assert sorted(name for rank in ranks for name in rank) == sorted(whole.nodes)
    assert text.startswith("digraph circuit {\n") and text.endswith("}\n")


def test_dot_ranks_layers_from_the_input_up():
    edges = ["input->a0.h0<q>", "input->a0.h1<v>", "a0.h0->m0", "m0->a1.h1<k>", "a1.h1->logits"]
    for parallel, ranks in (
        (False, [["input"], ["a0.h0", "a0.h1"], ["m0"], ["a1.h1"], ["logits"]]),
        (True, [["input"], ["a0.h0", "a0.h1", "m0"], ["a1.h1"], ["logits"]]),
    ):
        kept = [name for name in edges if not (parallel and name == "a0.h0->m0")]
        kept += ["input->m0"] if parallel else []
        text = to_dot(Circuit.from_names(Graph(2, 2, 2, parallel=parallel), kept))
        found = [re.findall(r'"(.+?)";', line) for line in text.splitlines() if "rank=same" in line]
        assert found == ranks
        chain = " -> ".join(f'"{rank[0]}"' for rank in ranks)
        assert f"  {chain} [style=invis];" in text.splitlines()


def test_dot_is_this_text():
    graph = Graph(1, 1, 1)
    mask, scores = graph.mask_of(["input->m0", "m0->logits"]), torch.zeros(graph.n_edges)
    scores[graph.edge_index("m0->logits")] = 3.0
    assert to_dot(Circuit(graph, mask, scores, {"model": "tiny", "task": "ioi"})).splitlines() == [
        "digraph circuit {",
        "  rankdir=BT;",
        '  label="tiny, ioi";',
        '  node [shape=box, style=rounded, fontname="Helvetica"];',
        '  "input" [label="input"];',
        '  "m0" [label="MLP 0"];',
        '  "logits" [label="logits"];',
        '  { rank=same; "input"; }',
        '  { rank=same; "m0"; }',
        '  { rank=same; "logits"; }',
        '  "input" -> "m0" -> "logits" [style=invis];',
        '  "input" -> "m0" [color="#b86e00", penwidth=0.80];',
        '  "m0" -> "logits" [color="#59626e", penwidth=3.80];',
        "}",
    ]


def test_dot_escapes_its_title():
    circuit = some_circuit(Graph(1, 1, 1), model='a"]; x -> y; \\', task="t\n\u202e\x00")
    title = next(one for one in to_dot(circuit).splitlines() if "label" in one)
    assert title == '  label="a\\"]; x -> y; \\\\, t \\\\u202e\\\\u0000";'
