"""Overlap of circuits, against sets, enumeration and scipy."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.overlap import (
    PairsSummary,
    chance_jaccard,
    consensus,
    core_and_private,
    edge_jaccard,
    majority,
    node_jaccard,
    overlap_at,
    overlaps,
    pairs_summary,
    plain,
    resampled_means,
    times_kept,
)
from circuitprune.errors import GraphError

GRAPHS = [Graph(2, 2, 2), Graph(2, 4, 2), Graph(2, 2, 2, parallel=True)]


def random_masks(graph: Graph, n: int, density: float = 0.3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, graph.n_edges, generator=generator) < density


def slow_jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else math.nan


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3])
def test_jaccard_is_that_of_the_sets_of_names(graph, density):
    circuits = [Circuit(graph, mask) for mask in random_masks(graph, 5, density)]
    masks = torch.stack([circuit.mask for circuit in circuits])
    edges, nodes = edge_jaccard(masks), node_jaccard(graph, masks)
    for i, j in product(range(5), repeat=2):
        a, b = circuits[i], circuits[j]
        wanted = [
            slow_jaccard(set(a.edges), set(b.edges)),
            slow_jaccard(set(a.nodes), set(b.nodes)),
        ]
        found = [edges[i, j].item(), nodes[i, j].item()]
        assert found == pytest.approx(wanted, nan_ok=True)
        assert math.isnan(found[0]) or found[0] == pytest.approx(a.jaccard(b))


def test_empty_circuits_are_no_sign_of_stability():
    graph = GRAPHS[0]
    some = random_masks(graph, 2, 0.5)
    nothing = torch.zeros_like(some)
    mixed = overlap_at(graph, torch.cat([some, nothing]), 9)
    share = edge_jaccard(some)[0, 1].item()
    assert mixed.edges.n_pairs == 5 and mixed.n_empty == 2
    assert mixed.edges.mean == pytest.approx(share / 5)  # four pairs share nothing
    assert mixed.edges.least == 0 <= mixed.edges.low <= mixed.edges.high <= share
    empty = overlap_at(graph, torch.cat([nothing, nothing]), 1)
    for part in (empty.edges, empty.nodes):
        assert part == PairsSummary(None, None, None, None, None, n_pairs=0)
    assert plain(edge_jaccard(torch.cat([some[:1], nothing[:1]]))) == ((1.0, 0.0), (0.0, None))
    row = overlaps(graph, dict(zip("ab", nothing, strict=True)))[0]
    assert row.edge_jaccard is row.node_jaccard is row.chance_edge_jaccard is None


def test_resampled_means_leave_out_a_copy_with_itself():
    jaccard = edge_jaccard(random_masks(GRAPHS[0], 4))
    draws = torch.tensor(list(product(range(4), repeat=4)))
    expected = []
    for draw in draws.tolist():
        pairs = [jaccard[a, b].item() for i, a in enumerate(draw) for b in draw[i + 1 :] if a != b]
        if pairs:
            expected.append(np.mean(pairs))
    found = resampled_means(jaccard, draws)
    assert len(found) == len(expected) == 4**4 - 4
    np.testing.assert_allclose(found, expected)


def test_the_interval_is_that_of_all_resamples_up_to_the_draws():
    jaccard = edge_jaccard(random_masks(GRAPHS[1], 5, seed=3))
    every = resampled_means(jaccard, torch.tensor(list(product(range(5), repeat=5)))).numpy()
    summary = pairs_summary(jaccard, n_resamples=40_000)
    upper = np.triu_indices(5, 1)
    assert summary.mean == pytest.approx(jaccard.numpy()[upper].mean())
    assert summary.least == jaccard.numpy()[upper].min()
    assert summary.largest == jaccard.numpy()[upper].max()
    assert summary.n_pairs == 10
    for value, tail in ((summary.low, 0.025), (summary.high, 0.975)):
        at = value + 1e-9 * np.array([-1, 1])  # few distinct means: a percentile is one of them
        below, up_to = (every < at[0]).mean(), (every < at[1]).mean()
        assert below - 0.005 <= tail <= up_to + 0.005
    assert summary.low < summary.mean < summary.high


def test_the_interval_covers_the_mean_of_many_runs():
    """Runs that keep each edge of a core with 0.9 and others with 0.1; 12 runs at a time."""
    rng = torch.Generator().manual_seed(0)
    chance = torch.full((200,), 0.1)
    chance[:40] = 0.9
    draw = lambda n: torch.rand(n, 200, generator=rng) < chance  # noqa: E731
    large = edge_jaccard(draw(2000))
    truth = ((large.sum() - 2000) / (2000 * 1999)).item()
    covered = 0
    for _ in range(200):
        found = pairs_summary(edge_jaccard(draw(12)), n_resamples=1000)
        covered += found.low <= truth <= found.high
    assert 0.82 <= covered / 200 <= 1.0


def test_two_runs_have_no_interval_and_one_no_overlap():
    jaccard = edge_jaccard(random_masks(GRAPHS[0], 2))
    summary = pairs_summary(jaccard)
    assert summary.low is summary.high is None
    assert summary.mean == summary.least == jaccard[0, 1].item()
    with pytest.raises(GraphError, match="needs two circuits"):
        pairs_summary(jaccard[:1, :1])


@pytest.mark.parametrize("sizes", [(50, 7, 5), (10, 8, 9), (1519, 15, 30), (6, 6, 6), (9, 0, 3)])
def test_chance_is_the_hypergeometric_mean(sizes):
    n, a, b = sizes
    shared = np.arange(0, min(a, b) + 1)
    expected = (hypergeom.pmf(shared, n, a, b) * shared / (a + b - shared)).sum()
    assert chance_jaccard(n, a, b) == pytest.approx(expected, rel=1e-6)


def test_chance_of_empty_circuits():
    assert chance_jaccard(10, 0, 0) is None


@pytest.mark.parametrize("graph", GRAPHS)
def test_consensus_keeps_what_half_of_the_runs_keep(graph):
    for n in (3, 4):
        masks = random_masks(graph, n, 0.6, seed=n)
        circuits = [set(Circuit(graph, mask).edges) for mask in masks]
        wanted = {e for e in graph.edges if sum(e in c for c in circuits) >= n / 2}
        assert set(Circuit(graph, consensus(graph, masks)).edges) == set(
            Circuit(graph, graph.mask_of(wanted)).trim().edges
        )
        assert times_kept(masks).tolist() == [sum(e in c for c in circuits) for e in graph.edges]


def test_the_majority_has_the_size_and_no_fewer_votes_than_what_it_leaves():
    graph = GRAPHS[0]
    masks = random_masks(graph, 5, 0.6)
    elected = majority(graph, masks, 20)
    assert int(elected.sum()) <= 20
    assert torch.equal(elected, Circuit(graph, elected).trim().mask)
    same = masks[:1].repeat(3, 1)
    live = Circuit(graph, masks[0]).trim()
    assert torch.equal(majority(graph, same, live.n_edges), live.mask)


def test_core_and_private_parts_are_set_algebra():
    graph = GRAPHS[0]
    masks = random_masks(graph, 3, 0.5)
    a, b, c = (set(Circuit(graph, mask).edges) for mask in masks)
    core, private = core_and_private(masks)
    assert set(Circuit(graph, core).edges) == a & b & c
    assert [set(Circuit(graph, p).edges) for p in private] == [a - b - c, b - a - c, c - a - b]


def test_overlaps_are_those_of_every_pair():
    graph = GRAPHS[0]
    masks = dict(zip("xyz", random_masks(graph, 3), strict=True))
    rows = overlaps(graph, masks)
    assert [(row.a, row.b) for row in rows] == [("x", "y"), ("x", "z"), ("y", "z")]
    x, y = (Circuit(graph, masks[name]) for name in "xy")
    assert rows[0].shared_edges == (x & y).n_edges
    assert rows[0].edge_jaccard == pytest.approx(x.jaccard(y))
    assert rows[0].chance_edge_jaccard == chance_jaccard(graph.n_edges, x.n_edges, y.n_edges)
