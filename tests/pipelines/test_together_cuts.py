"""The fewest edges with which several tasks reach a target: by slow, obvious loops."""

from types import SimpleNamespace

import pytest
import torch

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.sharing import Together, private_of
from circuitprune.pipelines import together_cuts
from circuitprune.pipelines.setup import Setup
from circuitprune.pipelines.together_cuts import _fewest, _sizes, smallest_together
from circuitprune.training.target import Target

GRAPH = Graph(2, 3, 3)
N_TASKS = 3
PATHS = (
    ("input->a0.h0<q>", "a0.h0->m1", "m1->logits"),
    ("input->m0", "m0->a1.h2<v>", "a1.h2->logits"),
    ("input->a0.h1<v>", "a0.h1->logits"),
)
"""What each task needs."""


def needing(task: int):
    """Whether a circuit of a task has a path whole."""
    needed = GRAPH.mask_of(PATHS[task])
    return lambda mask: bool((live_edges(GRAPH, mask) & needed).sum() == needed.sum())


def setup_of(task: int) -> Setup:
    """Only its graph and its place are looked at."""
    setup = object.__new__(Setup)
    object.__setattr__(setup, "gated", SimpleNamespace(graph=GRAPH))
    object.__setattr__(setup, "config", task)
    return setup


def slow(rows: torch.Tensor, n_shared: int) -> Together:
    """With so many shared edges, each task adds its best one by one until it has its path."""
    shared = torch.zeros(GRAPH.n_edges, dtype=torch.bool)
    for edge in rows[0].argsort(descending=True, stable=True).tolist()[:n_shared]:
        shared[edge] = True
    private = []
    for task in range(N_TASKS):
        n = 0
        while not needing(task)(shared | private_of(rows, shared, task, n)):
            n += 1
        private.append(private_of(rows, shared, task, n))
    return Together.of(GRAPH, shared, torch.stack(private))


@pytest.mark.parametrize("seed", range(4))
def test_the_fewest_edges_are_those_of_a_scan(seed, monkeypatch):
    monkeypatch.setattr(together_cuts, "_reaches", lambda setup, _: needing(setup.config))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1 + N_TASKS, GRAPH.n_edges, generator=generator)
    for task in range(N_TASKS):  # what is needed ranks well, so that sizes differ
        rows[[0, 1 + task]] += GRAPH.mask_of(PATHS[task]).float()
    found = smallest_together([*map(setup_of, range(N_TASKS))], rows, Target.read("kl<=0.1"))
    assert all(needing(task)(mask) for task, mask in enumerate(found.circuits))
    assert found.n_edges == min(slow(rows, n).n_edges for n in _sizes(GRAPH.n_edges))


def test_the_fewest_of_a_number_are_those_of_a_scan():
    for least in range(20):
        asked: list[int] = []

        def reaches(n: int, least=least, asked=asked) -> bool:
            asked.append(n)
            return n >= least

        assert _fewest(19, reaches) == least
        assert max(asked) <= 2 * max(1, least) and len(asked) <= 11
    assert _fewest(19, lambda n: False) is None


def test_numbers_of_shared_edges_grow_by_less_than_two():
    assert _sizes(40) == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 33]
