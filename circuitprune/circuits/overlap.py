"""How far several circuits of one graph are the same: Jaccard indices, shared core, consensus."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layer_null import NullOverlap, edge_null, node_null
from circuitprune.circuits.reachability import kept_nodes, live_edges
from circuitprune.circuits.selection import select
from circuitprune.errors import GraphError

Masks = Bool[Tensor, "circuit edge"]
Jaccard = Float[Tensor, "circuit circuit"]
"""Symmetric, 1 on the diagonal; NaN where both circuits are empty."""


@dataclass(frozen=True)
class PairsSummary:
    """Jaccard indices of every two circuits of a group; None where no two have one."""

    mean: float | None
    """Over pairs, in [0, 1]."""
    low: float | None
    """Lower end of its 95 % interval over circuits; None for fewer than three."""
    high: float | None
    """Upper end; likewise."""
    least: float | None
    """Of the pair that shares least."""
    largest: float | None
    """Of the pair that shares most."""
    n_pairs: int
    """Pairs that have an index: not both of them empty."""


@dataclass(frozen=True)
class GroupOverlap:
    """What circuits of one size share, pair by pair."""

    n_edges: int
    """Edges that each was cut to, at most."""
    fewest_edges: int
    """Of the smallest."""
    most_edges: int
    """Of the largest."""
    n_empty: int
    """Circuits that keep no edge."""
    edges: PairsSummary
    """Shared edges."""
    nodes: PairsSummary
    """Shared nodes."""
    chance_edges: float | None
    """Index to expect of two random sets of `n_edges` edges; None for no edge."""


@dataclass(frozen=True)
class PairOverlap:
    """What two circuits share."""

    a: str
    """Name of the one."""
    b: str
    """Name of the other."""
    shared_edges: int
    """Edges in both."""
    edge_jaccard: float | None
    """In [0, 1]; None if both are empty, as the other two."""
    node_jaccard: float | None
    """In [0, 1]."""
    chance_edge_jaccard: float | None
    """Index to expect of two random sets of these sizes."""
    edges: NullOverlap | None = None
    """Shared edges, against a null that keeps the counts of every layer."""
    nodes: NullOverlap | None = None
    """Shared nodes, likewise."""


@dataclass(frozen=True)
class Names:
    """Edges and nodes by their names, in the graph's order."""

    edges: tuple[str, ...]
    """As `a0.h1->m2`."""
    nodes: tuple[str, ...]
    """As `a0.h1`."""


def edge_jaccard(masks: Bool[Tensor, "circuit member"]) -> Jaccard:
    """`|A & B| / |A | B|` of every two rows, in [0, 1], float64; NaN if both are empty.

    Two empty rows have nothing that could agree: as 1 they would pass for a stable result.
    """
    kept = masks.double()
    both = kept @ kept.T
    sizes = kept.sum(dim=1)
    either = sizes[:, None] + sizes - both
    return both / either


def node_jaccard(graph: Graph, masks: Masks) -> Jaccard:
    """As `edge_jaccard`, of the nodes that a kept edge leaves or enters (`Circuit.nodes`)."""
    return edge_jaccard(torch.stack([node_mask(graph, mask) for mask in masks]))


def node_mask(graph: Graph, mask: Bool[Tensor, " edge"]) -> Bool[Tensor, " node"]:
    """Which of the graph's writers, and of `logits` as the last, a circuit touches."""
    kept = set(kept_nodes(graph, mask))
    return torch.tensor([name in kept for name in (*graph.writers, "logits")])


def pairs_summary(
    jaccard: Jaccard, seed: int = 0, n_resamples: int = 10_000, level: float = 0.95
) -> PairsSummary:
    """Mean over pairs of circuits, its interval, and the least and largest pair.

    The pairs are not independent (each circuit is in n - 1 of them), so the interval resamples
    circuits, not pairs: n circuits are drawn with replacement, the mean is taken over the drawn
    pairs of different circuits, and `low`, `high` are percentiles of it. A copy paired with itself
    would be 1 and is left out, and so are pairs of empty circuits: `n_pairs` counts the others, and
    without any all is None. With few circuits the interval is rough, below three it is None.

    Raises:
        GraphError: fewer than two circuits.
    """
    n = len(jaccard)
    if n < 2:
        raise GraphError(f"an overlap needs two circuits, got {n}")
    values = jaccard[~torch.eye(n, dtype=torch.bool)]
    values = values[~values.isnan()]
    if not len(values):
        return PairsSummary(None, None, None, None, None, n_pairs=0)
    least, largest = values.min().item(), values.max().item()
    summary = PairsSummary(values.mean().item(), None, None, least, largest, len(values) // 2)
    if n < 3:
        return summary
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(n, (n_resamples, n), generator=generator)
    means = resampled_means(jaccard, draws)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return replace(summary, low=low, high=high)


def resampled_means(jaccard: Jaccard, draws: Tensor) -> Float[Tensor, " resample"]:
    """Mean over the pairs of different circuits in each row of `draws`.

    Pairs of empty circuits do not count. A row without a pair that does is left out.
    """
    copies = torch.nn.functional.one_hot(draws, len(jaccard)).sum(dim=1).double()
    apart = (1 - torch.eye(len(jaccard), dtype=torch.float64)) * ~jaccard.isnan()
    total = ((copies @ (jaccard.nan_to_num(0) * apart)) * copies).sum(dim=1)
    n_pairs = ((copies @ apart) * copies).sum(dim=1)
    return (total / n_pairs)[n_pairs > 0]


def overlap_at(graph: Graph, masks: Masks, n_edges: int) -> GroupOverlap:
    """Pairwise Jaccard indices of circuits that were cut to at most `n_edges` edges."""
    n_kept = masks.sum(dim=1)
    return GroupOverlap(
        n_edges=n_edges,
        fewest_edges=int(n_kept.min()),
        most_edges=int(n_kept.max()),
        n_empty=int((n_kept == 0).sum()),
        edges=pairs_summary(edge_jaccard(masks)),
        nodes=pairs_summary(node_jaccard(graph, masks)),
        chance_edges=chance_jaccard(graph.n_edges, n_edges, n_edges),
    )


def plain(jaccard: Jaccard) -> tuple[tuple[float | None, ...], ...]:
    """The matrix as JSON takes it, None for NaN."""
    return tuple(tuple(None if math.isnan(x) else x for x in row) for row in jaccard.tolist())


def chance_jaccard(n_total: int, n_first: int, n_second: int) -> float | None:
    """Expected Jaccard index of two sets of these sizes drawn uniformly from `n_total` members.

    The overlap is hypergeometric: `sum_i P(i) * i / (n_first + n_second - i)`. None if both are
    empty.
    """
    if n_first + n_second == 0:
        return None

    def log_choose(n: Tensor, k: Tensor) -> Tensor:
        return (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()

    shared = torch.arange(
        max(0, n_first + n_second - n_total), min(n_first, n_second) + 1, dtype=torch.float64
    )
    first, second, total = torch.tensor([n_first, n_second, n_total], dtype=torch.float64)
    log_p = (
        log_choose(first, shared)
        + log_choose(total - first, second - shared)
        - log_choose(total, second)
    )
    return float((log_p.exp() * shared / (first + second - shared)).sum())


def times_kept(masks: Masks) -> Float[Tensor, " edge"]:
    """Number of circuits that keep each edge."""
    return masks.double().sum(dim=0)


def consensus(graph: Graph, masks: Masks) -> Bool[Tensor, " edge"]:
    """Edges that at least half of the circuits keep, without those that are then not live."""
    return live_edges(graph, 2 * masks.sum(dim=0) >= len(masks))


def majority(graph: Graph, masks: Masks, n_edges: int) -> Bool[Tensor, " edge"]:
    """The circuit of at most `n_edges` edges that most circuits keep: a vote at equal size.

    Edges with the same number of votes come in the graph's order.
    """
    return select(graph, times_kept(masks), n_edges)


def core_and_private(masks: Masks) -> tuple[Bool[Tensor, " edge"], Masks]:
    """The edges that all circuits keep, and for each circuit those that no other keeps."""
    alone = masks.sum(dim=0) == 1
    return masks.all(dim=0), masks & alone


def overlaps(graph: Graph, masks: Mapping[str, Bool[Tensor, " edge"]]) -> tuple[PairOverlap, ...]:
    """Edges and nodes that every two circuits share.

    `chance` is what uniformly drawn edge sets of these sizes would share; `edges` and `nodes` say
    what sets with the same counts in every layer would. Two empty circuits have no index: None.
    """
    stacked = torch.stack(list(masks.values()))
    edges, nodes = plain(edge_jaccard(stacked)), plain(node_jaccard(graph, stacked))
    sizes = stacked.sum(dim=1).tolist()
    return tuple(
        PairOverlap(
            a=a,
            b=b,
            shared_edges=int((masks[a] & masks[b]).sum()),
            edge_jaccard=edges[i][j],
            node_jaccard=nodes[i][j],
            chance_edge_jaccard=chance_jaccard(graph.n_edges, sizes[i], sizes[j]),
            edges=edge_null(graph, masks[a], masks[b]),
            nodes=node_null(graph, node_mask(graph, masks[a]), node_mask(graph, masks[b])),
        )
        for (i, a), (j, b) in combinations(enumerate(masks), 2)
    )


def parts(
    graph: Graph, masks: Mapping[str, Bool[Tensor, " edge"]]
) -> tuple[Names, dict[str, Names]]:
    """The shared core of circuits, and the private part of each.

    A node is private if no edge of another circuit touches it.
    """
    core, private = core_and_private(torch.stack(list(masks.values())))
    nodes = {name: set(Circuit(graph, mask).nodes) for name, mask in masks.items()}
    everywhere = set.intersection(*nodes.values())

    def alone(name: str) -> set[str]:
        return nodes[name] - set().union(*(nodes[other] for other in nodes if other != name))

    order = (*graph.writers, "logits")
    shared = tuple(node for node in order if node in everywhere)
    own = {
        name: Names(
            Circuit(graph, mask).edges, tuple(node for node in order if node in alone(name))
        )
        for name, mask in zip(masks, private, strict=True)
    }
    return Names(Circuit(graph, core).edges, shared), own
