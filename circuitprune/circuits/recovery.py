"""How well scores find a known circuit: ROC, its area, precision and recall.

An edge of the reference circuit is a positive. Scores are ranked as they are, higher first, as in
`selection`: pass `scores.abs()` to rank by size. An edge whose score is NaN was not scored and
counts as the lowest of all.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from circuitprune.circuits.agreement import average_ranks
from circuitprune.errors import MetricError, old_names
from circuitprune.files.text import counted


class Roc(NamedTuple):
    """Points of a receiver operating characteristic, from (0, 0) to (1, 1)."""

    false_positive_rate: Float64[Tensor, " point"]
    """Edges taken that are not of the reference, as a fraction of all such edges."""
    true_positive_rate: Float64[Tensor, " point"]
    """Edges of the reference taken, as a fraction of it."""
    thresholds: Float64[Tensor, " point"]
    """Edges of at least this score are taken; the first is infinite and takes none."""


class PrecisionRecall(NamedTuple):
    """Precision and recall at every distinct score, highest first."""

    precision: Float64[Tensor, " point"]
    """Edges of the reference among those taken."""
    recall: Float64[Tensor, " point"]
    """Edges of the reference taken, as a fraction of it."""
    thresholds: Float64[Tensor, " point"]
    """Edges of at least this score are taken."""


def auroc(scores: Float[Tensor, " edge"], reference: Bool[Tensor, " _"]) -> float:
    """Probability that a random edge of the reference scores above a random other, in [0, 1].

    Ties count one half. With P positives, N negatives and average ranks r, ascending::

        (sum of r over positives - P (P + 1) / 2) / (P N)

    which is the Mann-Whitney statistic over P N and the area under `roc`. 0.5 is chance.

    Raises:
        MetricError: shapes differ, or the reference keeps no edge or every edge.

    Example:
        >>> auroc(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, True]))
        1.0

    Source: Hanley and McNeil 1982, "The Meaning and Use of the Area under a ROC Curve"; used for
    circuits by Conmy et al. 2023 (arXiv 2304.14997).
    """
    values = _checked(scores, reference)
    n_true = int(reference.sum())
    rank_sum = float(average_ranks(values)[reference].sum())
    n_pairs = n_true * (len(values) - n_true)
    return (rank_sum - n_true * (n_true + 1) / 2) / n_pairs


def roc(scores: Float[Tensor, " edge"], reference: Bool[Tensor, " _"]) -> Roc:
    """The ROC curve: one point per distinct score, equal scores taken together.

    The trapezoids under it add up to `auroc`. Raises MetricError as `auroc`.
    """
    thresholds, taken, hits = _cumulative(scores, reference)
    n_true = int(reference.sum())
    start = torch.zeros(1, dtype=torch.float64)
    return Roc(
        torch.cat([start, (taken - hits) / (len(reference) - n_true)]),
        torch.cat([start, hits / n_true]),
        torch.cat([start + torch.inf, thresholds]),
    )


def precision_recall(
    scores: Float[Tensor, " edge"], reference: Bool[Tensor, " _"]
) -> PrecisionRecall:
    """Precision and recall of the edges above each distinct score. Raises as `auroc`."""
    thresholds, taken, hits = _cumulative(scores, reference)
    return PrecisionRecall(hits / taken, hits / int(reference.sum()), thresholds)


def average_precision(scores: Float[Tensor, " edge"], reference: Bool[Tensor, " _"]) -> float:
    """Precision averaged over recall, without interpolation: `sum_i (R_i - R_(i-1)) P_i`.

    In (0, 1]; the share of the reference among all edges is chance. Unlike `auroc` it is strict
    where circuits are small, since the many edges outside count only when they rank high. Raises
    as `auroc`.
    """
    curve = precision_recall(scores, reference)
    gained = curve.recall.diff(prepend=torch.zeros(1, dtype=torch.float64))
    return float((gained * curve.precision).sum())


def recovery(scores: Float[Tensor, " edge"], reference: Bool[Tensor, " _"]) -> dict[str, float]:
    """The figures of a scoring in one place.

    `auroc`, `average_precision`, and `precision_at_size`: with as many of the best edges as the
    reference has, equal scores in the graph's order, the share that belongs to it (which is the
    recall too). Raises as `auroc`.
    """
    values, n_true = _checked(scores, reference), int(reference.sum())
    top = values.argsort(descending=True, stable=True)[:n_true]
    return {
        "auroc": auroc(scores, reference),
        "average_precision": average_precision(scores, reference),
        "precision_at_size": float(reference[top].double().mean()),
    }


def circuit_recovery(
    found: Bool[Tensor, " edge"], reference: Bool[Tensor, " _"]
) -> dict[str, float]:
    """Precision, recall and Jaccard index of one circuit against the reference.

    An empty circuit has precision 0. Raises MetricError as `auroc`.
    """
    _checked(found.double(), reference)
    both = int((found & reference).sum())
    return {
        "precision": both / max(1, int(found.sum())),
        "recall": both / int(reference.sum()),
        "jaccard": both / int((found | reference).sum()),
    }


def _cumulative(
    scores: Float[Tensor, " edge"], reference: Bool[Tensor, " _"]
) -> tuple[Float64[Tensor, " point"], Float64[Tensor, " point"], Float64[Tensor, " point"]]:
    """Each distinct score, highest first, and how many edges and positives reach it."""
    values = _checked(scores, reference)
    distinct, group = values.unique(return_inverse=True)
    zeros = torch.zeros(len(distinct), dtype=torch.float64)
    taken = zeros.index_add(0, group, torch.ones_like(values)).flip(0).cumsum(0)
    hits = zeros.index_add(0, group, reference.double()).flip(0).cumsum(0)
    return distinct.flip(0), taken, hits


def _checked(
    scores: Float[Tensor, " edge"], reference: Bool[Tensor, " _"]
) -> Float64[Tensor, " edge"]:
    """The scores in float64, NaN below everything, once there is something to tell apart."""
    if scores.shape != reference.shape:
        raise MetricError(
            f"{len(scores)} scores cannot be compared with a reference of "
            f"{counted(len(reference), 'edge')}; expected both over one graph in one convention "
            "of key/value readers"
        )
    n_true = int(reference.sum())
    if not 0 < n_true < len(reference):
        raise MetricError(
            f"the reference keeps {n_true} of {counted(len(reference), 'edge')}, so there is "
            "nothing to tell apart; expected some edges inside and some outside"
        )
    return scores.detach().cpu().double().nan_to_num(-torch.inf, torch.inf, -torch.inf)


__getattr__ = old_names(__name__, {"overlap": "circuits.recovery.circuit_recovery"})
