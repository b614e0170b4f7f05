"""Circuits of several tasks as one shared part and a private part of each: cut and counted."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges

Rows = Float[Tensor, "part edge"]
"""Scores of the shared edges, then of each task's private ones; higher is kept first."""
Masks = Bool[Tensor, "task edge"]


def gates_of(rows: Rows, task: int) -> Float[Tensor, " edge"]:
    """The gates that a task runs under, `shared + (1 - shared) * private`.

    Args:
        rows: Gates of the shared edges, then of each task's private ones.
        task: Its place among the tasks, from 0.
    """
    shared, private = rows[0], rows[1 + task]
    return shared + (1 - shared) * private


def rankings(rows: Rows) -> Float[Tensor, "task edge"]:
    """What each task's circuits are cut from: an edge is in by the better of its two scores."""
    return torch.maximum(rows[:1], rows[1:])


@dataclass(frozen=True)
class Together:
    """A circuit of each task, made of edges that all have and edges of its own.

    `circuit of t = live(shared | private_t)`. An edge that does nothing for a task, since it leads
    nowhere there, is not in its circuit, shared or not.
    """

    graph: Graph
    shared: Bool[Tensor, " edge"]
    """Edges given to every task."""
    private: Masks
    """Edges given to one task each."""

    @classmethod
    def of(cls, graph: Graph, shared: Bool[Tensor, " edge"], private: Masks) -> "Together":
        """From masks that may overlap; an edge that every task has of its own is shared."""
        shared = shared | private.all(dim=0)
        return cls(graph, shared, private & ~shared)

    @cached_property
    def circuits(self) -> Masks:
        """The live edges of each task."""
        given = self.shared | self.private
        return torch.stack([live_edges(self.graph, mask) for mask in given])

    @property
    def core(self) -> Bool[Tensor, " edge"]:
        """The shared edges that are in some circuit."""
        return self.shared & self.circuits.any(dim=0)

    @property
    def own(self) -> Masks:
        """The edges of each circuit that are not shared."""
        return self.circuits & ~self.shared

    @property
    def n_edges(self) -> int:
        """Edges in all: a shared one counts once, a private one once for each task that has it."""
        return int(self.core.sum()) + int(self.own.sum())

    @property
    def union(self) -> int:
        """Edges that are in any circuit."""
        return int(self.circuits.any(dim=0).sum())


def from_apart(graph: Graph, circuits: Masks) -> Together:
    """Circuits found each for itself, the edges that all of them have taken as shared."""
    return Together.of(graph, torch.zeros_like(circuits[0]), circuits)


def first_of(graph: Graph, rows: Rows, n_parts: int) -> Together:
    """The `n_parts` best of all scores, shared and private ranked together.

    An edge that every task has of its own is shared.
    """
    order = rows.flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(rows.numel(), dtype=torch.bool, device=rows.device)
    kept[order[:n_parts]] = True
    shared, *private = kept.view(rows.shape)
    return Together.of(graph, shared, torch.stack(private))


def private_of(
    rows: Rows, shared: Bool[Tensor, " edge"], task: int, n_private: int
) -> Bool[Tensor, " edge"]:
    """A task's `n_private` best edges of its own that are not shared."""
    order = rows[1 + task].where(~shared, -torch.inf).argsort(descending=True, stable=True)
    private = torch.zeros_like(shared)
    private[order[:n_private]] = True
    return private & ~shared


def with_shared(
    graph: Graph, rows: Rows, shared: Bool[Tensor, " edge"], task: int, n_private: int
) -> Bool[Tensor, " edge"]:
    """A task's circuit of some shared edges and the `n_private` best of its own, all live."""
    return live_edges(graph, shared | private_of(rows, shared, task, n_private))


def cut_together(graph: Graph, rows: Rows, n_edges: int) -> Together:
    """The best circuits of at most `n_edges` in all, as `Together.n_edges` counts.

    The longest prefix of the order of `first_of` with so few, by bisection: one score more adds at
    least as many edges as it takes away, but where it makes private edges shared.
    """
    fits, over = 0, rows.numel() + 1
    while over - fits > 1:
        middle = (fits + over) // 2
        if first_of(graph, rows, middle).n_edges <= n_edges:
            fits = middle
        else:
            over = middle
    return first_of(graph, rows, fits)
