"""Learners: trained parameters behind the gates, and where they start.

A learner turns (seed, step) into one gate per edge, differentiable in its parameters, and its
parameters into one ranking of all edges. Noise depends on (seed, step) alone, so a resumed run
draws what the uninterrupted one would have.
"""

import math

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from circuitprune.errors import ConfigError

Edges = Float[Tensor, " edge"]

LEFT, RIGHT = -0.1, 1.1
"""The interval a hard-concrete sample is stretched to before it is clamped to [0, 1]."""
HARD_CONCRETE_TEMPERATURE = 2 / 3
MASKS = ("mixed", "straight_through", "sigmoid")
_SHIFT = HARD_CONCRETE_TEMPERATURE * math.log(-LEFT / RIGHT)
"""`log_alpha` minus the logit of P(gate > 0)."""


def noise_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator whose stream is a function of (seed, step) on every device."""
    return torch.Generator().manual_seed(
        (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) % 2**63
    )


def best_first(scores: Edges) -> Int[Tensor, " edge"]:
    """Edges from the largest score to the smallest; equal ones in the graph's order."""
    return scores.argsort(descending=True, stable=True)


def places(scores: Edges) -> Int[Tensor, " edge"]:
    """The place of each edge in `best_first`, counted from 0."""
    order = best_first(scores)
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order), device=order.device)
    return found


# ---------------------------------------------------------------- top-k of one score vector


def check_budgets(k_min: float, k_max: float, n_edges: int) -> None:
    """Refuse budgets, in edges, that no step can keep.

    Raises:
        ConfigError: the smallest is 0, above the largest, or the largest above all edges.
    """
    if not 0 < k_min <= k_max <= n_edges:
        raise ConfigError(
            f"budgets must satisfy 0 < gates.k_min <= gates.k_max <= {n_edges:,} edges, got "
            f"{k_min:g} and {k_max:g}; k_min counts edges, k_max is a fraction of all"
        )


def soft_top_k(scores: Edges, k: float, temperature: float) -> Edges:
    """Gates `sigmoid((scores - tau) / temperature)` with tau such that they sum to k.

    Differentiable in `scores`, tau included: by the implicit function theorem
    `d tau / d scores_i = s_i / sum(s)` with `s` the slopes of the sigmoids.

    Args:
        scores: One per edge.
        k: Expected number of open edges, in (0, n_edges).
        temperature: Width of the transition, in units of `scores`.
    """
    with torch.no_grad():
        tau = _threshold(scores, k, temperature)
        gates = torch.sigmoid((scores - tau) / temperature)
        slopes = gates * (1 - gates)
        share = slopes / slopes.sum().clamp(min=torch.finfo(scores.dtype).tiny)
    tau = tau + (share * (scores - scores.detach())).sum()
    return torch.sigmoid((scores - tau) / temperature)


def _threshold(scores: Edges, k: float, temperature: float) -> Tensor:
    """The tau at which the sigmoids sum to k, by bisection to the precision of the dtype."""
    margin = temperature * (math.log(len(scores)) + 20)
    low, high = scores.min() - margin, scores.max() + margin
    for _ in range(48):
        middle = (low + high) / 2
        too_many = torch.sigmoid((scores - middle) / temperature).sum() > k
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    return (low + high) / 2


class TopK(nn.Module):
    """One score per edge; each step keeps a random budget of the best.

    The budget is log-uniform in [k_min, k_max], so one run learns an order of *all* edges, sparse
    and dense, and needs no sparsity penalty. The forward pass sees, by `mask`:

    - `sigmoid`: the gates of `soft_top_k`, which leave every edge a little open;
    - `straight_through`: the hard top-k that is verified later, with the gradient of `soft_top_k`;
    - `mixed`: `h * hard + (1 - h) * soft` with a new h, uniform in [0, 1], at each step. Hard masks
      alone are unstable on serial circuits: with one link of a path closed, the others have no
      gradient. Soft masks alone order the dense end worse, where no edge is ever quite closed.

    Args:
        scores: Initial scores, larger is kept earlier.
        k_min: Smallest budget, in edges; default 8, or `k_max` if that is less.
        k_max: Largest budget, in edges; default all.
        temperature: Of `soft_top_k`.
        mask: `mixed`, `straight_through` or `sigmoid`.

    Raises:
        ConfigError: budgets or temperature out of range, or another mask.
    """

    def __init__(
        self,
        scores: Edges,
        k_min: float | None = None,
        k_max: float | None = None,
        temperature: float = 0.5,
        mask: str = "mixed",
    ) -> None:
        super().__init__()
        n_edges = len(scores)
        k_max = float(n_edges if k_max is None else k_max)
        k_min = min(8.0, k_max) if k_min is None else k_min
        check_budgets(k_min, k_max, n_edges)
        if temperature <= 0:
            raise ConfigError(f"gates.temperature must be positive, got {temperature}")
        self.scores = nn.Parameter(scores.clone())
        self.k_min, self.k_max = float(k_min), float(k_max)
        if mask not in MASKS:
            raise ConfigError(f"gates.mask must be one of {', '.join(MASKS)}, got {mask!r}")
        self.temperature, self.mask = temperature, mask

    def budget(self, seed: int, step: int) -> float:
        """The number of edges that this step keeps."""
        u = torch.rand((), generator=noise_generator(seed, step)).item()
        return math.exp(math.log(self.k_min) + u * math.log(self.k_max / self.k_min))

    def hardness(self, seed: int, step: int) -> float:
        """The weight of the hard mask in this step's gates, in [0, 1]."""
        if self.mask == "mixed":
            return torch.rand(2, generator=noise_generator(seed, step))[1].item()
        return float(self.mask == "straight_through")

    def sample(self, seed: int, step: int) -> Edges:
        """This step's gates."""
        k = self.budget(seed, step)
        soft = soft_top_k(self.scores, min(k, len(self.scores) - 0.5), self.temperature)
        hard = torch.zeros_like(soft)
        hard[best_first(self.scores.detach())[: max(1, round(k))]] = 1
        h = self.hardness(seed, step)
        hard = hard + (soft - soft.detach())  # in this order exactly 0 or 1
        return h * hard + (1 - h) * soft

    def ranking(self) -> Edges:
        """The trained order: keep larger values first."""
        return self.scores.detach()

    def probabilities(self) -> Edges:
        """Share of budgets under which each edge is kept, in [0, 1]: what histograms show."""
        ranking = self.ranking()
        rank = 1 + places(ranking).to(ranking.dtype)
        if self.k_min == self.k_max:
            return (rank <= self.k_min).to(rank.dtype)
        span = math.log(self.k_max / self.k_min)
        return 1 - (rank / self.k_min).log().clamp(0, span) / span


# ---------------------------------------------------------------- hard concrete


def open_probability(log_alpha: Edges) -> Edges:
    """P(gate > 0) of a hard-concrete gate, `sigmoid(log_alpha - T * log(-LEFT / RIGHT))`.

    Source: Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization"
    (arXiv 1712.01312).
    """
    return torch.sigmoid(log_alpha - _SHIFT)


def log_alpha_for(probability: Edges) -> Edges:
    """The parameter whose gate is open with this probability: the inverse of `open_probability`."""
    return torch.logit(probability) + _SHIFT


def sample_hard_concrete(log_alpha: Edges, uniform: Edges) -> Edges:
    """Gates in [0, 1] with mass at both ends.

    `clamp(sigmoid((logit(u) + log_alpha) / T) * (RIGHT - LEFT) + LEFT, 0, 1)`.
    """
    stretched = torch.sigmoid((torch.logit(uniform) + log_alpha) / HARD_CONCRETE_TEMPERATURE)
    return (stretched * (RIGHT - LEFT) + LEFT).clamp(0, 1)


class HardConcrete(nn.Module):
    """Independent hard-concrete gates, one `log_alpha` per edge.

    Args:
        log_alpha: Initial parameters; `calibrated_log_alpha` makes them from scores.
    """

    def __init__(self, log_alpha: Edges) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(log_alpha.clone())

    def sample(self, seed: int, step: int) -> Edges:
        """This step's gates."""
        generator = noise_generator(seed, step)
        uniform = torch.rand(len(self.log_alpha), generator=generator).clamp(1e-6, 1 - 1e-6)
        return sample_hard_concrete(self.log_alpha, uniform.to(self.log_alpha))

    def expected_density(self) -> Float[Tensor, ""]:
        """Expected fraction of open edges, in closed form; differentiable."""
        return open_probability(self.log_alpha).mean()

    def ranking(self) -> Edges:
        """The trained order: keep larger values first."""
        return self.log_alpha.detach()

    def probabilities(self) -> Edges:
        """P(gate > 0) of each edge."""
        return open_probability(self.log_alpha.detach())


Learner = TopK | HardConcrete


# ---------------------------------------------------------------- where gates start


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
    return (calibrated_logit(importance, density, sharpness) + _SHIFT).to(importance.dtype)
