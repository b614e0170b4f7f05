"""Learners: trained parameters behind the gates, and where they start.

A learner turns (seed, step) into one gate per edge, differentiable in its parameters, and its
parameters into one ranking of all edges. Noise depends on (seed, step) alone, so a resumed run
draws what the uninterrupted one would have.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_from
from circuitprune.errors import ConfigError, old_names
from circuitprune.training.budgets import Budgets

Edges = Float[Tensor, " edge"]

LEFT, RIGHT = -0.1, 1.1
"""The interval a hard-concrete sample is stretched to before it is clamped to [0, 1]."""
HARD_CONCRETE_TEMPERATURE = 2 / 3
MASKS = ("mixed", "straight_through", "sigmoid")
SHIFT = HARD_CONCRETE_TEMPERATURE * math.log(-LEFT / RIGHT)
"""`log_alpha` minus the logit of P(gate > 0)."""


def noise_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator whose stream is a function of (seed, step) on every device."""
    return torch.Generator().manual_seed(
        (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) % 2**63
    )


def corrupts(seed: int, step: int) -> bool:
    """Whether a step of joint training cuts its best edges instead of keeping them: every second.

    A coin of its own, independent of the budget and of the mask.
    """
    return torch.rand(3, generator=noise_generator(seed, step))[2].item() < 0.5


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


def soft_top_k(scores: Edges, k: float, temperature: float, costs: Edges | None = None) -> Edges:
    """Gates `sigmoid((scores - tau) / temperature)` with tau such that their costs sum to k.

    Differentiable in `scores`, tau included: by the implicit function theorem
    `d tau / d scores_i = c_i s_i / sum(c s)` with `s` the slopes of the sigmoids and `c` the costs.

    Args:
        scores: One per edge.
        k: Expected cost of the open edges, in (0, cost of all): their number without `costs`.
        temperature: Width of the transition, in units of `scores`.
        costs: What each edge takes from k; 1 without.
    """
    costs = torch.ones_like(scores) if costs is None else costs
    with torch.no_grad():
        tau = _threshold(scores, k, temperature, costs)
        gates = torch.sigmoid((scores - tau) / temperature)
        slopes = costs * (gates * (1 - gates))
        share = slopes / slopes.sum().clamp(min=torch.finfo(scores.dtype).tiny)
    tau = tau + (share * (scores - scores.detach())).sum()
    return torch.sigmoid((scores - tau) / temperature)


def cooled_by(cooling: float, steps: int, n_edges: int) -> float:
    """By which factor a run's temperature falls: `1 + cooling * min(1, steps / n_edges)`.

    The choice sharpens as far as there are steps to tell edges apart by.
    """
    return 1 + cooling * min(1.0, steps / n_edges)


def _threshold(scores: Edges, k: float, temperature: float, costs: Edges) -> Tensor:
    """The tau at which the sigmoids' costs sum to k, by bisection to the dtype's precision."""
    margin = temperature * (math.log(len(scores)) + 20)
    low, high = scores.min() - margin, scores.max() + margin
    for _ in range(48):
        middle = (low + high) / 2
        too_many = (costs * torch.sigmoid((scores - middle) / temperature)).sum() > k
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    return (low + high) / 2


class TopK(nn.Module):
    """One score per edge; each step keeps a random budget of the best.

    The budget is drawn by a schedule of `Budgets`, so one run learns an order of *all* edges,
    sparse and dense, and needs no sparsity penalty. The forward pass sees, by `mask`:

    - `sigmoid`: the gates of `soft_top_k`, which leave every edge a little open;
    - `straight_through`: the hard top-k that is verified later, with the gradient of `soft_top_k`;
    - `mixed`: `h * hard + (1 - h) * soft` with a new h, uniform in [0, 1], at each step. Hard masks
      alone are unstable on serial circuits: with one link of a path closed, the others have no
      gradient. Soft masks alone order the dense end worse, where no edge is ever quite closed.

    Args:
        scores: Initial scores, larger is kept earlier.
        k_min: Smallest budget, in edges; default 4, or `k_max` if that is less.
        k_max: Largest budget, in edges; default all.
        temperature: Of `soft_top_k`, at the first step.
        mask: `mixed`, `straight_through` or `sigmoid`.
        schedule: How budgets are drawn: one of `budgets.SCHEDULES`.
        graph: If given, budgets count live edges: a step keeps the shortest prefix of the order
            with that many edges on a path from the input to the logits.
        averages: Whether there is room for an average of the scores, which `remember` fills and
            `ranking` then tells: noise of single steps cancels in it.
        costs: What each edge takes from a budget; 1 without.
        cooled: The factor by which the temperature has fallen after `steps`; in between it falls by
            the same factor at each step.
        steps: Length of the run.
        cut: Sizes, in edges, that the order will be cut to; for the schedule `at_sizes`.

    Raises:
        ConfigError: budgets or temperature out of range, or another mask or schedule.

    Source: the soft top-k under random budgets is that of MAttr (arXiv 2609.25518).
    """

    mean: Edges
    n_averaged: Int[Tensor, ""]
    costs: Edges

    def __init__(
        self,
        scores: Edges,
        k_min: float | None = None,
        k_max: float | None = None,
        temperature: float = 0.5,
        mask: str = "mixed",
        schedule: str = "log_uniform",
        graph: Graph | None = None,
        averages: bool = False,
        costs: Edges | None = None,
        cooled: float = 1.0,
        steps: int = 1,
        cut: Sequence[float] = (),
    ) -> None:
        super().__init__()
        n_edges = len(scores)
        k_max = float(n_edges if k_max is None else k_max)
        k_min = min(4.0, k_max) if k_min is None else k_min
        self.budgets = Budgets(k_min, k_max, n_edges, schedule, cut)
        if temperature <= 0:
            raise ConfigError(f"gates.temperature must be positive, got {temperature}")
        self.scores = nn.Parameter(scores.clone())
        if mask not in MASKS:
            raise ConfigError(f"gates.mask must be one of {', '.join(MASKS)}, got {mask!r}")
        self.temperature, self.mask, self.graph = temperature, mask, graph
        self.cooled, self.steps = cooled, max(1, steps)
        self.averages = averages
        costs = torch.ones_like(scores) if costs is None else costs
        self.register_buffer("costs", costs, persistent=False)
        self.most = costs.sum(dtype=torch.float64).item() - 0.5
        if averages:
            self.register_buffer("mean", scores.clone())
            self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))

    def budget(self, seed: int, step: int) -> float:
        """The number of edges that this step's schedule asks for."""
        return self.budgets.at(_place(seed, step))

    def kept(self, k: float) -> float:
        """The number of edges of the order that a budget stands for."""
        if self.graph is None:
            return k
        live = live_from(self.graph, places(self.scores.detach())).sort().values
        return float(live[max(0, math.ceil(k) - 1)])

    def hardness(self, seed: int, step: int) -> float:
        """The weight of the hard mask in this step's gates, in [0, 1]."""
        if self.mask == "mixed":
            return torch.rand(2, generator=noise_generator(seed, step))[1].item()
        return float(self.mask == "straight_through")

    def sample(self, seed: int, step: int) -> Edges:
        """This step's gates."""
        k = self.kept(self.budget(seed, step))
        return self.gates(k, self.hardness(seed, step), self.temperature_at(step))

    def temperature_at(self, step: int) -> float:
        """The width at a step: `temperature / cooled ** (step / steps)`."""
        return float(self.temperature / self.cooled ** min(1.0, step / self.steps))

    def gates(self, k: float, hardness: float, temperature: float | None = None) -> Edges:
        """The gates of the k best edges, between their soft form at 0 and the hard one at 1.

        By default at the first temperature.
        """
        temperature = self.temperature if temperature is None else temperature
        soft = soft_top_k(self.scores, min(k, self.most), temperature, self.costs)
        hard, order = torch.zeros_like(soft), best_first(self.scores.detach())
        paid = self.costs[order].cumsum(0, dtype=torch.float64) < k + 0.5  # to the nearest
        paid[0] = True
        hard[order] = paid.to(hard)
        hard = hard + (soft - soft.detach())  # in this order exactly 0 or 1
        return hardness * hard + (1 - hardness) * soft

    def asks(self, seed: int, step: int) -> bool:
        """Whether `budgets.agreed` waits for how this step's circuit does."""
        return self.budgets.tries_the_largest(_place(seed, step))

    def remember(self, now: bool) -> None:
        """Take the present scores into the average, or begin a new one later."""
        self.n_averaged = (self.n_averaged + 1) * now
        if now:
            self.mean += (self.scores.detach() - self.mean) / self.n_averaged

    def ranking(self) -> Edges:
        """The trained order: keep larger values first."""
        if self.averages and self.n_averaged > 0:
            return self.mean
        return self.scores.detach()

    def probabilities(self) -> Edges:
        """Share of budgets under which each edge is kept, in [0, 1]: what histograms show."""
        place = places(self.ranking())
        before = place
        if self.graph is not None:  # how many of the edges before it are live without it
            before = torch.searchsorted(
                live_from(self.graph, place).sort().values, place, right=True
            )
        sizes = self.budgets.sizes().to(place.device)
        smaller = torch.searchsorted(sizes, (before + 1).double())
        return (1 - smaller / len(sizes)).to(self.scores.dtype)


def _place(seed: int, step: int) -> float:
    """Where in [0, 1] a step's budget lies."""
    return torch.rand((), generator=noise_generator(seed, step)).item()


# ---------------------------------------------------------------- hard concrete


def open_probability(log_alpha: Edges) -> Edges:
    """P(gate > 0) of a hard-concrete gate, `sigmoid(log_alpha - T * log(-LEFT / RIGHT))`.

    Source: Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization"
    (arXiv 1712.01312).
    """
    return torch.sigmoid(log_alpha - SHIFT)


def log_alpha_for(probability: Edges) -> Edges:
    """The parameter whose gate is open with this probability: the inverse of `open_probability`."""
    return torch.logit(probability) + SHIFT


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


__getattr__ = old_names(
    __name__,
    {
        "check_budgets": "training.budgets.check_budgets",
        "calibrated_log_alpha": "training.starts.calibrated_log_alpha",
        "calibrated_logit": "training.starts.calibrated_logit",
        "calibrated_probability": "training.starts.calibrated_probability",
        "normal_scores": "training.starts.normal_scores",
    },
)
