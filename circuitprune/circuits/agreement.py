"""How far two scorings of the same edges agree: in their order, at the top, and in sign.

An edge that is NaN in either vector was not scored and is left out of every comparison.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.errors import MetricError
from circuitprune.files.text import counted

Scores = Float[Tensor, " _"]
"""One score per edge; lengths that differ are an error of ours, with what to do."""


def spearman(a: Scores, b: Scores) -> float:
    """Spearman's rank correlation, in [-1, 1]: the Pearson correlation of the ranks.

    Equal scores share the mean of their ranks. The scores are ranked as they are: pass
    `a.abs(), b.abs()` to compare the orders by which circuits are cut.

    Raises:
        MetricError: fewer than two edges, or all scores of one side equal, so there is no order.

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
        0.5

    Source: Spearman 1904, "The Proof and Measurement of Association between Two Things".
    """
    ranks = torch.stack([average_ranks(side) for side in _scored(a, b, at_least=2)])
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    squares = centred.square().sum(dim=1)
    if bool((squares == 0).any()):
        raise MetricError(
            "spearman is undefined: all scores of one side are equal, so they give no order; "
            "compare scores of a method that tells edges apart"
        )
    return float(((centred[0] @ centred[1]) / squares.prod().sqrt()).clamp(-1, 1))


def top_overlap(a: Scores, b: Scores, fraction: float) -> float:
    """Share of one scoring's strongest edges that are among the other's too, in [0, 1].

    The strongest are the `max(1, round(fraction * n))` edges of largest magnitude; equal magnitudes
    come in the graph's order, as they do in selection.

    Raises:
        MetricError: no edges, or a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise MetricError(f"fraction must lie in (0, 1], got {fraction}; 0.05 is the top 5%")
    a, b = _scored(a, b, at_least=1)
    k = max(1, round(fraction * len(a)))
    tops = [set(s.abs().argsort(descending=True, stable=True)[:k].tolist()) for s in (a, b)]
    return len(tops[0] & tops[1]) / k


def sign_agreement(a: Scores, b: Scores) -> float:
    """Share of the edges that are nonzero in both whose scores have the same sign, in [0, 1].

    Raises:
        MetricError: no edge is nonzero in both.
    """
    a, b = _scored(a, b, at_least=1)
    both = (a != 0) & (b != 0)
    if not bool(both.any()):
        raise MetricError("sign agreement is undefined: no edge has a nonzero score on both sides")
    return float((a[both].sign() == b[both].sign()).double().mean())


def average_ranks(values: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """Ranks from 1, ascending, equal values sharing the mean of theirs; float64."""
    _, group, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[group]
    return ranks


def _scored(a: Scores, b: Scores, at_least: int) -> tuple[Scores, Scores]:
    """Both in float64, on the edges that both scored."""
    if a.shape != b.shape:
        raise MetricError(
            f"scores of {len(a)} and of {counted(len(b), 'edge')} cannot be compared; expected "
            "two scorings of one graph in one convention of key/value readers"
        )
    known = ~(torch.isnan(a) | torch.isnan(b))
    if int(known.sum()) < at_least:
        raise MetricError(
            f"{int(known.sum())} of {counted(len(a), 'edge')} have scores on both sides, expected "
            f"at least {at_least}"
        )
    return a[known].double(), b[known].double()
