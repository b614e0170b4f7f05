"""Does the circuit alone do what the model does, and does that hold for other ways of cutting?"""

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from circuitprune.engine.ablation import ABLATIONS, make_ablation
from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.engine.references import References
from circuitprune.errors import DataError
from circuitprune.evidence.bootstrap import Bootstrap, Interval, ratio, spell
from circuitprune.evidence.case import Case
from circuitprune.metrics import EVIDENCE_NAMES

BAND = (0.8, 1.2)
"""Faithfulness in which a circuit counts as faithful; beyond 1 it is not the model's either."""


@dataclass(frozen=True)
class _Scale:
    """The two ends that faithfulness is measured between, and the resamples."""

    bootstrap: Bootstrap
    full: Examples
    empty: Examples

    def numbers(self, circuit: Examples) -> dict[str, Interval]:
        """Every number of a circuit with its interval."""
        each = {name: self.bootstrap.mean(getattr(circuit, name)) for name in EVIDENCE_NAMES}
        metrics = (circuit.metric, self.full.metric, self.empty.metric)
        return {
            **each,
            "faithfulness": self.bootstrap.faithfulness(*metrics),
            "mean_of_ratios": self.bootstrap.mean_of_ratios(*metrics),
        }

    @property
    def n_without_ratio(self) -> int:
        """Pairs that the full and the empty model score alike: their own ratio is undefined."""
        full, empty = self.full.metric, self.empty.metric
        return int(ratio(full, full - empty, full.abs() + empty.abs()).isnan().sum())


def faithfulness(case: Case) -> dict:
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
        lambda share: case.progress("faithfulness", share),
    )
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    generator = case.generator("faithfulness")
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, generator)
    scale = _Scale(bootstrap, full, found["empty"])
    circuit = scale.numbers(found["circuit"])
    return {
        "n_pairs": case.n_examples,
        "n_bootstrap": case.n_bootstrap,
        "level": bootstrap.level,
        "ablation": case.references.ablation.kind,
        "n_edges_total": case.graph.n_edges,
        "n_without_ratio": scale.n_without_ratio,
        "circuit": {"n_edges": int(case.mask.sum()), **circuit},
        "full": scale.numbers(full),
        "empty": scale.numbers(found["empty"]),
        "sizes": [
            {"size": size, "n_edges": int(mask.sum()), **scale.numbers(found[f"size {size:g}"])}
            for size, mask in sizes.items()
        ],
        "verdict": verdict(circuit["faithfulness"]),
        "sentence": _faithfulness_sentence(case, circuit, full),
    }


def verdict(interval: Interval) -> str:
    """`pass` if the interval lies within `BAND`, `fail` if outside, else `undecided`."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return "undecided"
    if low >= BAND[0] and high <= BAND[1]:
        return "pass"
    return "fail" if high < BAND[0] or low > BAND[1] else "undecided"


def _faithfulness_sentence(case: Case, circuit: dict[str, Interval], full: Examples) -> str:
    n, says = int(case.mask.sum()), _WORDS[verdict(circuit["faithfulness"])]
    return (
        f"On {case.n_examples} held-out pairs the circuit of {n:,} edges "
        f"({n / case.graph.n_edges:.1%} of the model's) has faithfulness "
        f"{spell(circuit['faithfulness'])} (95% interval over pairs), KL {spell(circuit['kl'], 3)} "
        f"nats, accuracy {spell(circuit['accuracy'])} where the full model has "
        f"{full.accuracy.mean().item():.2f}, and the full model's first choice on "
        f"{spell(circuit['exact_match'])} of the pairs. It counts as faithful if the whole "
        f"interval lies within {BAND[0]:g} and {BAND[1]:g}: {says}."
    )


_WORDS = {
    "pass": "it does",
    "fail": "it lies outside",
    "undecided": "it does only in part, so more pairs or a larger circuit would decide",
}


def cross_ablation(case: Case) -> dict:
    """The same circuit where cut edges carry something else: `patch`, `mean`, ..., each in turn.

    Each kind has its own empty model, so faithfulness is between that and the full model. Means
    are over the training pairs. A kind that these cannot give (prompts longer than all of them)
    has an `error` instead of numbers.

    Source: Miller et al. 2024, "Transformer Circuit Metrics are not Robust" (arXiv 2407.08734).
    """
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, case.generator("cross_ablation"))
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    kinds: dict[str, dict] = {}
    for done, kind in enumerate(ABLATIONS):
        try:
            kinds[kind] = _under(case, kind, bootstrap, full)
        except DataError as error:
            kinds[kind] = {"error": str(error)}
        case.progress("cross_ablation", (done + 1) / len(ABLATIONS))
    return {
        "n_pairs": case.n_examples,
        "n_bootstrap": case.n_bootstrap,
        "found_with": case.references.ablation.kind,
        "n_train_pairs": sum(map(len, case.train_batches)),
        "kinds": kinds,
        "verdict": _across_verdict(kinds),
        "sentence": _across_sentence(case, kinds),
    }


def _under(case: Case, kind: str, bootstrap: Bootstrap, full: Examples) -> dict:
    references = case.references
    if kind != references.ablation.kind:
        gated = references.gated
        ablation = make_ablation(kind, gated.ports, case.train_batches)
        references = References(gated, ablation, max_gb=0.0)
    masks = {"circuit": case.mask, "empty": case.empty_mask}
    found = evaluate_each(references, masks, case.batches, case.task_metric)
    scale = _Scale(bootstrap, full, found["empty"])
    return {
        "n_without_ratio": scale.n_without_ratio,
        "empty_metric": bootstrap.mean(found["empty"].metric),
        **scale.numbers(found["circuit"]),
    }


def _across_verdict(kinds: dict[str, dict]) -> str:
    verdicts = {verdict(k["faithfulness"]) for k in kinds.values() if "error" not in k}
    return verdicts.pop() if len(verdicts) == 1 else "undecided"


def _across_sentence(case: Case, kinds: dict[str, dict]) -> str:
    found = [f"{k} {spell(v['faithfulness'])}" for k, v in kinds.items() if "error" not in v]
    missing = [k for k, v in kinds.items() if "error" in v]
    same = _across_verdict(kinds)
    says = {
        "pass": "it is faithful whichever is chosen",
        "fail": "it is faithful under none",
        "undecided": "the verdict depends on that choice, so name it with every number",
    }[same]
    text = (
        f"Faithfulness on {case.n_examples} pairs by what cut edges carry (the circuit was found "
        f"with {case.references.ablation.kind}): {'; '.join(found)}. With {BAND[0]:g} to "
        f"{BAND[1]:g} as the band, {says}."
    )
    return f"{text} Not computable here: {', '.join(missing)}." if missing else text
