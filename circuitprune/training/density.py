"""How many edges to keep at each step, the price of keeping more, and how fast to learn."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitprune.errors import ConfigError

PENALTIES = ("lagrangian", "fixed")


@dataclass(frozen=True)
class DensitySchedule:
    """Target density, linear from `start` to `end` over the first `warmup` steps, then constant."""

    start: float
    end: float
    warmup: int

    def __post_init__(self) -> None:
        if not (0 <= self.end <= 1 and 0 <= self.start <= 1):
            raise ConfigError(f"densities must lie in [0, 1], got {self.start} to {self.end}")

    def __call__(self, step: int) -> float:
        """The target at a step."""
        progress = min(step / self.warmup, 1.0) if self.warmup > 0 else 1.0
        return self.start + (self.end - self.start) * progress


class Lagrangian(nn.Module):
    """`l1 * (density - target) + l2 * (density - target)^2`, its multipliers learned by ascent.

    Both start at 0 and grow while the constraint is violated, so no weight needs tuning
    (Wang et al. 2020, arXiv 1910.04732; Edge-Pruning, arXiv 2406.16778).
    """

    def __init__(self) -> None:
        super().__init__()
        self.multipliers = nn.Parameter(torch.zeros(2))

    def forward(self, density: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
        """The penalty to add to the loss."""
        gap = density - target
        return self.multipliers[0] * gap + self.multipliers[1] * gap.square()


class FixedPenalty(nn.Module):
    """`weight * max(density - target, 0)`: a constant price per edge above the target."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, density: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
        """The penalty to add to the loss."""
        return self.weight * (density - target).clamp(min=0)


Penalty = Lagrangian | FixedPenalty


def make_penalty(name: str, weight: float) -> Penalty:
    """The penalty of that name. Raises ConfigError for another name."""
    if name == "lagrangian":
        return Lagrangian()
    if name == "fixed":
        return FixedPenalty(weight)
    raise ConfigError(f"gates.penalty must be one of {', '.join(PENALTIES)}, got {name!r}")


def rate_factor(step: int, steps: int, warmup: int, end: float) -> float:
    """The learning rate of a step as a fraction of its peak: up linearly, then down linearly.

    Args:
        step: From 0.
        steps: Length of the run.
        warmup: Steps of the way up.
        end: Fraction at the last step, and behind it.

    Example:
        >>> [rate_factor(step, 12, 2, 0.5) for step in (0, 1, 2, 7, 12)]
        [0.3333333333333333, 0.6666666666666666, 1.0, 0.75, 0.5]
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return 1 - (1 - end) * min(progress, 1.0)
