"""How many edges a step of `TopK` keeps: drawn anew at each step, by one of several schedules."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from circuitprune.errors import ConfigError
from circuitprune.files.text import counted

SCHEDULES = ("log_uniform", "log_both", "uniform", "adaptive", "at_sizes")
AGREEMENT = 0.95
"""Share of examples on which the largest circuit of the `adaptive` schedule agrees with the model.
"""
PROBES = 0.25
"""Share of the steps of the `adaptive` schedule that try its largest budget."""
AT_SIZES = 0.7
"""Share of the steps of the `at_sizes` schedule near a size that is cut."""
NEAR = 0.12
"""How near, as a difference of logarithms."""


def check_budgets(k_min: float, k_max: float, n_edges: int) -> None:
    """Refuse budgets, in edges, that no step can keep.

    Raises:
        ConfigError: the smallest is 0, above the largest, or the largest above all edges.
    """
    if not 0 < k_min <= k_max <= n_edges:
        raise ConfigError(
            f"budgets must satisfy 0 < gates.k_min <= gates.k_max <= {counted(n_edges, 'edge')}, "
            f"got {k_min:g} and {k_max:g}; k_min counts edges, k_max is a fraction of all"
        )


def log_between(low: float, high: float, u: float) -> float:
    """The number at the place u in [0, 1] between two others, by their logarithms."""
    return math.exp(math.log(low) + u * math.log(high / low))


class Budgets(nn.Module):
    """A number of edges from a place u in [0, 1]; u is drawn uniformly.

    With n edges in all:

    - `log_uniform`: log-uniform in [k_min, k_max]: as many steps for 10 to 20 edges as for 1,000 to
      2,000;
    - `log_both`: half of the steps so, the others keep n less such a number, so that what comes
      last in the order has a say as well;
    - `uniform`: uniform in [k_min, k_max], almost all steps at dense circuits: what MIB's areas
      over circuit sizes reward (MAttr, arXiv 2609.25518);
    - `adaptive`: log-uniform in [k_min, K], where K moves, by the rule of Robbins and Monro 1951,
      to where the circuit's most likely token is the model's on 95 % of the examples. Steps are
      spent where circuits still differ from the model;
    - `at_sizes`: 70 % of the steps within 12 % of one of `cut`, each as often, the others
      log-uniform: what is learned is what is cut afterwards. The full circuit is left out, as it
      teaches nothing.

    Args:
        k_min, k_max: In edges.
        n_edges: Of the graph.
        schedule: One of `SCHEDULES`.
        cut: Sizes of the circuits that the order will be cut to, in edges; for `at_sizes`.

    Raises:
        ConfigError: budgets out of range, another schedule, or no size for `at_sizes`.
    """

    top: Float[Tensor, ""]
    probes: Float[Tensor, ""]

    def __init__(
        self,
        k_min: float,
        k_max: float,
        n_edges: int,
        schedule: str,
        cut: Sequence[float] = (),
    ) -> None:
        super().__init__()
        check_budgets(k_min, k_max, n_edges)
        if schedule not in SCHEDULES:
            raise ConfigError(
                f"gates.budgets must be one of {', '.join(SCHEDULES)}, got {schedule!r}"
            )
        self.k_min, self.k_max, self.n_edges = float(k_min), float(k_max), n_edges
        self.schedule, self.cut = schedule, [size for size in cut if size < n_edges]
        if schedule == "at_sizes" and not self.cut:
            raise ConfigError(
                "gates.budgets=at_sizes needs one of verify.sizes below 1; take log_uniform"
            )
        if schedule == "adaptive":
            self.register_buffer("top", torch.tensor(math.log(k_max), dtype=torch.float64))
            self.register_buffer("probes", torch.zeros((), dtype=torch.float64))

    def at(self, u: float) -> float:
        """The budget at a place in [0, 1]."""
        return min(_AT[self.schedule](self, u), float(self.n_edges))  # which rounding may pass

    def sizes(self, places: int = 1024) -> Float64[Tensor, " place"]:
        """Budgets at evenly spaced places, ascending: their distribution."""
        found = [self.at((i + 0.5) / places) for i in range(places)]
        return torch.tensor(found, dtype=torch.float64).sort().values

    def tries_the_largest(self, u: float) -> bool:
        """Whether the budget at this place is the `adaptive` schedule's largest."""
        return self.schedule == "adaptive" and u >= 1 - PROBES

    def agreed(self, share: float) -> None:
        """Move the `adaptive` schedule's largest budget by how its circuit did.

        `log K += 2 (AGREEMENT - share) / sqrt(number of tries)`, within [k_min, k_max].

        Args:
            share: Of examples on which circuit and model agree.
        """
        self.probes += 1
        self.top += 2 * (AGREEMENT - share) / self.probes.sqrt()
        self.top.clamp_(math.log(self.k_min), math.log(self.k_max))


def _log_uniform(of: Budgets, u: float) -> float:
    return log_between(of.k_min, of.k_max, u)


def _log_both(of: Budgets, u: float) -> float:
    if u < 0.5:
        return log_between(of.k_min, of.k_max, 2 * u)
    left_out = log_between(of.k_min, of.k_max, 2 * u - 1)
    return max(of.k_min, of.n_edges - left_out)


def _uniform(of: Budgets, u: float) -> float:
    return of.k_min + u * (of.k_max - of.k_min)


def _adaptive(of: Budgets, u: float) -> float:
    top = min(of.k_max, math.exp(of.top.item()))
    return log_between(of.k_min, top, min(1.0, u / (1 - PROBES)))


def _at_sizes(of: Budgets, u: float) -> float:
    if u >= AT_SIZES:
        return log_between(of.k_min, of.k_max, (u - AT_SIZES) / (1 - AT_SIZES))
    i, rest = divmod(u / AT_SIZES * len(of.cut), 1)
    near = of.cut[int(i)] * math.exp(NEAR * (2 * rest - 1))
    return min(max(near, of.k_min), of.k_max)


_AT: dict[str, Callable[[Budgets, float], float]] = {
    "log_uniform": _log_uniform,
    "log_both": _log_both,
    "uniform": _uniform,
    "adaptive": _adaptive,
    "at_sizes": _at_sizes,
}
