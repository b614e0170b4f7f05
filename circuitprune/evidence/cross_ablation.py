"""Is the circuit faithful whatever cut edges carry?"""

from collections.abc import Mapping
from dataclasses import dataclass

from circuitprune.circuits.span_graph import SpanGraph
from circuitprune.engine.ablation import ABLATIONS
from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.engine.progress import told
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError, GraphError
from circuitprune.evidence.bootstrap import Bootstrap, Estimate, spell
from circuitprune.evidence.case import Case
from circuitprune.evidence.faithfulness import BAND, Numbers, Yardstick, verdict
from circuitprune.evidence.statistics import Verdict
from circuitprune.files.text import counted


@dataclass(frozen=True)
class _Ends:
    n_without_ratio: int
    """Pairs that the full and the empty model score alike."""
    empty_metric: Estimate
    """The task metric of the model with every edge ablated so."""


@dataclass(frozen=True)
class AblationNumbers(Numbers, _Ends):
    """The numbers of the circuit where cut edges carry something else."""


@dataclass(frozen=True)
class AblationError:
    """Why cut edges cannot carry this here."""

    error: str
    """What is in the way."""


@dataclass(frozen=True)
class CrossAblation:
    """The section `cross_ablation`: what `cross_ablation` found."""

    n_pairs: int
    """Held-out pairs."""
    n_bootstrap: int
    """Resamples behind each interval."""
    found_with: str
    """What cut edges carried when the circuit was found."""
    n_train_pairs: int
    """Training pairs, which means are taken over."""
    kinds: Mapping[str, AblationNumbers | AblationError]
    """By what cut edges carry."""
    verdict: Verdict
    """The one that all kinds give; `undecided` where they differ."""
    sentence: str
    """The same in words."""


def cross_ablation(case: Case) -> CrossAblation:
    """The same circuit where cut edges carry something else: `patch`, `mean`, ..., each in turn.

    Each kind has its own empty model, so faithfulness is between that and the full model. Means
    are over the training pairs. A kind that these cannot give (prompts longer than all of them),
    or for which the model has no value (`zero` where its norms have no epsilon), has an `error`
    instead of numbers.

    Raises:
        GraphError: gates at spans that were told apart under `patch`.

    Source: Miller et al. 2024, "Transformer Circuit Metrics are not Robust" (arXiv 2407.08734).
    """
    if isinstance(case.graph, SpanGraph) and case.references.ablation.kind == "patch":
        raise GraphError(
            f"{case.graph.unit}s have gates at the spans where the corrupt prompts make a "
            "difference, and other ablations make one at others too"
        )
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, case.generator("cross_ablation"))
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    kinds: dict[str, AblationNumbers | AblationError] = {}
    for kind in told(ABLATIONS, case.watch("", "ablations")):
        try:
            kinds[kind] = _under(case, kind, bootstrap, full)
        except (DataError, ConfigError) as error:
            kinds[kind] = AblationError(str(error))
    known = {k: v for k, v in kinds.items() if isinstance(v, AblationNumbers)}
    return CrossAblation(
        n_pairs=case.n_examples,
        n_bootstrap=case.n_bootstrap,
        found_with=case.references.ablation.kind,
        n_train_pairs=sum(map(len, case.train_batches)),
        kinds=kinds,
        verdict=_across_verdict(known),
        sentence=_across_sentence(case, known),
    )


def _under(case: Case, kind: str, bootstrap: Bootstrap, full: Examples) -> AblationNumbers:
    references = case.references
    if kind != references.ablation.kind:
        gated = references.gated
        ablation = gated.ablation(kind, case.train_batches)
        references = References(gated, ablation, max_gb=0.0)
    masks = {"circuit": case.mask, "empty": case.empty_mask}
    found = evaluate_each(references, masks, case.batches, case.task_metric)
    scale = Yardstick(bootstrap, full, found["empty"])
    return AblationNumbers(
        n_without_ratio=scale.n_without_ratio,
        empty_metric=bootstrap.mean(found["empty"].metric),
        **vars(scale.numbers(found["circuit"])),
    )


def _across_verdict(known: Mapping[str, Numbers]) -> Verdict:
    verdicts = {verdict(numbers.faithfulness) for numbers in known.values()}
    return verdicts.pop() if len(verdicts) == 1 else "undecided"


def _across_sentence(case: Case, known: Mapping[str, Numbers]) -> str:
    found = [f"{kind} {spell(numbers.faithfulness)}" for kind, numbers in known.items()]
    missing = [kind for kind in ABLATIONS if kind not in known]
    same = _across_verdict(known)
    says = {
        "pass": "it is faithful whichever is chosen",
        "fail": "it is faithful under none",
        "undecided": "the verdict depends on that choice, so name it with every number",
    }[same]
    text = (
        f"Faithfulness on {counted(case.n_examples, 'pair')} by what cut edges carry (the circuit "
        f"was found with {case.references.ablation.kind}): {'; '.join(found)}. With {BAND[0]:g} "
        f"to {BAND[1]:g} as the band, {says}."
    )
    return f"{text} Not computable here: {', '.join(missing)}." if missing else text
