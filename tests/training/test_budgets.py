"""Budgets against their distributions, and what a budget of live edges keeps."""

import math

import pytest
import reference_graph
import scipy.stats
import torch

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges, live_from
from circuitprune.errors import ConfigError
from circuitprune.training.budgets import (
    AGREEMENT,
    AT_SIZES,
    NEAR,
    PROBES,
    SCHEDULES,
    Budgets,
)
from circuitprune.training.gates import TopK, best_first, places

N = 400


CUT = [12.0, 60.0, 150.0, float(N)]


def drawn(schedule, k_min=8.0, k_max=400.0, n=4000):
    budgets = Budgets(k_min, k_max, N, schedule, CUT)
    places_ = torch.rand(n, generator=torch.Generator().manual_seed(0)).tolist()
    return torch.tensor([budgets.at(u) for u in places_], dtype=torch.float64)


def log_place(k, low=8.0, high=400.0):
    return (k / low).log() / math.log(high / low)


def is_uniform(values):
    return scipy.stats.kstest(values.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_budget_passes_the_number_of_edges(schedule):
    """`exp(log 110)` is 110.00000000000004, of which the ceiling is one edge too many."""
    for n_edges in range(8, 140):
        budgets = Budgets(4.0, float(n_edges), n_edges, schedule, [2.0, 6.0, n_edges - 0.5])
        assert all(4 - 1e-9 <= budgets.at(u) <= n_edges for u in (0.0, 0.5, 0.999999, 1.0))


def test_each_schedule_has_its_distribution():
    assert is_uniform(log_place(drawn("log_uniform")))
    assert is_uniform((drawn("uniform") - 8) / 392)
    both = drawn("log_both", k_max=200.0)  # the halves do not overlap
    assert is_uniform(log_place(both[both <= 200], high=200.0))
    assert is_uniform(log_place(N - both[both > 200], high=200.0))
    assert abs((both <= 200).double().mean() - 0.5) < 0.05
    adaptive = drawn("adaptive")  # at first the largest is k_max
    assert is_uniform(log_place(adaptive[adaptive < 399.9]))
    assert abs((adaptive > 399.9).double().mean() - PROBES) < 0.05


def test_most_budgets_lie_near_the_sizes_that_are_cut():
    """Each size as often; the whole graph, at which nothing can be learned, not at all."""
    found = drawn("at_sizes", n=8000)
    near = torch.stack([(found / size).log().abs() <= NEAR for size in CUT[:3]])
    chance = 2 * NEAR / math.log(400 / 8) * (1 - AT_SIZES)
    assert (near.double().mean(1) - (AT_SIZES / 3 + chance)).abs().max() < 0.02
    assert is_uniform(((found[near[1]] / 60).log() / NEAR + 1) / 2)
    others = found[~near.any(0)]
    assert others.min() < 9 and others.max() > 380


def test_at_sizes_keeps_within_the_limits_and_needs_a_size():
    budgets = Budgets(8.0, 100.0, N, "at_sizes", [2.0, 300.0])
    assert {budgets.at(0.1), budgets.at(0.6)} == {8.0, 100.0}
    for cut in ([], [float(N)]):
        with pytest.raises(ConfigError, match=r"at_sizes needs one of verify\.sizes below 1"):
            Budgets(8.0, 100.0, N, "at_sizes", cut)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sizes_are_the_distribution_and_within_the_limits(schedule):
    sizes, found = Budgets(8.0, 200.0, N, schedule, CUT).sizes(), drawn(schedule, k_max=200.0)
    assert scipy.stats.ks_2samp(sizes.numpy(), found.numpy()).pvalue > 0.01
    assert (sizes.diff() >= 0).all() and sizes[0] >= 8 and sizes[-1] <= N


def test_adaptive_finds_the_size_at_which_circuit_and_model_agree():
    """Of a model whose circuits agree on a share that grows with their logarithm."""
    budgets = Budgets(8.0, 400.0, N, "adaptive")
    for step in range(2000):
        k = budgets.at(1.0)
        noise = torch.rand((), generator=torch.Generator().manual_seed(step)).item() - 0.5
        budgets.agreed(log_place(torch.tensor(k)).item() * 1.9 + 0.2 * noise)
    assert log_place(torch.tensor(budgets.at(1.0))).item() == pytest.approx(
        AGREEMENT / 1.9, abs=0.05
    )
    assert set(budgets.state_dict()) == {"top", "probes"}  # a resumed run goes on from there


def test_adaptive_stays_within_the_limits():
    budgets = Budgets(8.0, 100.0, N, "adaptive")
    for share, limit in ((0.0, 100.0), (1.0, 100.0 * math.exp(-0.1 / 2**0.5))):
        budgets.agreed(share)
        assert budgets.at(1.0) <= limit + 1e-9
    for _ in range(50):
        budgets.agreed(1.0)
        budgets.probes.zero_()
    assert budgets.at(1.0) == pytest.approx(8.0)


def test_only_adaptive_asks_how_its_circuits_do():
    for schedule in SCHEDULES:
        learner = TopK(torch.randn(N), 8.0, schedule=schedule, cut=CUT)
        asked = [step for step in range(400) if learner.asks(0, step)]
        assert bool(asked) == (schedule == "adaptive")
        assert all(learner.budget(0, step) == pytest.approx(N) for step in asked)


def test_an_unknown_schedule_lists_the_known():
    with pytest.raises(ConfigError, match="log_uniform, log_both, uniform, adaptive, at_sizes"):
        TopK(torch.zeros(20), schedule="log")


# ------------------------------------------------------------------ live edges


@pytest.mark.parametrize("graph", reference_graph.GRAPHS, ids=Graph.describe)
@pytest.mark.parametrize("seed", range(2))
def test_live_from_is_when_each_edge_comes_to_life(graph, seed):
    """Against the live edges of every prefix."""
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(seed))
    order, found = best_first(scores), live_from(graph, places(scores))
    for n in range(graph.n_edges + 1):
        prefix = torch.zeros(graph.n_edges, dtype=torch.bool)
        prefix[order[:n]] = True
        assert torch.equal(found <= n, live_edges(graph, prefix))


def test_a_budget_of_live_edges_is_the_shortest_prefix_with_as_many():
    graph = Graph(3, 4, 2, d_model=8)
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(1))
    learner = TopK(scores, 2.0, mask="straight_through", graph=graph)
    fewer = 0
    for step in range(60):
        k = math.ceil(learner.budget(0, step))
        kept = learner.sample(0, step).detach() == 1
        assert live_edges(graph, kept).sum() >= k
        kept[best_first(scores)[int(kept.sum()) - 1]] = False
        assert live_edges(graph, kept).sum() < k
        fewer += int(k < kept.sum())
    assert fewer > 10  # or the two ways to count were one


def test_shares_of_live_budgets_are_those_of_samples():
    graph = Graph(2, 2, 2, d_model=8)
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(2))
    learner = TopK(scores, 2.0, mask="straight_through", graph=graph)
    share = torch.stack([learner.sample(0, step).detach() for step in range(400)]).mean(0)
    assert (share - learner.probabilities()).abs().max() < 0.12


def test_the_upper_quarter_of_places_tries_the_largest_budget_its_end_too():
    budgets = Budgets(2.0, 20.0, 20, "adaptive")
    tried = [budgets.tries_the_largest(u) for u in (0.0, 0.74, 1 - PROBES, 1.0)]
    assert tried == [False, False, True, True]
