"""Necessity: what is left of the model when the circuit's edges are ablated and all others kept?"""

from dataclasses import dataclass

import torch

from circuitprune.data.batches import few_pairs
from circuitprune.engine.evaluation import evaluate_each, evaluate_full_each
from circuitprune.evidence.bootstrap import Bootstrap, Interval, spell
from circuitprune.evidence.case import Case
from circuitprune.evidence.draws import matched
from circuitprune.evidence.faithfulness import Numbers, Yardstick
from circuitprune.evidence.statistics import ALPHA, Verdict, rank_test
from circuitprune.files.text import counted, nats


@dataclass(frozen=True)
class Necessity:
    """The section `necessity`."""

    n_pairs: int
    """Held-out pairs."""
    n_bootstrap: int
    """Resamples behind each interval."""
    n_edges: int
    """Edges of the circuit, which are ablated."""
    complement: Numbers
    """The model without them."""
    lost: Interval
    """Share of the full model's metric that is lost without them: 1 minus faithfulness."""
    n_random_pairs: int
    """Held-out pairs that the circuit is compared with random ones on."""
    n_random: int
    """Random circuits, each with as many edges between the same layers and kinds of nodes."""
    kl: float
    """KL of the model without the circuit on those pairs, in nats."""
    random_kl: tuple[float, ...]
    """The same without each random circuit, in the order drawn."""
    p: float
    """Share of them whose loss raises the KL at least as much, the circuit counted; in (0, 1]."""
    verdict: Verdict
    """Whether its loss does more harm than that of random circuits."""
    sentence: str
    """The same in words."""


def necessity(case: Case) -> Necessity:
    """The circuit's edges carry what they carry when cut, all others what they do now.

    The other side of faithfulness: there the circuit alone must do what the model does, here the
    model must no longer do it without the circuit. `n_random` circuits of `draws.matched` are
    ablated in the same way, on few pairs (see `few_pairs`), and the KL is ranked among theirs.

    Source: Chan et al. 2022, "Causal scrubbing", and Wang et al. 2022 (arXiv 2211.00593) ask of
    the rest what it does; the comparison with matched circuits is ours.
    """
    ends = {"complement": ~case.mask, "empty": case.empty_mask}
    found = evaluate_each(
        case.references, ends, case.batches, case.task_metric, case.watch("", "runs")
    )
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, case.generator("necessity"))
    numbers = Yardstick(bootstrap, full, found["empty"]).numbers(found["complement"])
    kl, random_kl, n_pairs = _among_random(case)
    p = rank_test(kl, torch.tensor(random_kl, dtype=torch.float64))
    lost = _share_lost(numbers.faithfulness)
    return Necessity(
        n_pairs=case.n_examples,
        n_bootstrap=case.n_bootstrap,
        n_edges=int(case.mask.sum()),
        complement=numbers,
        lost=lost,
        n_random_pairs=n_pairs,
        n_random=case.n_random,
        kl=kl,
        random_kl=random_kl,
        p=p,
        verdict=verdict(p, case.n_random),
        sentence=_sentence(case, numbers, lost, kl, random_kl, p),
    )


def verdict(p: float, n_random: int) -> Verdict:
    """`undecided` where so few random circuits could not reject."""
    if 1 / (1 + n_random) >= ALPHA:
        return "undecided"
    return "pass" if p < ALPHA else "fail"


def _among_random(case: Case) -> tuple[float, tuple[float, ...], int]:
    """KL without the circuit, and without each random one, on few pairs; how many pairs."""
    generator, batches = case.generator("necessity/random"), few_pairs(case.batches)
    masks = {"circuit": ~case.mask}
    for i in range(case.n_random):
        masks[str(i)] = ~matched(case.graph, case.mask, generator)
    progress = case.watch("random circuits", "runs")
    found = evaluate_each(case.references, masks, batches, case.task_metric, progress)
    kl = {name: examples.kl.mean().item() for name, examples in found.items()}
    return kl.pop("circuit"), tuple(kl.values()), sum(map(len, batches))


def _share_lost(kept: Interval) -> Interval:
    low, high = kept.low, kept.high
    return Interval(
        None if kept.value is None else 1 - kept.value,
        None if high is None else 1 - high,
        None if low is None else 1 - low,
    )


def _sentence(
    case: Case, left: Numbers, lost: Interval, kl: float, random_kl: tuple[float, ...], p: float
) -> str:
    mean = sum(random_kl) / len(random_kl)
    return (
        f"Without the circuit's {counted(int(case.mask.sum()), 'edge')} the model loses this "
        f"share of its metric on {counted(case.n_examples, 'pair')}: {spell(lost)}; its KL from "
        f"itself is {spell(left.kl, 3)} nats, its accuracy {spell(left.accuracy)}. The KL is "
        f"{nats(kl)} nats where {counted(case.n_random, 'random circuit')} between the same "
        f"layers and kinds of nodes leave {nats(mean)} in the mean and {nats(max(random_kl))} at "
        f"most (p = {p:.3g}). The circuit is needed if p < {ALPHA:g}."
    )
