"""Percentile bootstrap over pairs: intervals for means and ratios of means, with no new runs."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from circuitprune.errors import MetricError
from circuitprune.files.text import rounded

TOO_CLOSE = 1e-6
"""A difference below this share of what it is between is rounding: `metrics.faithfulness`."""


@dataclass(frozen=True)
class Interval:
    """A number with its percentile bootstrap interval over pairs, in the number's own unit."""

    value: float | None
    """On the pairs themselves; None where it is undefined, as a ratio to nothing is."""
    low: float | None
    """Lower end; None if the number is undefined on every resample."""
    high: float | None
    """Upper end; likewise."""

    def exceeds(self, limit: float) -> bool:
        """Whether the whole interval lies above the limit."""
        return self.low is not None and self.low > limit

    def is_at_most(self, limit: float) -> bool:
        """Whether the whole interval lies at or below the limit."""
        return self.high is not None and self.high <= limit


UNDEFINED = Interval(None, None, None)


@dataclass(frozen=True)
class Estimate(Interval):
    """An interval that is always defined, as that of a mean is; of one pair it has no width."""

    value: float
    """On the pairs themselves."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of the pairs, drawn once and used for every number of a section.

    A statistic is computed on each resample from weighted sums over the pairs, all resamples at
    once; the interval reaches from the `(1 - level) / 2` to the `(1 + level) / 2` quantile of what
    comes out. Circuits are resampled together, so a ratio of two of them is that of the same pairs.

    Of few pairs it is too narrow: at 16 a 95 % interval of a mean covers about 90 %.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """

    weights: Float64[Tensor, "resample example"]
    """How often a resample holds each pair, divided by its size; rows add up to 1."""
    level: float = 0.95

    @classmethod
    def of_indices(
        cls, indices: Int[Tensor, "resample example"], level: float = 0.95
    ) -> "Bootstrap":
        """From the positions of the pairs in each resample."""
        n_examples = indices.shape[1]
        counts = torch.zeros(indices.shape, dtype=torch.float64)
        counts.scatter_add_(1, indices, torch.ones_like(counts))
        return cls(counts / n_examples, level)

    @classmethod
    def draw(
        cls, n_examples: int, n_resamples: int, generator: torch.Generator, level: float = 0.95
    ) -> "Bootstrap":
        """`n_resamples` times `n_examples` pairs with replacement."""
        shape = (n_resamples, n_examples)
        return cls.of_indices(torch.randint(n_examples, shape, generator=generator), level)

    def mean(self, values: Float64[Tensor, " example"]) -> Estimate:
        """Of the mean over pairs.

        Raises:
            MetricError: a value that is not finite.
        """
        if not bool(values.isfinite().all()):
            raise MetricError("a mean over pairs was asked for, but a pair's value is not finite")
        return Estimate(values.mean().item(), *self._ends(self.weights @ values))

    def faithfulness(
        self,
        circuit: Float64[Tensor, " example"],
        full: Float64[Tensor, " example"],
        empty: Float64[Tensor, " example"],
    ) -> Interval:
        """Of `(mean(circuit) - mean(empty)) / (mean(full) - mean(empty))`: the ratio of means."""
        parts = circuit - empty, full - empty, full.abs() + empty.abs()
        value = ratio(*(part.mean() for part in parts)).item()
        return self.interval(value, ratio(*(self.weights @ part for part in parts)))

    def mean_of_ratios(
        self,
        circuit: Float64[Tensor, " example"],
        full: Float64[Tensor, " example"],
        empty: Float64[Tensor, " example"],
    ) -> Interval:
        """Of the mean of each pair's own `(circuit - empty) / (full - empty)`.

        A pair with full equal to empty has no ratio and is left out, in each resample too.
        """
        ratios = ratio(circuit - empty, full - empty, full.abs() + empty.abs())
        known = (~ratios.isnan()).double()
        sums = torch.stack([ratios.nan_to_num(0), known], dim=1)
        value, resampled = sums.sum(dim=0), self.weights @ sums
        return self.interval((value[0] / value[1]).item(), resampled[:, 0] / resampled[:, 1])

    def median_of_ratios(
        self,
        circuit: Float64[Tensor, " example"],
        full: Float64[Tensor, " example"],
        empty: Float64[Tensor, " example"],
    ) -> Interval:
        """Of the median of each pair's own ratio: no pair with a small denominator can move it.

        A pair without a ratio is left out, in each resample too.
        """
        ratios = ratio(circuit - empty, full - empty, full.abs() + empty.abs())
        known = ~ratios.isnan()
        if not bool(known.any()):
            return UNDEFINED
        values, order = ratios[known].sort()
        here = median(values, torch.ones(1, len(values), dtype=torch.float64))
        return self.interval(here.item(), median(values, self.weights[:, known][:, order]))

    def interval(self, value: float, estimates: Float64[Tensor, " resample"]) -> Interval:
        """The percentile interval around `value`; resamples where it is undefined are left out.

        Of one pair there is none: every resample is that pair, and no width is not certainty.
        """
        estimates = estimates[estimates.isfinite()]
        if not math.isfinite(value) or not len(estimates) or self.weights.shape[1] < 2:
            return Interval(finite(value), None, None)
        return Interval(value, *self._ends(estimates))

    def _ends(self, estimates: Float64[Tensor, " resample"]) -> tuple[float, float]:
        tail = (1 - self.level) / 2
        ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        low, high = estimates.quantile(ends).tolist()
        return low, high


def ratio(
    gained: Float64[Tensor, "..."], span: Float64[Tensor, "..."], size: Float64[Tensor, "..."]
) -> Float64[Tensor, "..."]:
    """`gained / span`, broadcast; NaN where the span is rounding next to `size`."""
    return (gained / span).masked_fill(span.abs() <= TOO_CLOSE * size, torch.nan)


def median(
    values: Float64[Tensor, " example"], weights: Float64[Tensor, "resample example"]
) -> Float64[Tensor, " resample"]:
    """Of sorted values that count as often as their weights say; NaN where all weights are 0.

    Between the two middle values where the weights split in halves, as of an even number of values.
    """
    total, last = weights.sum(dim=1, keepdim=True), len(values) - 1
    share = weights.cumsum(dim=1) / total
    ends = [(share < half).sum(dim=1).clamp(max=last) for half in (0.5 - 1e-9, 0.5 + 1e-9)]
    middle = (values[ends[0]] + values[ends[1]]) / 2
    return middle.masked_fill(total.squeeze(1) == 0, torch.nan)


def finite(value: float) -> float | None:
    """The value for JSON: None if it is NaN or infinite."""
    return value if math.isfinite(value) else None


def spell(interval: Interval, digits: int = 2) -> str:
    """`0.93 [0.90, 0.96]`, or `undefined`."""
    if interval.value is None:
        return "undefined"
    ends = (interval.value, interval.low, interval.high)
    value, *span = (rounded(end, f".{digits}f") for end in ends if end is not None)
    return f"{value} [{', '.join(span)}]" if span else value
