"""Does the circuit alone do what the model does? The curve of circuits over their sizes."""

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.errors import old_names
from circuitprune.evidence.bootstrap import Bootstrap, Estimate, Interval, ratio, spell
from circuitprune.evidence.case import Case
from circuitprune.evidence.statistics import Verdict
from circuitprune.files.text import counted
from circuitprune.metrics import EVIDENCE_NAMES

BAND = (0.8, 1.2)
"""Faithfulness in which a circuit counts as faithful; beyond 1 it is not the model's either."""


@dataclass(frozen=True)
class Numbers:
    """Every number of a circuit, with its interval over pairs."""

    kl: Estimate
    """KL from the full model of the next token, in nats."""
    metric: Estimate
    """The task metric, in its unit; higher is better."""
    accuracy: Estimate
    """Fraction of pairs on which a right token wins."""
    exact_match: Estimate
    """Fraction of pairs on which the most likely token is the full model's."""
    faithfulness: Interval
    """Share of the full model's metric recovered from the empty circuit's: the ratio of means."""
    mean_of_ratios: Interval
    """Mean of each pair's own such share, over the pairs that have one."""
    median_of_ratios: Interval | None = None
    """Median of the same, which no single pair can move; absent in files of before 0.3."""


# A dataclass lists the fields of its last base first: sizes stand before the numbers.


@dataclass(frozen=True)
class Sized:
    """A circuit by its size."""

    n_edges: int
    """Edges that the circuit keeps."""


@dataclass(frozen=True)
class _Asked:
    size: float
    """The fraction of all edges, or the threshold, that was asked for."""


@dataclass(frozen=True)
class CircuitNumbers(Numbers, Sized):
    """The numbers of the circuit under test."""


@dataclass(frozen=True)
class SizeNumbers(CircuitNumbers, _Asked):
    """The numbers of one circuit of the frontier."""


@dataclass(frozen=True)
class FaithfulnessCurve:
    """The section `faithfulness`: what `faithfulness_curve` found."""

    n_pairs: int
    """Held-out pairs."""
    n_bootstrap: int
    """Resamples behind each interval."""
    level: float
    """Of the intervals, in (0, 1)."""
    ablation: str
    """What cut edges carry."""
    n_edges_total: int
    """Edges of the model."""
    n_without_ratio: int
    """Pairs that the full and the empty model score alike, left out of `mean_of_ratios`."""
    circuit: CircuitNumbers
    """The circuit under test."""
    full: Numbers
    """The full model."""
    empty: Numbers
    """The model with every edge ablated."""
    sizes: tuple[SizeNumbers, ...]
    """The circuits of the frontier, the smallest first."""
    verdict: Verdict
    """Whether the interval of faithfulness lies within `BAND`."""
    sentence: str
    """The same in words."""


@dataclass(frozen=True)
class Yardstick:
    """The two ends that faithfulness is measured between, and the resamples."""

    bootstrap: Bootstrap
    full: Examples
    empty: Examples

    def numbers(self, circuit: Examples) -> Numbers:
        """Every number of a circuit with its interval."""
        metrics = (circuit.metric, self.full.metric, self.empty.metric)
        return Numbers(
            **{name: self.bootstrap.mean(getattr(circuit, name)) for name in EVIDENCE_NAMES},
            faithfulness=self.bootstrap.faithfulness(*metrics),
            mean_of_ratios=self.bootstrap.mean_of_ratios(*metrics),
            median_of_ratios=self.bootstrap.median_of_ratios(*metrics),
        )

    @property
    def n_without_ratio(self) -> int:
        """Pairs that the full and the empty model score alike: their own ratio is undefined."""
        full, empty = self.full.metric, self.empty.metric
        return int(ratio(full, full - empty, full.abs() + empty.abs()).isnan().sum())


def faithfulness_curve(case: Case) -> FaithfulnessCurve:
    """The curve over sizes, each number with a percentile bootstrap interval over pairs.

    Every point has `kl`, `metric`, `accuracy`, `exact_match`, and faithfulness twice:
    `faithfulness`, the ratio of means (MIB's), and `mean_of_ratios`, the mean of each pair's own,
    without the `n_without_ratio` pairs that the full and the empty model score alike.

    Source: Mueller et al. 2025, "MIB" (arXiv 2504.13151); Wang et al. 2022 (arXiv 2211.00593).
    """
    sizes = dict(sorted(case.sizes.items(), key=lambda item: int(item[1].sum())))
    masks: dict[str, Bool[Tensor, " edge"]] = {
        "circuit": case.mask,
        "empty": case.empty_mask,
        **{f"size {size:g}": mask for size, mask in sizes.items()},
    }
    found = evaluate_each(
        case.references,
        masks,
        case.batches,
        case.task_metric,
        case.watch("", "runs"),
    )
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    generator = case.generator("faithfulness")
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, generator)
    scale = Yardstick(bootstrap, full, found["empty"])
    circuit = scale.numbers(found["circuit"])
    points = {size: vars(scale.numbers(found[f"size {size:g}"])) for size in sizes}
    return FaithfulnessCurve(
        n_pairs=case.n_examples,
        n_bootstrap=case.n_bootstrap,
        level=bootstrap.level,
        ablation=case.references.ablation.kind,
        n_edges_total=case.graph.n_edges,
        n_without_ratio=scale.n_without_ratio,
        circuit=CircuitNumbers(n_edges=int(case.mask.sum()), **vars(circuit)),
        full=scale.numbers(full),
        empty=scale.numbers(found["empty"]),
        sizes=tuple(
            SizeNumbers(size=size, n_edges=int(mask.sum()), **points[size])
            for size, mask in sizes.items()
        ),
        verdict=verdict(circuit.faithfulness),
        sentence=_curve_sentence(case, circuit, full),
    )


def verdict(interval: Interval) -> Verdict:
    """`pass` if the interval lies within `BAND`, `fail` if outside, else `undecided`."""
    low, high = interval.low, interval.high
    if low is None or high is None:
        return "undecided"
    if low >= BAND[0] and high <= BAND[1]:
        return "pass"
    return "fail" if high < BAND[0] or low > BAND[1] else "undecided"


def _curve_sentence(case: Case, circuit: Numbers, full: Examples) -> str:
    n, says = int(case.mask.sum()), _WORDS[verdict(circuit.faithfulness)]
    return (
        f"On {counted(case.n_examples, 'pair')} the circuit of {counted(n, 'edge')} "
        f"({n / case.graph.n_edges:.1%} of the model's) has faithfulness "
        f"{spell(circuit.faithfulness)} (95% interval over pairs), KL {spell(circuit.kl, 3)} "
        f"nats, accuracy {spell(circuit.accuracy)} where the full model has "
        f"{full.accuracy.mean().item():.2f}, and the full model's first choice on "
        f"{spell(circuit.exact_match)} of the pairs. It counts as faithful if the whole "
        f"interval lies within {BAND[0]:g} and {BAND[1]:g}: {says}."
    )


_WORDS = {
    "pass": "it does",
    "fail": "it lies outside",
    "undecided": "it does only in part, so more pairs or a larger circuit would decide",
}


__getattr__ = old_names(
    __name__,
    {
        "faithfulness": "evidence.faithfulness.faithfulness_curve",
        "cross_ablation": "evidence.cross_ablation.cross_ablation",
    },
)
