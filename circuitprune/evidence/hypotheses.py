"""Three hypotheses that an ideal circuit would meet, each tested: Shi et al. 2024.

The circuit is as good as the model (equivalence), what is left without it knows nothing of what the
model does (independence), and none of its edges is idle (minimality). In the first and the third
the hypothesis that the circuit is ideal stands until rejected, in the second too: few pairs leave
every circuit unrejected, so each result says what it would have taken, and is undecided where no
outcome could have rejected it.

Source: Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in LLMs" (arXiv 2410.13032).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.errors import old_names
from circuitprune.evidence.case import Case
from circuitprune.evidence.idle_edges import IdleEdges, NoIdleEdges, idle_edges
from circuitprune.evidence.statistics import (
    ALPHA,
    MOST_PAIRS,
    Verdict,
    hsic_test,
    least_hsic_p,
    sign_test,
    verdict_of,
    worst_of,
)
from circuitprune.files.text import counted

EPSILON = 0.1
"""A chance to win within this of 1/2 counts as equal: the paper's choice."""
ROUNDING = {torch.float64: 100, torch.float32: 100, torch.bfloat16: 4}
"""Differences that count as none, in steps of the model's dtype. Between the open gates and the
model up to 7 were seen in float32, 3 in bfloat16, where 100 would be a factor of eight."""


@dataclass(frozen=True)
class Equivalence:
    """Whether the circuit is as good as the model."""

    n_pairs: int
    """Pairs on which they differ."""
    n_ties: int
    """Pairs on which both score the same, left out."""
    tolerance: float
    """Share of two scores' magnitudes up to which they are the same."""
    epsilon: float
    """A chance to win within this of 1/2 counts as equal."""
    statistic: float | None
    """Share of the pairs on which the circuit wins, in [0, 1]; None without a pair."""
    p: float
    """Of that share, two-sided, in [0, 1]."""
    p_sign: float
    """The same with an epsilon of 0: the sign test's."""
    mean_difference: float
    """Circuit minus model, in the metric's unit."""
    verdict: Verdict
    """Whether equality is rejected."""
    sentence: str
    """The same in words."""


@dataclass(frozen=True)
class Independence:
    """Whether what is left without the circuit knows nothing of what the model does."""

    n_pairs: int
    """Pairs, at most `statistics.MOST_PAIRS`."""
    n_permutations: int
    """Orders drawn at random."""
    statistic: float
    """HSIC of both scores, at least 0."""
    p: float
    """Share of orders with as much, in (0, 1]."""
    correlation: float | None
    """Pearson's, in [-1, 1]; None if either is constant."""
    complement_metric: float
    """Mean task metric of the model without the circuit's edges."""
    verdict: Verdict
    """Whether independence is rejected."""
    sentence: str
    """The same in words."""


@dataclass(frozen=True)
class Hypotheses:
    """The section `hypotheses`: what an ideal circuit would meet."""

    n_pairs: int
    """Held-out pairs."""
    alpha: float
    """Below this, a p rejects its hypothesis."""
    equivalence: Equivalence
    """Is the circuit as good as the model?"""
    independence: Independence
    """Does the rest know nothing?"""
    minimality: IdleEdges | NoIdleEdges
    """Is no edge idle?"""
    verdict: Verdict
    """The worst of the three."""
    sentence: str
    """The same in words."""


def hypotheses(case: Case) -> Hypotheses:
    """Equivalence, independence and minimality, each with statistic, p-value and a sentence.

    An ideal circuit meets all three, so `verdict` is `fail` if any is rejected. With each at 5 %,
    an ideal one fails by chance up to three times as often.
    """
    masks = {"circuit": case.mask, "complement": ~case.mask}
    progress = case.watch("equivalence", "runs")
    found = evaluate_each(case.references, masks, case.batches, case.task_metric, progress)
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    equal = equivalence(found["circuit"], full, rounding(case.references.gated.dtype))
    apart = independence(case, found["complement"], full)
    idle = idle_edges(case)
    told = f"equivalence {equal.verdict}, independence {apart.verdict}, minimality {idle.verdict}"
    sentence = (
        f"Of the three hypotheses of an ideal circuit: {told}. A pass means not rejected, though "
        "that was possible."
    )
    return Hypotheses(
        n_pairs=case.n_examples,
        alpha=ALPHA,
        equivalence=equal,
        independence=apart,
        minimality=idle,
        verdict=worst_of((equal.verdict, apart.verdict, idle.verdict)),
        sentence=sentence,
    )


def rounding(dtype: torch.dtype) -> float:
    """Share of two scores' magnitudes up to which their difference is rounding."""
    return ROUNDING[dtype] * torch.finfo(dtype).eps


def equivalence(circuit: Examples, full: Examples, tolerance: float = 0.0) -> Equivalence:
    """Does the circuit beat the model on half of the pairs, give or take `EPSILON`?

    H0: `|P(metric of circuit > metric of model) - 1/2| <= epsilon`, by the exact binomial test of
    the paper (`p`), and with epsilon 0, which is the sign test (`p_sign`). Pairs on which both
    score the same, within `tolerance` of their magnitudes, are left out; the paper assumes that
    there are none. If no other is left, the circuit passes where as many pairs could reject it.

    A pair's magnitude counts as at least the mean one: where large logits nearly cancel, their
    rounding does not.
    """
    difference = circuit.metric - full.metric
    size = circuit.metric.abs() + full.metric.abs()
    tied = difference.abs() <= tolerance * size.clamp(min=size.mean())
    wins, ties = int((difference > 0)[~tied].sum()), int(tied.sum())
    n = len(difference) - ties
    p, p_sign = sign_test(wins, n, EPSILON), sign_test(wins, n)
    most = n or ties
    rejected, least = p < ALPHA, sign_test(most, most, EPSILON)
    sentence = (
        f"The circuit scores above the full model on {wins} of {counted(n, 'pair')} "
        f"({counted(ties, 'tie')} left out); that its chance to win is within {EPSILON:g} of 1/2 "
        f"is {'rejected' if rejected else 'not rejected'} (p = {p:.3g}; sign test p = "
        f"{p_sign:.3g}). {_needed(n, least)} Wins are counted, not their size: the mean "
        f"difference is {difference.mean().item():+.3g}."
    )
    return Equivalence(
        n_pairs=n,
        n_ties=ties,
        tolerance=tolerance,
        epsilon=EPSILON,
        statistic=wins / n if n else None,
        p=p,
        p_sign=p_sign,
        mean_difference=difference.mean().item(),
        verdict=verdict_of(p, least),
        sentence=sentence,
    )


def _needed(n: int, least: float) -> str:
    if least >= ALPHA:
        return "No number of wins would have rejected it: there are too few pairs."
    if n == 0:
        return "Both score alike on every pair."
    enough = next(k for k in range(n // 2 + 1, n + 1) if sign_test(k, n, EPSILON) < ALPHA)
    return f"{counted(enough, 'win')} or more, or {n - enough} or fewer, would have rejected it."


def independence(case: Case, complement: Examples, full: Examples) -> Independence:
    """Is what the complement scores on a pair independent of what the model scores on it?

    H0: independent, by HSIC and permutations. If rejected, the model without the circuit still
    knows something of the task. The paper takes one kernel width for both, the median distance
    between the two, and counts permutations without the observed order; here each has its own
    width and the observed order counts, so that p is never 0 and valid. `n_bootstrap` permutations.
    """
    x, y = complement.metric[:MOST_PAIRS], full.metric[:MOST_PAIRS]
    generator = case.generator("independence")
    statistic, p = hsic_test(x, y, case.n_bootstrap, generator)
    verdict = verdict_of(p, least_hsic_p(len(x), case.n_bootstrap))
    rejected = verdict == "fail"
    too_few = " No outcome would have rejected it: there are too few pairs or permutations."
    sentence = (
        f"Without the circuit, what is left scores {x.mean().item():.3g} on average; that this "
        f"is independent of the full model's is {'rejected' if rejected else 'not rejected'} "
        f"(HSIC {statistic:.3g}, p = {p:.3g} by {counted(case.n_bootstrap, 'permutation')} of "
        f"{counted(len(x), 'pair')})"
        + ("; the complement still knows something of the task." if rejected else ".")
        + (too_few if verdict == "undecided" else "")
    )
    return Independence(
        n_pairs=len(x),
        n_permutations=case.n_bootstrap,
        statistic=statistic,
        p=p,
        correlation=_correlation(x, y),
        complement_metric=x.mean().item(),
        verdict=verdict,
        sentence=sentence,
    )


def _correlation(x: Float64[Tensor, " n"], y: Float64[Tensor, " n"]) -> float | None:
    """Pearson's, None if either is constant or there is one pair only."""
    x, y = x - x.mean(), y - y.mean()
    size = (x.square().sum() * y.square().sum()).sqrt()
    return (x @ y / size).item() if size > 0 else None


__getattr__ = old_names(
    __name__,
    {
        "minimality": "evidence.idle_edges.idle_edges",
        **{name: f"evidence.idle_edges.{name}" for name in ("AT_ONCE", "LEAST_PAIRS", "Q")},
        "random_path": "evidence.idle_edges.random_path",
    },
)
