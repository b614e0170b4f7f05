"""Selection against brute force over all prefixes, and greedy growth against a plain loop."""

import pytest
import reference_graph
import torch
from golden_numbers import numbers
from golden_numbers import scores as golden_scores

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import (
    n_edges_of,
    rank,
    select,
    select_ranked,
    select_threshold,
)
from circuitprune.errors import GraphError

SMALL = [graph for graph in reference_graph.GRAPHS if graph.n_edges < 110]
each_graph = pytest.mark.parametrize("graph", SMALL, ids=Graph.describe)
each_seed = pytest.mark.parametrize("seed", range(3))


def random_scores(graph, seed):
    return torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(seed))


def names(graph, mask):
    return {graph.edges[i] for i in mask.nonzero().flatten().tolist()}


def ranking_by_score(graph, scores):
    return sorted(graph.edges, key=lambda name: -scores[graph.edge_index(name)].item())


@each_graph
@each_seed
def test_top_n_is_the_largest_prefix_within_the_budget(graph, seed):
    scores = random_scores(graph, seed)
    ranking = ranking_by_score(graph, scores)
    for n_edges in (0, 1, 2, 5, 11, graph.n_edges // 2, graph.n_edges - 1, graph.n_edges):
        expected = reference_graph.top_n(graph, ranking, n_edges)
        assert names(graph, select(graph, scores, n_edges)) == expected


@each_graph
@each_seed
def test_greedy_is_the_plain_loop(graph, seed):
    scores = random_scores(graph, seed)
    named = dict(zip(graph.edges, scores.tolist(), strict=True))
    ranking = reference_graph.greedy_ranking(graph, named)
    assert [graph.edges[i] for i in rank(graph, scores, "greedy")] == ranking
    for n_edges in (0, 1, 5, graph.n_edges // 2, graph.n_edges):
        expected = reference_graph.top_n(graph, ranking, n_edges)
        assert names(graph, select(graph, scores, n_edges, "greedy")) == expected


@each_graph
def test_the_two_rankings_differ_only_in_order(graph):
    scores = random_scores(graph, 0)
    orders = [rank(graph, scores, method) for method in ("top_n", "greedy")]
    assert all(torch.equal(o.sort().values, torch.arange(graph.n_edges)) for o in orders)
    assert graph.n_edges < 10 or not torch.equal(*orders)


@each_graph
@each_seed
def test_top_n_raw_takes_n_first_and_trims_after(graph, seed):
    scores = random_scores(graph, seed)
    for n_edges in (0, 3, graph.n_edges // 3, graph.n_edges + 5):
        expected = reference_graph.trim(graph, ranking_by_score(graph, scores)[:n_edges])
        assert names(graph, select(graph, scores, n_edges, "top_n_raw")) == expected


def test_top_n_raw_is_what_eap_ig_takes_and_prunes():
    graph, ran, exact = Graph(4, 4, 4), numbers()["evaluate_graph"], golden_scores("exact")
    sizes = torch.tensor([exact[name] for name in graph.edges], dtype=torch.float64).abs()
    assert len(ran["requested_edges"]) == 100 and len(ran["edges_after_prune"]) == 88
    assert names(graph, select(graph, sizes, 100, "top_n_raw")) == set(ran["edges_after_prune"])
    assert live_edges(graph, graph.mask_of(ran["requested_edges"])).sum() == 88
    assert select(graph, sizes, 100).sum() > 95  # the budget is not spent on dangling edges


@each_graph
@each_seed
def test_threshold_keeps_scores_from_the_threshold_on(graph, seed):
    scores = random_scores(graph, seed)
    threshold = scores.sort().values[graph.n_edges // 3].item()
    kept = [n for n in graph.edges if scores[graph.edge_index(n)] >= threshold]
    assert len(kept) == graph.n_edges - graph.n_edges // 3
    assert names(graph, select_threshold(graph, scores, threshold)) == reference_graph.trim(
        graph, kept
    )
    assert not select_threshold(graph, scores, float("inf")).any()
    assert select_threshold(graph, scores, float("-inf")).all()


@pytest.mark.parametrize("method", ["top_n", "greedy", "top_n_raw"])
def test_results_are_live_nested_and_within_the_budget(method):
    graph = Graph(4, 4, 2)
    scores, last = random_scores(graph, 1), torch.zeros(graph.n_edges, dtype=torch.bool)
    for n_edges in (0, 10, 40, 100, 300, graph.n_edges, graph.n_edges + 1):
        mask = select(graph, scores, n_edges, method)
        assert mask.dtype == torch.bool and mask.sum() <= n_edges
        assert torch.equal(live_edges(graph, mask), mask) and not (last & ~mask).any()
        last = mask
    assert last.all()
    assert not select(graph, scores, 0, method).any()


def test_the_budget_counts_live_edges_only():
    graph = Graph(2, 1, 1)
    path = ["input->m0", "m0->logits"]
    dangling = ["a0.h0->m1", "a0.h0->a1.h0<q>", "input->a0.h0<k>"]
    scores = torch.zeros(graph.n_edges)
    for i, name in enumerate([*dangling, *path]):
        scores[graph.edge_index(name)] = 9.0 - i
    assert names(graph, select(graph, scores, 2)) == set(path)
    assert not select(graph, scores, 2, "top_n_raw").any()


def test_scores_are_signed():
    graph = Graph(1, 1, 1)
    scores = torch.zeros(graph.n_edges)
    scores[graph.edge_index("input->logits")] = -5.0
    assert "input->logits" not in names(graph, select(graph, scores, graph.n_edges - 1))
    assert names(graph, select(graph, scores.abs(), 1)) == {"input->logits"}


@pytest.mark.parametrize("method", ["top_n", "greedy"])
def test_ties_go_to_the_first_edge(method):
    graph = Graph(2, 2, 2)
    order = rank(graph, torch.zeros(graph.n_edges), method)
    if method == "top_n":
        assert torch.equal(order, torch.arange(graph.n_edges))
    else:
        block = graph.logits_block.edges
        assert order[0] == block.start


def test_ranking_once_gives_the_same_circuits():
    graph = Graph(3, 4, 2)
    scores = random_scores(graph, 2)
    for method in ("top_n", "greedy"):
        order = rank(graph, scores, method)
        for n_edges in (7, 70):
            once = select_ranked(graph, order, n_edges)
            assert torch.equal(once, select(graph, scores, n_edges, method))


def test_what_cannot_be_ranked_is_refused():
    graph = Graph(1, 2, 2)
    scores = torch.zeros(graph.n_edges)
    nan = scores.clone().index_fill_(0, torch.tensor([2, 4]), torch.nan)
    for method in ("top_n", "greedy", "top_n_raw"):
        with pytest.raises(GraphError, match="2 of 13 scores are NaN"):
            select(graph, nan, 3, method)
        with pytest.raises(GraphError, match=r"shape \(5,\), expected \(13,\)"):
            select(graph, scores[:5], 3, method)
        with pytest.raises(GraphError, match="cannot have -1 edges"):
            select(graph, scores, -1, method)
    with pytest.raises(GraphError, match="2 of 13 scores are NaN"):
        select_threshold(graph, nan, 0.0)


def test_infinite_scores_have_a_rank():
    graph = Graph(1, 1, 1)
    scores = torch.full((graph.n_edges,), -torch.inf)
    scores[graph.edge_index("input->logits")] = torch.inf
    assert names(graph, select(graph, scores, 1)) == {"input->logits"}


@each_graph
def test_a_fraction_of_the_edges_is_that_many_of_them(graph):
    """Of each whole number, though `n * (k / n)` may fall just below k."""
    for k in range(1, graph.n_edges + 1):
        assert n_edges_of(graph, k / graph.n_edges) == k
    assert n_edges_of(graph, 0.999 / graph.n_edges) == 1  # at least one
    assert n_edges_of(graph, (graph.n_edges - 0.01) / graph.n_edges) == max(1, graph.n_edges - 1)
