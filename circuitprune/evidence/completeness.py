"""Completeness: is anything that the model uses missing from the circuit?

Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593), section 4. The same nodes K are
knocked out of the circuit C and of the whole model M. If C holds all that M does, both lose alike::

    gap(K)  =  F(C without K) - F(M without K),      near 0 for every K within C

F is the mean of the task metric over pairs. A node is knocked out by ablating every edge out of it.
A circuit can be faithful (gap of no nodes near 0) and still leave out a backup: the model then
survives a knock-out that the circuit does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.evidence.bootstrap import (
    UNDEFINED,
    Bootstrap,
    Interval,
    finite,
    ratio,
    spell,
)
from circuitprune.evidence.case import Case
from circuitprune.evidence.gaps import TOLERANCE, FamilyGaps, KnockOutGap, family_gaps
from circuitprune.evidence.knockouts import (
    Both,
    KnockOut,
    both,
    classes,
    greedy_sets,
    kept_writers,
    random_sets,
)
from circuitprune.evidence.statistics import Verdict
from circuitprune.files.text import counted
from circuitprune.metrics import Means


@dataclass(frozen=True)
class Complement(Means):
    """What the model does with exactly the circuit's edges ablated, as means over pairs."""

    faithfulness: Interval
    """Share of the full model's metric that it keeps."""


@dataclass(frozen=True)
class Completeness:
    """The section `completeness`."""

    n_pairs: int
    """Held-out pairs."""
    n_nodes: int
    """Nodes of the circuit that can be knocked out."""
    tolerance: float
    """Share of the span up to which both lose alike."""
    span: float
    """F of the full model minus F of the empty circuit, in the metric's unit."""
    mean_relative_gap: Interval
    """`|gap| / |span|` over telling knock-outs by class and at random, with its interval."""
    points: tuple[KnockOutGap, ...]
    """One for each knock-out: plot `model` against `circuit`."""
    summary: Mapping[str, FamilyGaps]
    """By the family of the knock-outs, of those that there are."""
    complement: Complement
    """The model without the circuit's edges."""
    verdict: Verdict
    """Whether the interval of the mean gap lies within the tolerance."""
    sentence: str
    """The same in words."""


def completeness(case: Case) -> Completeness:
    """Circuit and model under the same knock-outs, and what is left without the circuit.

    Knock-outs are none; the circuit's classes (the heads of a layer, the MLPs, the writers into q,
    k, v, MLP and logits readers); `n_knockouts` random sets of 10, 25, 50 and 75 % of its nodes;
    and greedy sets, which grow by the node that opens |gap| most. Wang et al. search those among
    ten random nodes at each step; here it is among `n_knockouts`, on the first pairs.

    A knock-out that leaves neither more than `TOLERANCE` of the span says nothing, since both then
    do as the empty circuit does. Only the others are *telling* and count in the verdict; the paper
    takes all alike.
    """
    nodes = kept_writers(case.graph, case.mask)
    sets = [KnockOut("none", "nothing", ()), *classes(case.graph, case.mask)]
    sets += [*random_sets(case, nodes), *greedy_sets(case, nodes)]
    once = {knock_out.writers: knock_out for knock_out in sets}  # families overlap
    progress = case.watch("knock-outs", "runs")
    runs = dict(zip(once, both(case, list(once.values()), case.batches, progress), strict=True))
    full, edges = _ends(case)
    scale = Scale(_bootstrap(case), full.metric, edges["empty"].metric)
    points = tuple(_point(case, knock_out, runs[knock_out.writers], scale) for knock_out in sets)
    gap = scale.mean_gap(
        [
            runs[knock_out.writers]
            for knock_out, point in zip(sets, points, strict=True)
            if point.telling and knock_out.family in ("class", "random")
        ]
    )
    found = Completeness(
        n_pairs=case.n_examples,
        n_nodes=len(nodes),
        tolerance=TOLERANCE,
        span=scale.span,
        mean_relative_gap=gap,
        points=points,
        summary=family_gaps(points),
        complement=_complement(edges["complement"], scale),
        verdict=verdict(gap),
        sentence="",
    )
    return replace(found, sentence=_sentence(found))


def verdict(mean_gap: Interval) -> Verdict:
    """`pass` if the interval lies within `TOLERANCE`, `fail` if beyond, else `undecided`."""
    if mean_gap.is_at_most(TOLERANCE):
        return "pass"
    return "fail" if mean_gap.exceeds(TOLERANCE) else "undecided"


@dataclass(frozen=True)
class Scale:
    """What gaps are divided by, and the resamples that their intervals come from."""

    bootstrap: Bootstrap
    full: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]

    @property
    def span(self) -> float:
        """F of the full model minus F of the empty circuit, in the metric's unit."""
        return (self.full.mean() - self.empty.mean()).item()

    def relative(self, gap: float) -> float | None:
        """A gap as a share of the span; None if there is none."""
        value = torch.tensor(gap, dtype=torch.float64)
        return finite(_share(value, self.full.mean(), self.empty.mean()).item())

    def is_telling(self, run: Both) -> bool:
        """Whether a knock-out leaves circuit or model more than `TOLERANCE` of the span."""
        left = [(side - self.empty).mean().item() for side in (run.circuit, run.model)]
        return max(map(abs, left)) > TOLERANCE * abs(self.span)

    def mean_gap(self, runs: Sequence[Both]) -> Interval:
        """Mean over knock-outs of `|gap| / |span|`, with its interval over pairs."""
        if not runs:
            return UNDEFINED
        gaps = torch.stack([run.gap for run in runs])

        def share(weights: Float[Tensor, "resample example"]) -> Float[Tensor, " resample"]:
            mean = (weights @ gaps.T).abs().mean(dim=1)
            return _share(mean, weights @ self.full, weights @ self.empty).abs()

        alike = torch.full((1, gaps.shape[1]), 1 / gaps.shape[1], dtype=torch.float64)
        return self.bootstrap.interval(share(alike).item(), share(self.bootstrap.weights))


def _share(gap: Tensor, full: Tensor, empty: Tensor) -> Tensor:
    return ratio(gap, full - empty, full.abs() + empty.abs())


def _bootstrap(case: Case) -> Bootstrap:
    generator = case.generator("completeness/bootstrap")
    return Bootstrap.draw(case.n_examples, case.n_bootstrap, generator)


def _ends(case: Case) -> tuple[Examples, dict[str, Examples]]:
    """The full model, and the circuits of no edge and of all edges but the circuit's."""
    masks = {"empty": case.empty_mask, "complement": ~case.mask}
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    return full, evaluate_each(case.references, masks, case.batches, case.task_metric)


# ---------------------------------------------------------------- what is said


def _point(case: Case, knock_out: KnockOut, run: Both, scale: Scale) -> KnockOutGap:
    gap = scale.bootstrap.mean(run.gap)
    return KnockOutGap(
        family=knock_out.family,
        name=knock_out.name,
        nodes=tuple(case.graph.writers[writer] for writer in knock_out.writers),
        circuit=run.circuit.mean().item(),
        model=run.model.mean().item(),
        gap=gap,
        relative_gap=scale.relative(gap.value),
        telling=scale.is_telling(run),
        kl=run.kl.mean().item(),
    )


def _complement(left: Examples, scale: Scale) -> Complement:
    """The model with exactly the circuit's edges ablated."""
    share = scale.bootstrap.faithfulness(left.metric, scale.full, scale.empty)
    return Complement(**vars(left.means()), faithfulness=share)


def _sentence(found: Completeness) -> str:
    if not found.summary:
        return (
            "The circuit has no head or MLP that writes, so nothing can be knocked out of it and "
            "completeness says nothing. A circuit with nodes would have been tested."
        )
    return " ".join([_on_average(found), _at_worst(found), _on_complement(found)])


def _on_average(found: Completeness) -> str:
    planned = [found.summary[f] for f in ("class", "random") if f in found.summary]
    n, n_telling = sum(p.n for p in planned), sum(p.n_telling for p in planned)
    gap, none, tolerance = found.mean_relative_gap, found.points[0], found.tolerance
    start = (
        f"On {counted(found.n_pairs, 'pair')}, circuit and model were put under "
        f"{counted(n, 'knock-out')}, by class and at random, of the circuit's "
        f"{counted(found.n_nodes, 'writing node')}; after {n_telling} of them one of the two "
        "still did something."
    )
    if gap.value is None or none.relative_gap is None:
        return f"{start} So there is nothing to compare, and no verdict."
    return (
        f"{start} There they are {spell(gap)} of the model's span ({found.span:.3g}) apart on "
        f"average, {abs(none.relative_gap):.2f} with nothing knocked out, and "
        f"{sum(p.n_within for p in planned)} of {n_telling} lie within {tolerance:g}. It counts "
        f"as complete if the whole interval lies within {tolerance:g}: {_WORDS[verdict(gap)]}."
    )


_WORDS = {
    "pass": "it does",
    "fail": "it lies beyond, so the model has something that the circuit lacks, or the reverse",
    "undecided": "it does only in part, so more pairs would decide",
}


def _at_worst(found: Completeness) -> str:
    worst = found.summary.get("greedy")
    if worst is None:
        return ""
    side = "better" if worst.worst_gap > 0 else "worse"
    share = worst.worst_relative_gap
    shown = "" if share is None else f" ({abs(share):.2f} of the span)"
    return (
        f"The worst knock-out that a greedy search found is {', '.join(worst.worst_nodes)}: "
        f"without it the circuit does {abs(worst.worst_gap):.3g}{shown} {side} than the model."
    )


def _on_complement(found: Completeness) -> str:
    left = found.complement
    return (
        f"With the circuit's edges ablated and all others kept, the model has faithfulness "
        f"{spell(left.faithfulness)} and accuracy {left.accuracy:.1%}; near the full model's "
        "they would mean that the task can be done around the circuit."
    )
