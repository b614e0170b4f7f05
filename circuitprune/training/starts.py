"""Where gates start: from scores of any unit to parameters of a learner."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from circuitprune.errors import ConfigError
from circuitprune.training.gates import SHIFT, Edges, places


def shared_importance(scores: Float[Tensor, "*method edge"]) -> Edges:
    """|score|, or what several methods agree on: the mean of its normal scores over them.

    NaN, not scored, counts as 0. One method's ranks are left as they are.

    Source: the mean over methods is the parallel ensemble of arXiv 2510.06811.
    """
    importance = scores.nan_to_num(0).abs().float()
    if importance.dim() == 1:
        return importance
    return torch.stack([normal_scores(one) for one in importance]).mean(dim=0)


def normal_scores(importance: Edges) -> Edges:
    """Importance by rank, spread as a standard normal: the start of a `TopK`'s scores.

    Attribution spans many orders of magnitude; ranks do not, so one learning rate fits any metric.
    """
    quantile = _quantiles(importance)
    normal: Tensor = torch.special.ndtri(quantile).to(importance.dtype)
    return normal


def _quantiles(importance: Edges) -> Float64[Tensor, " edge"]:
    """Each edge's place as a number in (0, 1), the most important near 1."""
    n = len(importance)
    return (n - 0.5 - places(importance).double()) / n


def calibrated_logit(importance: Edges, density: float, sharpness: float = 0.2) -> Edges:
    """Logits of keep-probabilities that follow the ranks of `importance` and average to `density`.

    `(q - b) / sharpness` with q the rank in (0, 1) and b found by bisection over the whole line.
    The published warm start (arXiv 2510.06811) searches b in [0, 1] only and inverts the gate's
    median instead of P(gate > 0): asked for a density of 0.10 its gates average 0.29, and 0.63 of
    them are open.

    Args:
        importance: Larger is more likely kept.
        density: Expected fraction of open edges, in (0, 1).
        sharpness: Small values separate high from low ranks more.

    Raises:
        ConfigError: density outside (0, 1).
    """
    if not 0 < density < 1:
        raise ConfigError(f"an initial density must lie in (0, 1), got {density}")
    quantile = _quantiles(importance)
    low, high = -40 * sharpness, 1 + 40 * sharpness
    for _ in range(100):
        middle = (low + high) / 2
        mean = torch.sigmoid((quantile - middle) / sharpness).mean().item()
        low, high = (middle, high) if mean > density else (low, middle)
    return (quantile - (low + high) / 2) / sharpness


def calibrated_probability(importance: Edges, density: float, sharpness: float = 0.2) -> Edges:
    """The keep-probabilities of `calibrated_logit`."""
    return torch.sigmoid(calibrated_logit(importance, density, sharpness)).to(importance.dtype)


def calibrated_log_alpha(importance: Edges, density: float, sharpness: float = 0.2) -> Edges:
    """Parameters of a `HardConcrete` whose expected density is `density`."""
    return (calibrated_logit(importance, density, sharpness) + SHIFT).to(importance.dtype)
