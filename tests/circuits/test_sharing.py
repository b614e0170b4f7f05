"""Shared and private edges of several tasks: gates, cuts and counts by slow, obvious loops."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import n_edges_of
from circuitprune.circuits.sharing import (
    Together,
    cut_together,
    first_of,
    from_apart,
    gates_of,
    private_of,
    rankings,
    with_shared,
)

GRAPH = Graph(2, 4, 2)


def rows_of(seed: int, n_tasks: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1 + n_tasks, GRAPH.n_edges, generator=generator)


def random_together(seed: int) -> Together:
    shared, *private = rows_of(seed) > 0.3
    return Together.of(GRAPH, shared, torch.stack(private))


def test_an_edge_is_open_for_a_task_if_it_is_shared_or_its_own():
    rows = torch.rand(4, 20)
    for task in range(3):
        gates = gates_of(rows, task)
        for edge in range(20):
            closed = (1 - rows[0, edge]) * (1 - rows[1 + task, edge])
            assert_close(gates[edge], 1 - closed)


def test_hard_gates_are_the_union():
    rows = (rows_of(0) > 0).float()
    for task in range(3):
        assert gates_of(rows, task).tolist() == ((rows[0] + rows[1 + task]) > 0).float().tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_shared_edge_counts_once_and_a_private_one_for_each_task(seed):
    found = random_together(seed)
    n_edges, core, union = 0, 0, 0
    for edge in range(GRAPH.n_edges):
        has = [bool(circuit[edge]) for circuit in found.circuits]
        union += any(has)
        if found.shared[edge]:
            n_edges += any(has)
            core += any(has)
        else:
            n_edges += sum(has)
    assert (found.n_edges, int(found.core.sum()), found.union) == (n_edges, core, union)
    assert union <= found.n_edges <= int(found.circuits.sum())


@pytest.mark.parametrize("seed", range(4))
def test_a_circuit_is_what_is_live_of_shared_and_own_edges(seed):
    found = random_together(seed)
    for circuit, own, private in zip(found.circuits, found.own, found.private, strict=True):
        assert torch.equal(circuit, live_edges(GRAPH, found.shared | private))
        assert torch.equal(circuit, (circuit & found.shared) | own)
        assert not (own & found.core).any()


def test_an_edge_that_every_task_has_of_its_own_is_shared():
    found = random_together(1)
    given = torch.stack([found.shared | private for private in found.private])
    again = from_apart(GRAPH, given)
    assert torch.equal(again.shared, given.all(dim=0))
    assert torch.equal(again.circuits, found.circuits)
    assert not again.private.all(dim=0).any()


@pytest.mark.parametrize("size", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_cut_is_the_longest_prefix_that_fits(size, seed):
    rows, most = rows_of(seed), n_edges_of(GRAPH, size)
    found = cut_together(GRAPH, rows, most)
    assert found.n_edges <= most
    sizes = [first_of(GRAPH, rows, n).n_edges for n in range(rows.numel() + 1)]
    longest = max(n for n, one in enumerate(sizes) if one <= most)
    if all(a <= b for a, b in pairwise(sizes)):
        assert torch.equal(found.circuits, first_of(GRAPH, rows, longest).circuits)


@pytest.mark.parametrize("seed", range(3))
def test_a_task_is_cut_from_the_better_of_its_two_scores(seed):
    rows = rows_of(seed)
    kept = rows.flatten().sort(descending=True).values[29]
    found = first_of(GRAPH, rows, 30)
    for task, ranking in enumerate(rankings(rows)):
        assert torch.equal(live_edges(GRAPH, ranking >= kept), found.circuits[task])


def test_private_edges_are_the_best_that_are_not_shared():
    rows = rows_of(5)
    shared = rows[0] > 1
    private = private_of(rows, shared, 1, 6)
    best = [edge for edge in rows[2].argsort(descending=True).tolist() if not shared[edge]][:6]
    assert sorted(best) == private.nonzero().flatten().tolist()
    assert torch.equal(with_shared(GRAPH, rows, shared, 1, 6), live_edges(GRAPH, shared | private))
    assert torch.equal(private_of(rows, shared, 1, GRAPH.n_edges), ~shared)
