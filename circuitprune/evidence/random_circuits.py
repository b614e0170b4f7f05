"""Is the circuit better than chance? Its place among random circuits of equal size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch

from circuitprune.data.batches import few_pairs
from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.errors import old_names
from circuitprune.evidence.case import Case
from circuitprune.evidence.draws import DRAWS
from circuitprune.evidence.statistics import ALPHA, Verdict, rank_test, worst_of
from circuitprune.files.text import counted, nats
from circuitprune.metrics import EVIDENCE_NAMES


@dataclass(frozen=True)
class CircuitMeans:
    """One circuit, as means over pairs."""

    kl: float
    """KL from the full model, in nats."""
    metric: float
    """The task metric, in its unit."""
    accuracy: float
    """Fraction of pairs on which a right token wins."""
    exact_match: float
    """Fraction of pairs on which the most likely token is the full model's."""
    faithfulness: float | None = None
    """Share of the full model's metric; left out where full and empty model score alike."""


@dataclass(frozen=True)
class Place:
    """Where the circuit lies among random ones by one number."""

    quantile: float
    """Share of random circuits that do worse, ties half; in [0, 1]."""
    p: float
    """Share that does at least as well, the circuit itself counted; in (0, 1]."""
    mean: float
    """Of the random circuits, in the number's unit."""
    best: float
    """Of the random circuits."""
    worst: float
    """Of the random circuits."""


@dataclass(frozen=True)
class EdgeCounts:
    """Edges of the random circuits."""

    least: int
    """Of the smallest."""
    mean: float
    """Of all."""
    most: int
    """Of the largest."""


@dataclass(frozen=True, kw_only=True)
class RandomFamily:
    """The random circuits of one family, and the circuit's place among them."""

    n_edges: EdgeCounts
    """How large they are."""
    n_same: int
    """Draws that are the circuit itself."""
    least_p: float
    """What p cannot fall below, for those draws; in (0, 1]."""
    verdict: Verdict
    """By the p of the KL; `undecided` where none could reject."""
    kl: Place
    """By the KL; less is better."""
    metric: Place
    """By the task metric."""
    accuracy: Place
    """By accuracy."""
    exact_match: Place
    """By the share of the full model's choices."""
    faithfulness: Place | None = None
    """By faithfulness; left out where full and empty model score alike."""
    kl_of_each: tuple[float, ...]
    """KL of every random circuit in nats, in the order drawn."""


@dataclass(frozen=True)
class RandomCircuits:
    """The section `random_circuits`."""

    n_pairs: int
    """Held-out pairs, few of them."""
    n_random: int
    """Random circuits of each family."""
    n_edges: int
    """Edges of the circuit."""
    circuit: CircuitMeans
    """The circuit itself, on the same pairs."""
    families: Mapping[str, RandomFamily]
    """By the names of `DRAWS`, from the easiest to beat to the hardest."""
    verdict: Verdict
    """The worst of all families."""
    sentence: str
    """The same in words."""


def random_circuits(case: Case) -> RandomCircuits:
    """The circuit's quantile among `n_random` random circuits of each family in `DRAWS`.

    For KL, metric, accuracy, exact match and faithfulness: the share of random circuits that do
    worse (`quantile`, ties half), and the p-value that the circuit is one more of them (`p`: the
    share that does at least as well, the circuit itself counted). Few pairs are used: see
    `few_pairs`; the circuit's own numbers here are on the same pairs.

    A draw may be the circuit itself (`n_same`), which is as good as the circuit. Where there are so
    many of these that no p could fall below `ALPHA` (`least_p`), the family is `undecided`.

    Source: Shi et al. 2024 (arXiv 2410.13032) and MIB (arXiv 2504.13151) compare with random
    circuits; the matched families are ours.
    """
    batches, graph = few_pairs(case.batches), case.graph
    masks = {"circuit": case.mask, "empty": case.empty_mask}
    for family, draw in DRAWS.items():
        generator = case.generator(f"random circuits {family}")
        masks |= {f"{family} {i}": draw(graph, case.mask, generator) for i in range(case.n_random)}
    found = evaluate_each(
        case.references,
        masks,
        batches,
        case.task_metric,
        case.watch("", "runs"),
    )
    full = evaluate_full_each(case.references, batches, case.task_metric)
    numbers = {name: _numbers(examples, full, found["empty"]) for name, examples in found.items()}
    families: dict[str, RandomFamily] = {}
    for family in DRAWS:
        names = [f"{family} {i}" for i in range(case.n_random)]
        n_same = sum(torch.equal(masks[name], case.mask) for name in names)
        edges = [int(masks[name].sum()) for name in names]
        others = [numbers[name] for name in names]
        families[family] = _family(numbers["circuit"], others, edges, n_same)
    return RandomCircuits(
        n_pairs=sum(map(len, batches)),
        n_random=case.n_random,
        n_edges=int(case.mask.sum()),
        circuit=numbers["circuit"],
        families=families,
        verdict=worst_of(f.verdict for f in families.values()),
        sentence=_sentence(case, numbers["circuit"], families, sum(map(len, batches))),
    )


def _numbers(circuit: Examples, full: Examples, empty: Examples) -> CircuitMeans:
    """Means over the pairs, and faithfulness unless the full and the empty model score alike."""
    numbers = {name: getattr(circuit, name).mean().item() for name in EVIDENCE_NAMES}
    span = (full.metric - empty.metric).mean().item()
    if abs(span) > 1e-6 * (full.metric.abs() + empty.metric.abs()).mean().item():
        numbers["faithfulness"] = (circuit.metric - empty.metric).mean().item() / span
    return CircuitMeans(**numbers)


def _family(
    circuit: CircuitMeans, others: Sequence[CircuitMeans], edges: Sequence[int], n_same: int
) -> RandomFamily:
    """One family of random circuits, of so many edges each, `n_same` of them the circuit itself."""
    names = [field.name for field in fields(circuit) if getattr(circuit, field.name) is not None]
    places = {name: _place(name, circuit, others) for name in names}
    return RandomFamily(
        n_edges=EdgeCounts(min(edges), sum(edges) / len(edges), max(edges)),
        n_same=n_same,
        least_p=(1 + n_same) / (1 + len(others)),
        verdict=verdict(places["kl"].p, n_same, len(others)),
        **places,
        kl_of_each=tuple(other.kl for other in others),
    )


def _place(name: str, circuit: CircuitMeans, others: Sequence[CircuitMeans]) -> Place:
    value = getattr(circuit, name)
    values = torch.tensor([getattr(other, name) for other in others], dtype=torch.float64)
    sign = -1 if name == "kl" else 1  # of what is better
    worse = (sign * values < sign * value).double() + 0.5 * (values == value)
    return Place(
        quantile=worse.mean().item(),
        p=rank_test(sign * value, sign * values),
        mean=values.mean().item(),
        best=sign * (sign * values).max().item(),
        worst=sign * (sign * values).min().item(),
    )


def verdict(p: float, n_same: int, n_random: int) -> Verdict:
    """Of one family; `undecided` if it holds too few other circuits for any circuit to pass."""
    if (1 + n_same) / (1 + n_random) >= ALPHA:
        return "undecided"
    return "pass" if p < ALPHA else "fail"


def _sentence(
    case: Case, circuit: CircuitMeans, families: Mapping[str, RandomFamily], n_pairs: int
) -> str:
    told = "; ".join(
        f"{family} {f.kl.quantile:.0%} (p = {f.kl.p:.3g}, their mean KL "
        f"{nats(f.kl.mean)}, best {nats(f.kl.best)})"
        for family, f in families.items()
    )
    return (
        f"On {counted(n_pairs, 'pair')} the circuit's KL of {nats(circuit.kl)} nats is below that "
        f"of this share of {counted(case.n_random, 'random circuit')} of its size: {told}. It is "
        f"better than chance if p < {ALPHA:g} in every family. {_reach(families)}"
    )


def _reach(families: Mapping[str, RandomFamily]) -> str:
    """How small p could have become, and which families that leaves undecided."""
    least = min(f.least_p for f in families.values())
    few = {family: f for family, f in families.items() if f.verdict == "undecided"}
    said = f"p cannot fall below {least:.2g} here."
    if not few:
        return said
    there = ", ".join(f"{family} {f.least_p:.2g}" for family, f in few.items())
    same = ", ".join(str(f.n_same) for f in few.values())
    return (
        f"{said} Undecided, as p cannot fall below {ALPHA:g} there: {there}; of the circuits "
        f"drawn, {same} are this very circuit, and there are too few others to tell."
    )


_DRAWN = ("Draw", "ROUNDS", "uniform", "matched", "relabelled", "cell_of_edges")
__getattr__ = old_names(__name__, {name: f"evidence.draws.{name}" for name in _DRAWN})
