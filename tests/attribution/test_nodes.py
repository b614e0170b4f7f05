"""Nodes: scores of writers, and edge scores that cut out nodes."""

import pytest
import reference
import reference_attribution as slow
import torch
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
from circuitprune.attribution import METHODS, eap
from circuitprune.attribution.methods import names_with
from circuitprune.attribution.nodes import atp, lift, node_level, node_scores
from circuitprune.circuits.graph import Graph

GRAPHS = [Graph(3, 4, 4), Graph(3, 4, 2), Graph(2, 6, 2, parallel=True), Graph(1, 1, 1)]
every_graph = pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)


def scores_of(graph, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(graph.n_writers, generator=generator, dtype=torch.float64)


def metric_of(batch):
    return lambda logits: by_logit_diff(reference.at_last(logits, batch.last), batch).mean()


def test_node_scores_of_eap_are_gradients_at_the_writers_outputs(model, family, tolerance):
    references, batch = patched(model), pairs()
    expected = slow.node_scores_by_hooks(
        model, family, batch.clean, batch.corrupt, batch.mask, metric_of(batch)
    )
    graph = references.gated.graph
    scores = node_scores(graph, eap(references, [batch], by_logit_diff))
    assert_close(scores, torch.stack([expected[w] for w in graph.writers]), **tolerance)
    assert_close(node_level(eap)(references, [batch], by_logit_diff, 1), scores)
    assert scores.abs().min() > 1e-4


@every_graph
def test_node_scores_are_sums_over_out_edges(graph):
    values = torch.arange(graph.n_edges).double()
    for writer, score in zip(graph.writers, node_scores(graph, values), strict=True):
        own = [i for i, edge in enumerate(graph.edges) if edge.startswith(f"{writer}->")]
        assert score == sum(own)


@every_graph
@pytest.mark.parametrize("seed", range(3))
def test_edges_above_a_threshold_are_the_edges_among_the_nodes_above_it(graph, seed):
    nodes = scores_of(graph, seed)
    edges = lift(graph, nodes)
    for threshold in nodes[1:].abs().tolist():
        kept = {w for w, s in zip(graph.writers, nodes, strict=True) if s.abs() >= threshold}
        assert (edges.abs() >= threshold).equal(slow.node_circuit(graph, kept))


@every_graph
def test_an_edge_has_the_sign_and_size_of_its_weaker_end(graph):
    nodes = scores_of(graph, 4)
    edges = lift(graph, nodes)
    for name in ("a0.h0->m0",) if not graph.parallel else ("a0.h1->a1.h0<q>",):
        ends = [name.split("->")[0], name.split("->")[1].removesuffix("<q>")]
        values = [nodes[graph.writer_index(end)] for end in ends]
        assert edges[graph.edge_index(name)] == min(values, key=abs)
    head = nodes[graph.head_writer(0, 0)]
    assert edges[graph.edge_index("input->a0.h0<q>")] == head
    assert edges[graph.edge_index("a0.h0->logits")] == head
    assert edges[graph.edge_index("input->logits")] == -nodes[1:].abs().max()


def test_a_shared_key_belongs_to_the_strongest_head_of_its_group():
    graph = Graph(1, 4, 2)
    nodes = torch.tensor([0.0, 1.0, -5.0, 2.0, 0.5, 3.0])  # input, h0 .. h3, m0
    edges = lift(graph, nodes)
    assert edges[graph.edge_index("input->a0.kv0<k>")] == -5
    assert edges[graph.edge_index("input->a0.kv1<v>")] == 2
    assert edges[graph.edge_index("input->a0.h3<q>")] == 0.5


def test_nodes_that_were_not_scored_have_edges_that_are_not():
    graph = Graph(2, 2, 2)
    nodes = scores_of(graph)
    nodes[graph.writer_index("a1.h0")] = torch.nan
    missing = [i for i, name in enumerate(graph.edges) if "a1.h0" in name]
    unknown = lift(graph, nodes).isnan()
    assert unknown.nonzero().flatten().tolist() == missing


def test_the_lifted_methods(tiny_model):
    references, graph = patched(tiny_model("llama")), patched(tiny_model("llama")).gated.graph
    for name, under, steps in (("atp", "eap", 1), ("atp_ig", "eap_ig_inputs_right", 3)):
        edges = METHODS[under].score(references, [pairs()], by_logit_diff, steps)
        scores = METHODS[name].score(references, [pairs()], by_logit_diff, steps)
        assert_close(scores, lift(graph, node_scores(graph, edges)))
    assert METHODS["atp"].score is atp


@pytest.mark.parametrize("name", names_with("nodes"))
def test_a_lifted_method_names_the_node_scores_that_it_lifts(tiny_model, name):
    references = patched(tiny_model("llama"))
    graph, given = references.gated.graph, ([pairs()], by_logit_diff, 2)
    nodes = METHODS[name].score_nodes(references, *given)
    edges = METHODS[name].score(references, *given)
    assert_close(edges, lift(graph, nodes))
    back = node_scores(graph, edges)  # no way back: the sum orders the nodes otherwise
    assert back.abs().argsort().tolist() != nodes.abs().argsort().tolist()


def test_every_method_is_known_to_score_nodes_or_not_to():
    others = {"exact", "exact_denoising", "eap_qk", "random", "acdc"}
    unsigned = {name for name, method in METHODS.items() if not method.signed}
    kinds = [names_with("additive"), names_with("nodes"), unsigned, others]
    assert sorted(METHODS) == sorted(name for kind in kinds for name in kind)


@pytest.mark.parametrize("name", ["eap", "gate_ig"])
def test_scores_that_add_up_are_those_of_one_gate_for_all_out_edges(tiny_model, name):
    references, batch, steps = patched(tiny_model("llama")), pairs(), 3
    gated, graph = references.gated, references.gated.graph
    opens = [1.0] if name == "eap" else [(k + 0.5) / steps for k in range(steps)]
    expected = torch.zeros(graph.n_writers, dtype=gated.dtype)
    for value in opens:
        shared = torch.full_like(expected, value, requires_grad=True)
        gates = shared[graph.edge_writer]
        logits = gated(gates, batch.clean, batch.mask, references.ablated(batch), batch.last)
        by_logit_diff(logits, batch).mean().backward()
        expected -= shared.grad / len(opens)
    edges = METHODS[name].score(references, [batch], by_logit_diff, steps)
    assert_close(node_scores(graph, edges), expected)
