"""Counts against the formulas, names against plain loops, and the two ways to count K and V."""

import pytest
import reference_graph
import torch
from golden_numbers import numbers

from circuitprune.circuits.graph import Graph
from circuitprune.errors import GraphError

each_graph = pytest.mark.parametrize("graph", reference_graph.GRAPHS, ids=Graph.describe)


def formula(n_layers, n_heads, n_kv, parallel=False):
    """Count of ARCHITECTURE: sum of (H + 2 KV) w_l + (w_l + H), plus W."""
    total = 1 + n_layers * (n_heads + 1)
    for layer in range(n_layers):
        upstream = 1 + (n_heads + 1) * layer
        total += (n_heads + 2 * n_kv) * upstream + upstream + (0 if parallel else n_heads)
    return total


@pytest.mark.parametrize(
    ("sizes", "edges", "ungrouped"),
    [
        ((12, 12, 12), 32_491, 32_491),  # GPT-2 small
        ((24, 14, 2), 79_813, 179_749),  # Qwen2.5-0.5B
        ((5, 8, 4), 1_701, 2_461),  # stories260k
    ],
)
def test_known_counts(sizes, edges, ungrouped):
    graph = Graph(*sizes)
    assert graph.n_edges == formula(*sizes) == edges
    assert graph.n_edges_ungrouped == formula(sizes[0], sizes[1], sizes[1]) == ungrouped


@each_graph
def test_counts_agree_with_formulas(graph):
    args = graph.n_layers, graph.n_heads, graph.n_kv_readers
    assert graph.n_edges == len(graph.edges) == formula(*args, graph.parallel)
    assert graph.n_writers == len(graph.writers) == 1 + args[0] * (args[1] + 1)
    assert graph.n_readers == len(graph.readers) == args[0] * (args[1] + 2 * args[2] + 1) + 1


@each_graph
def test_edges_are_those_of_the_loop_in_its_order(graph):
    assert list(graph.edges) == reference_graph.edge_names(graph)


@each_graph
def test_names_and_indices_are_one_to_one(graph):
    assert [graph.edge_index(name) for name in graph.edges] == list(range(graph.n_edges))
    assert [graph.writer_index(name) for name in graph.writers] == list(range(graph.n_writers))
    assert [graph.reader_index(name) for name in graph.readers] == list(range(graph.n_readers))
    for edge, name in enumerate(graph.edges):
        writer, reader = graph.edge_writer[edge], graph.edge_reader[edge]
        assert name == f"{graph.writers[writer]}->{graph.readers[reader]}"


@each_graph
def test_blocks_tile_the_edges_and_views_share_memory(graph):
    values = torch.zeros(graph.n_edges)
    covered = []
    for block in graph.blocks:
        view = graph.block_view(values, block)
        assert view.shape == (block.n_readers, block.n_writers)
        view += 1
        covered += range(block.edges.start, block.edges.stop)
        for reader in range(block.readers.start, block.readers.stop):
            assert graph.block_of_reader(reader) == block
    assert covered == list(range(graph.n_edges)) and values.eq(1).all()
    assert graph.blocks[-1] == graph.logits_block
    for layer in range(graph.n_layers):
        assert graph.attention_block(layer).kind == "attention"
        assert graph.mlp_block(layer).kind == "mlp"
        assert graph.attention_block(layer).layer == graph.mlp_block(layer).layer == layer


@each_graph
def test_layers_kinds_and_heads_follow_from_the_names(graph):
    for reader, name in enumerate(graph.readers):
        node, _, port = name.partition("<")
        kind = port[0] if port else ("logits" if node == "logits" else "mlp")
        assert graph.reader_kind[reader] == kind
        layer = graph.n_layers if node == "logits" else int(node[1:].split(".")[0])
        assert graph.reader_layer[reader] == layer
        fed = [graph.writers[writer] for writer in graph.heads_of_reader(reader)]
        assert fed == ([] if node == "logits" else reference_graph.nodes_of_reader(graph, name))
    for writer, name in enumerate(graph.writers):
        layer = -1 if name == "input" else int(name[1:].split(".")[0])
        assert graph.writer_layer[writer] == layer


def test_parallel_mlp_does_not_read_its_own_heads():
    assert "a0.h0->m0" in Graph(2, 2, 2).edges
    assert "a0.h0->m0" not in Graph(2, 2, 2, parallel=True).edges
    assert "a0.h0->m1" in Graph(2, 2, 2, parallel=True).edges


def test_a_query_head_names_its_kv_reader():
    graph = Graph(2, 4, 2)
    for head in range(4):
        for port in "kv":
            name = f"input->a1.h{head}<{port}>"
            assert graph.edges[graph.edge_index(name)] == f"input->a1.kv{head // 2}<{port}>"
    assert graph.edges[graph.edge_index("input->a1.h3<q>")] == "input->a1.h3<q>"


@each_graph
def test_ungroup_repeats_each_edge_for_its_query_heads(graph):
    values = torch.arange(graph.n_edges)
    whole = graph.ungrouped()
    spread = graph.ungroup(values)
    assert spread.shape == (whole.n_edges,)
    for name, value in zip(whole.edges, spread.tolist(), strict=True):
        assert graph.edge_index(name) == value
    if graph.n_kv_readers == graph.n_heads:
        assert torch.equal(spread, values)


def test_mask_of_marks_exactly_the_names():
    graph = Graph(2, 2, 2)
    names = ["m0->logits", "input->a0.h1<v>"]
    assert {graph.edges[i] for i in graph.mask_of(names).nonzero().flatten()} == set(names)
    assert not graph.mask_of([]).any()


NOT_EDGES = """
->| input->|->m0|input-> m0|input|input->a0.h2<q>|input->a0.h00<k>|input->a0.h0<x>|logits->m0
m0->m0|m1->m0|a0.h0->a0.h1<q>|input->m0->logits|input->a0.kv0<q>|<script>->m0
"""


@pytest.mark.parametrize(
    "name",
    ["", "input->m0\n", "input->a0.h\uff11<k>", *NOT_EDGES.strip().replace("\n", "|").split("|")],
)
@pytest.mark.parametrize("graph", [Graph(2, 2, 2), Graph(2, 2, 1)], ids=["mha", "gqa"])
def test_names_that_are_no_edges_are_refused(graph, name):
    with pytest.raises(GraphError):
        graph.edge_index(name)


def test_messages_say_what_was_seen_and_what_is_expected():
    graph = Graph(2, 4, 2)
    with pytest.raises(
        GraphError, match=r"no writer 'a9\.h0' in a graph of 2 layers, 4 heads, 2 KV"
    ):
        graph.edge_index("a9.h0->m1")
    with pytest.raises(GraphError, match="m1 is not upstream of m0"):
        graph.edge_index("m1->m0")


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 4, 3), (1, 2, 4)])
def test_sizes_that_no_model_has_are_refused(sizes):
    with pytest.raises(GraphError):
        Graph(*sizes)


def test_edges_are_those_of_eap_ig():
    assert sorted(Graph(4, 4, 4).edges) == sorted(numbers()["edges"])


@each_graph
def test_positions_of_edges_and_heads_are_those_of_their_names(graph):
    for edge in range(0, graph.n_edges, 7):
        writer, reader = int(graph.edge_writer[edge]), int(graph.edge_reader[edge])
        assert graph.edge_at(writer, reader) == edge
        assert graph.edge_name(edge) == graph.edges[edge]
    for layer in range(graph.n_layers):
        names = graph.writers[graph.heads(layer)]
        assert names == tuple(f"a{layer}.h{head}" for head in range(graph.n_heads))


def test_the_same_edges_are_those_of_the_same_sizes():
    graph = Graph(2, 4, 2)
    assert graph.same_edges(Graph(2, 4, 2, d_model=9)) and not graph.same_edges(graph.ungrouped())
    assert not graph.same_edges(Graph(2, 4, 2, parallel=True))
    assert not graph.no_edges().any() and graph.no_edges().shape == (graph.n_edges,)
