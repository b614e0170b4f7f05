"""What two circuits share, against circuits that have as much in every layer: a permutation null.

Two circuits of different tasks may look alike because both lie in the same layers. Under the null,
the edges of one are dealt anew among all edges from the same layer's heads (or its MLP, or `input`)
to the same layer's readers of the same kind, and its nodes among those of the same layer and kind.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from circuitprune.circuits.graph import Graph


@dataclass(frozen=True)
class NullOverlap:
    """What two sets share, and what they would with the same counts in every layer."""

    shared: int
    """Members of both."""
    containment: float | None
    """`shared` over the size of the smaller set, in [0, 1]; None if one is empty."""
    expected: float
    """Members to share by chance, with these counts."""
    p: float
    """Probability under the null to share at least as many; exact."""


def edge_null(
    graph: Graph, first: Bool[Tensor, " edge"], second: Bool[Tensor, " edge"]
) -> NullOverlap:
    """Of the edges of two circuits, dealt anew within layers of writers and readers and kinds."""
    kinds = [
        (int(graph.writer_layer[w]), _is_mlp(graph, w), graph.reader_kind[r], _layer(graph, r))
        for w, r in zip(graph.edge_writer.tolist(), graph.edge_reader.tolist(), strict=True)
    ]
    return null_overlap(kinds, first, second)


def node_null(
    graph: Graph, first: Bool[Tensor, " node"], second: Bool[Tensor, " node"]
) -> NullOverlap:
    """Of the nodes of two circuits, as `node_mask` has them: heads dealt anew within a layer."""
    writers = range(graph.n_writers)
    kinds = [(int(graph.writer_layer[w]), _is_mlp(graph, w)) for w in writers]
    return null_overlap([*kinds, ("logits", False)], first, second)


def null_overlap(
    kinds: Sequence[Hashable], first: Bool[Tensor, " member"], second: Bool[Tensor, " member"]
) -> NullOverlap:
    """What two sets share, where the null deals one of them anew among members of a kind.

    The members shared are then a sum over kinds of independent hypergeometric numbers, whose
    distribution is their convolution: no permutation is drawn.

    Args:
        kinds: Of each member.
        first, second: The sets.
    """
    counts: dict[Hashable, list[int]] = {}
    for kind, a, b in zip(kinds, first.tolist(), second.tolist(), strict=True):
        of_kind = counts.setdefault(kind, [0, 0, 0])
        for i, one in enumerate((True, a, b)):
            of_kind[i] += one
    whole = torch.ones(1, dtype=torch.float64)
    for n, a, b in counts.values():
        if a and b:
            whole = _convolved(whole, hypergeometric(n, a, b))
    shared, sizes = int((first & second).sum()), (int(first.sum()), int(second.sum()))
    return NullOverlap(
        shared=shared,
        containment=shared / min(sizes) if min(sizes) else None,
        expected=sum(a * b / n for n, a, b in counts.values()),
        p=min(1.0, whole[shared:].sum().item()),
    )


def hypergeometric(n_total: int, n_first: int, n_second: int) -> Float64[Tensor, " shared"]:
    """P(0), P(1), ... of the members that two sets of these sizes share, drawn uniformly."""
    shared = torch.arange(min(n_first, n_second) + 1, dtype=torch.float64)
    first, second, total = torch.tensor([n_first, n_second, n_total], dtype=torch.float64)
    possible = second - shared <= total - first
    log_p = (
        _log_choose(first, shared)
        + _log_choose(total - first, (second - shared).clamp(max=total - first))
        - _log_choose(total, second)
    )
    chances: Tensor = log_p.exp() * possible
    return chances


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()


def _convolved(one: Tensor, other: Tensor) -> Tensor:
    """The distribution of a sum of two independent numbers."""
    size = len(one) + len(other) - 1
    out = one.new_zeros(size)
    for i, p in enumerate(other.tolist()):
        out[i : i + len(one)] += p * one
    return out


def _is_mlp(graph: Graph, writer: int) -> bool:
    return graph.writers[writer].startswith("m")


def _layer(graph: Graph, reader: int) -> int:
    return int(graph.reader_layer[reader])
