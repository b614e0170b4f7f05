"""What is left of a circuit when the edges that can go are gone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.reachability import live_edges
from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import Examples, evaluate_each
from circuitprune.errors import ConfigError, MetricError
from circuitprune.evidence.bootstrap import Bootstrap, Estimate, spell
from circuitprune.evidence.case import Case
from circuitprune.evidence.minimality import Removals, affordable, names_of, removals
from circuitprune.files.text import counted, nats
from circuitprune.metrics import Means

TOLERANCE = 0.01
"""Nats of KL that `minimise` may drop edges for, all together."""
AT_ONCE = 8
"""`minimise` first tries to drop one in this many edges together."""


@dataclass(frozen=True)
class Round:
    """What one round of the search left."""

    n_edges: int
    """Edges left."""
    kl: float
    """Of what is left, on the pairs of the search, in nats."""
    removed: tuple[str, ...]
    """Names of the edges that went, with those that then lay on no path."""


@dataclass(frozen=True)
class MinimisedCircuit:
    """The section `minimise`."""

    n_pairs: int
    """Held-out pairs, which `before`, `after` and `kl_rise` are on."""
    n_search_pairs: int
    """Training pairs, which the search was on."""
    tolerance: float
    """Nats that the KL may rise by, on the pairs of the search."""
    n_edges_before: int
    """Edges of the circuit."""
    n_edges: int
    """Edges left."""
    before: Means
    """What the circuit does."""
    after: Means
    """What is left of it does."""
    kl_rise: Estimate
    """From before to after, in nats."""
    trace: tuple[Round, ...]
    """First the circuit itself, then each round."""
    edges: tuple[str, ...]
    """Names of the edges left."""
    sentence: str
    """The same in words."""


@dataclass(frozen=True)
class Minimised:
    """What `minimise` left of a circuit, and how it got there."""

    mask: Bool[Tensor, " edge"]
    trace: tuple[Round, ...]
    """First the circuit itself, then each round."""
    n_pairs: int
    """Pairs of the search."""
    before: Examples
    """The circuit on the held-out pairs."""
    after: Examples
    """What is left of it on the held-out pairs."""


def minimise(case: Case, tolerance: float = TOLERANCE) -> Minimised:
    """Drops edges greedily as long as the KL stays within `tolerance` nats of the circuit's.

    In rounds: every edge's effect is measured exactly in what is left; those of least effect go
    together, with all that then lies on no path, if the KL of the whole allows it, else half as
    many, down to one. The last circuit keeps no edge that could go by itself.

    Decided on the training pairs and verified on the held-out ones, so that `after` is no choice
    among circuits by their own test. (Without training pairs, both are the held-out pairs.)

    Raises:
        ConfigError: a negative tolerance.
    """
    if tolerance < 0:
        raise ConfigError(f"the tolerance of minimise is in nats and at least 0, got {tolerance}")
    batches = affordable(case.train_batches or case.batches, int(case.mask.sum()))
    mask, limit, n_edges = case.mask, None, int(case.mask.sum())
    trace: list[Round] = []
    while mask.any():
        progress = case.watch(f"{int(mask.sum()):,} of {counted(n_edges, 'edge')} left", "runs")
        found = removals(case.references, mask, batches, case.task_metric, progress)
        kl = found.base_kl.mean().item()
        limit = kl + tolerance if limit is None else limit
        trace = trace or [Round(n_edges, kl, ())]
        smaller = _drop(case, mask, found, batches, limit)
        if smaller is None:
            break
        removed = names_of(case.graph, (mask & ~smaller[0]).nonzero().flatten())
        mask = smaller[0]
        trace.append(Round(int(mask.sum()), smaller[1], tuple(removed)))
    ends = {"before": case.mask, "after": mask}
    held_out = evaluate_each(case.references, ends, case.batches, case.task_metric)
    ends_on_held_out = held_out["before"], held_out["after"]
    return Minimised(mask, tuple(trace), sum(map(len, batches)), *ends_on_held_out)


def minimised(case: Case, tolerance: float = TOLERANCE) -> MinimisedCircuit:
    """`minimise` as a section: what is left, how, and what it does before and after.

    Raises:
        MetricError: the circuit keeps no edge.
    """
    if not case.mask.any():
        raise MetricError("the circuit keeps no edge, so there is none to drop")
    found = minimise(case, tolerance)
    rise = found.after.kl - found.before.kl
    generator = case.generator("minimise/bootstrap")
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, generator)
    result = MinimisedCircuit(
        n_pairs=case.n_examples,
        n_search_pairs=found.n_pairs,
        tolerance=tolerance,
        n_edges_before=int(case.mask.sum()),
        n_edges=int(found.mask.sum()),
        before=found.before.means(),
        after=found.after.means(),
        kl_rise=bootstrap.mean(rise),
        trace=found.trace,
        edges=tuple(names_of(case.graph, found.mask.nonzero().flatten())),
        sentence="",
    )
    return replace(result, sentence=_sentence(result))


def _drop(
    case: Case,
    mask: Bool[Tensor, " edge"],
    found: Removals,
    batches: Sequence[Batch],
    limit: float,
) -> tuple[Bool[Tensor, " edge"], float] | None:
    """The circuit without its least needed edges and its KL; None if no edge can go."""
    order = found.edges[found.kl.mean(dim=1).argsort(stable=True)]
    n = max(1, len(order) // AT_ONCE)
    while n > 0:
        smaller = mask.clone()
        smaller[order[:n]] = False
        smaller = live_edges(case.graph, smaller)
        run = evaluate_each(case.references, {"": smaller}, batches, case.task_metric)[""]
        kl = run.kl.mean().item()
        if kl <= limit:
            return smaller, kl
        n //= 2
    return None


def _sentence(found: MinimisedCircuit) -> str:
    before, after = found.before, found.after
    n, left, pairs = found.n_edges_before, found.n_edges, found.n_search_pairs
    if left == n:
        return (
            f"None of the {counted(n, 'edge')} could be dropped within {found.tolerance:g} nats on "
            f"{counted(pairs, 'training pair')}, so the circuit is minimal at this tolerance."
        )
    if left == 0:
        return (
            f"All {counted(n, 'edge')} could be dropped within {found.tolerance:g} nats on "
            f"{counted(pairs, 'training pair')}: at this tolerance the circuit is no better than "
            "none."
        )
    return (
        f"{n - left} of {counted(n, 'edge')} could be dropped within {found.tolerance:g} nats on "
        f"{counted(pairs, 'training pair')}, leaving {left}. On the "
        f"{counted(found.n_pairs, 'held-out pair')} the KL goes from {nats(before.kl)} to "
        f"{nats(after.kl)} nats (change {spell(found.kl_rise, 3)}), accuracy from "
        f"{before.accuracy:.1%} to {after.accuracy:.1%}. A change far above {found.tolerance:g} "
        "would have said that the smaller circuit suits the training pairs alone."
    )
