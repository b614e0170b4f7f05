"""The few tests that the evidence needs, exact or by permutation, and their correction."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

Verdict = Literal["pass", "fail", "undecided"]
"""Of a test: not rejected though that was possible, rejected, or not to be told."""
ALPHA = 0.05
"""Below this, a p-value (corrected where there are many) rejects its hypothesis."""
MOST_PAIRS = 1000
"""HSIC looks at no more pairs than this: its cost grows with their cube."""


def verdict_of(p: float, least: float) -> Verdict:
    """`undecided` if even the `least` p to be had would not reject, else `fail` if p does."""
    if least >= ALPHA:
        return "undecided"
    return "fail" if p < ALPHA else "pass"


def worst_of(verdicts: Iterable[Verdict]) -> Verdict:
    """`fail` if any fails, else `undecided` if any is, else `pass`."""
    found = set(verdicts)
    if "fail" in found:
        return "fail"
    return "undecided" if "undecided" in found else "pass"


def binomial(n: int, p: float) -> Float64[Tensor, " k"]:
    """Probability of 0, 1, ..., n successes in n trials of probability `0 < p < 1`."""
    k = torch.arange(n + 1, dtype=torch.float64)
    whole = torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64))
    ways = whole - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    chance = torch.tensor([p, 1 - p], dtype=torch.float64).log()
    return (ways + k * chance[0] + (n - k) * chance[1]).exp()


def sign_test(wins: int, n: int, epsilon: float = 0.0) -> float:
    """Two-sided p-value of `|P(win) - 1/2| <= epsilon`, from `wins` of `n`.

    The probability of a share at least as far from 1/2, where the hypothesis makes that most
    likely: at `1/2 + epsilon`. With `epsilon = 0` it is the sign test. 1 for no trials.
    """
    distance = (2 * torch.arange(n + 1) - n).abs()
    return _at_most_1(binomial(n, 0.5 + epsilon)[distance >= abs(2 * wins - n)].sum())


def share_test(successes: int, n: int, share: float) -> float:
    """One-sided p-value of `P(success) >= share`: of so few `successes` of `n`, or fewer."""
    return _at_most_1(binomial(n, share)[: successes + 1].sum())


def rank_test(value: float, others: Float64[Tensor, " n"]) -> float:
    """One-sided p-value that `value` is one more draw of `others`: the share at least as large.

    `(1 + #{others >= value}) / (1 + n)`, as the value is one of the draws under the hypothesis.

    Source: Phipson and Smyth 2010, "Permutation P-values should never be zero".
    """
    return (1 + int((others >= value).sum())) / (1 + len(others))


def hsic_test(
    x: Float64[Tensor, " n"],
    y: Float64[Tensor, " n"],
    n_permutations: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """HSIC of x and y, and the p-value of their independence by permutations of y.

    The biased statistic `trace(K H L H) / n^2` with Gaussian kernels whose widths are the median
    distances between the values of x, and of y. 0 and 1 if either is constant, or of one value.

    Source: Gretton et al. 2007, "A Kernel Statistical Test of Independence".
    """
    n = len(x)
    if n < 2:
        return 0.0, 1.0
    left, right = _centred_features(x), _centred_features(y)
    if left is None or right is None:
        return 0.0, 1.0

    def statistic(order: Tensor) -> Tensor:
        return (left.T @ right[order]).square().sum() / n**2

    observed = statistic(torch.arange(n))
    drawn = [torch.randperm(n, generator=generator) for _ in range(n_permutations)]
    permuted = torch.stack([statistic(order) for order in drawn])
    nearly = observed.item() * (1 - 1e-9)  # the same order again differs by rounding
    return observed.item(), rank_test(nearly, permuted)


def least_hsic_p(n: int, n_permutations: int) -> float:
    """The least p to expect of n values: the observed order is drawn again once in `n!`."""
    return max(1 / (1 + n_permutations), 1 / math.factorial(n))


def _centred_features(values: Float64[Tensor, " n"]) -> Float64[Tensor, "n rank"] | None:
    """F with `F F^T = H K H` for the Gaussian kernel K; None for constant values.

    A smooth kernel of one variable has few eigenvalues above rounding, so F is narrow, and a
    permuted statistic costs `n * rank^2` instead of `n^2` with a gather.
    """
    distances = (values[:, None] - values[None, :]).abs()
    apart = distances[torch.ones_like(distances).triu(1).bool()]
    width = apart.quantile(0.5) if len(apart) <= 1 << 24 else apart.median()
    if width == 0:
        width = distances.mean()  # most values are the same
    if width == 0:
        return None
    kernel = torch.exp(-((distances / width) ** 2) / 2)
    means = kernel.mean(dim=0)
    found, vectors = torch.linalg.eigh(kernel - means - means[:, None] + means.mean())
    kept = found > 1e-13 * found[-1]
    features: Tensor = vectors[:, kept] * found[kept].sqrt()
    return features


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number: the chance of any false rejection stays below alpha.

    `max over the j smallest up to this one of (m - j + 1) * p_(j)`, at most 1.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[place]))
        corrected[place] = least
    return corrected


def _at_most_1(probability: Tensor) -> float:
    return min(1.0, probability.item())
