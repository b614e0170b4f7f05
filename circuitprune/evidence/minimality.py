"""Minimality: does every kept edge earn its place, and what is left when the others are gone?

Wang et al. 2022 (arXiv 2211.00593) ask of every node v for some set K of the circuit's nodes such
that `F(C without K and v)` is far from `F(C without K)`. Here it is every edge, K is empty, and the
difference is measured exactly, in the KL to the full model as well as in the task metric.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import Examples, evaluate_each
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError
from circuitprune.evidence.bootstrap import Bootstrap, spell
from circuitprune.evidence.case import Case
from circuitprune.metrics import Metric, evidence_values
from circuitprune.patching.candidates import CandidateRuns

TOLERANCE = 0.01
"""Nats of KL up to which an edge, or all that `minimise` drops together, counts as dispensable."""
MOST_RUNS = 100_000
"""Edges times pairs; a larger circuit is judged on fewer pairs, but never on less than a batch."""
AT_ONCE = 8
"""`minimise` first tries to drop one in this many edges together."""


@dataclass(frozen=True)
class Removals:
    """A circuit, and each of its edges removed from it by itself; float64."""

    edges: Int[Tensor, " kept"]
    """Positions in the flat order, ascending."""
    base_kl: Float[Tensor, " example"]
    """Of the circuit, to the full model, in nats."""
    base_metric: Float[Tensor, " example"]
    kl: Float[Tensor, "kept example"]
    """Change of the KL by removing an edge; positive: the edge helps."""
    metric: Float[Tensor, "kept example"]
    """Change of the task metric; negative: the edge helps."""


@dataclass(frozen=True)
class Minimised:
    """What `minimise` left of a circuit, and how it got there."""

    mask: Bool[Tensor, " edge"]
    trace: list[dict]
    """First the circuit itself, then each round: `n_edges`, `kl` on the pairs of the search, and
    `removed`, the names of the edges that went."""
    n_pairs: int
    """Pairs of the search."""
    before: Examples
    """The circuit on the held-out pairs."""
    after: Examples
    """What is left of it on the held-out pairs."""


def minimality(case: Case) -> dict:
    """The exact effect of removing each kept edge from the circuit, with intervals over pairs.

    An edge is *dispensable* if removing it alone raises the KL by at most `case.tolerance` nats,
    *needed* if the whole interval lies beyond, *surely dispensable* if the whole interval lies
    within. Two edges that stand in for each other are each dispensable, not both: `minimise` finds
    what can go together.

    Returns:
        `edges` (all kept ones, the most needed first: changes of KL and metric), `dispensable`,
        `n_needed`, `n_surely_dispensable`, `verdict`, `sentence`. Docs: file_formats.md.
    """
    batches = _affordable(case.batches, int(case.mask.sum()))
    found = removals(
        case.references,
        case.mask,
        batches,
        case.task_metric,
        lambda share: case.progress("removing each edge", share),
    )
    rows = _rows(case, found)
    tolerance = case.tolerance
    result = {
        "n_pairs": len(found.base_kl),
        "n_edges": len(rows),
        "tolerance": tolerance,
        "base_kl": found.base_kl.mean().item(),
        "base_metric": found.base_metric.mean().item(),
        "n_needed": sum(row["kl"]["low"] > tolerance for row in rows),
        "n_surely_dispensable": sum(row["kl"]["high"] <= tolerance for row in rows),
        "dispensable": [row["edge"] for row in rows if row["kl"]["value"] <= tolerance],
        "edges": rows,
    }
    return {**result, "verdict": verdict(result), "sentence": _sentence(result)}


def verdict(found: dict) -> str:
    """`pass` if every edge is needed, `fail` if one is surely dispensable, else `undecided`."""
    if found["n_surely_dispensable"]:
        return "fail"
    return "pass" if found["n_needed"] == found["n_edges"] else "undecided"


def _rows(case: Case, found: Removals) -> list[dict]:
    """Each edge's mean effects with 95 % intervals, all from the same resamples of the pairs."""
    generator = case.generator("minimality/bootstrap")
    draw = Bootstrap.draw(len(found.base_kl), case.n_bootstrap, generator)
    names, kl = names_of(case.graph, found.edges), found.kl.mean(dim=1)
    return [
        {"edge": names[i], "kl": draw.mean(found.kl[i]), "metric": draw.mean(found.metric[i])}
        for i in kl.argsort(descending=True, stable=True).tolist()
    ]


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
    batches = _affordable(case.train_batches or case.batches, int(case.mask.sum()))
    mask, limit, n_edges = case.mask, None, int(case.mask.sum())
    trace: list[dict] = []
    while mask.any():
        case.progress("dropping edges", 1 - int(mask.sum()) / n_edges)
        found = removals(case.references, mask, batches, case.task_metric)
        kl = found.base_kl.mean().item()
        limit = kl + tolerance if limit is None else limit
        trace = trace or [{"n_edges": n_edges, "kl": kl, "removed": []}]
        smaller = _drop(case, mask, found, batches, limit)
        if smaller is None:
            break
        removed = names_of(case.graph, (mask & ~smaller[0]).nonzero().flatten())
        mask = smaller[0]
        trace.append({"n_edges": int(mask.sum()), "kl": smaller[1], "removed": removed})
    case.progress("dropping edges", 1.0)
    ends = {"before": case.mask, "after": mask}
    held_out = evaluate_each(case.references, ends, case.batches, case.task_metric)
    return Minimised(mask, trace, sum(map(len, batches)), held_out["before"], held_out["after"])


def minimised(case: Case, tolerance: float = TOLERANCE) -> dict:
    """`minimise` as JSON values: `edges`, `trace`, `before` and `after`, `sentence`."""
    found = minimise(case, tolerance)
    before, after = (end.mean().to_json() for end in (found.before, found.after))
    rise = found.after.kl - found.before.kl
    generator = case.generator("minimise/bootstrap")
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, generator)
    result = {
        "n_pairs": case.n_examples,
        "n_search_pairs": found.n_pairs,
        "tolerance": tolerance,
        "n_edges_before": int(case.mask.sum()),
        "n_edges": int(found.mask.sum()),
        "before": before,
        "after": after,
        "kl_rise": bootstrap.mean(rise),
        "trace": found.trace,
        "edges": names_of(case.graph, found.mask.nonzero().flatten()),
    }
    return {**result, "sentence": _minimised_sentence(result)}


@torch.no_grad()
def removals(
    references: References,
    mask: Bool[Tensor, " edge"],
    batches: Sequence[Batch],
    task_metric: Metric,
    progress: Callable[[float], None] | None = None,
) -> Removals:
    """Runs the circuit once, and each edge's removal only where it makes a difference.

    Raises:
        MetricError: NaN or infinite logits.
    """
    graph, edges = references.gated.graph, mask.nonzero().flatten()
    kl, metric, base = [], [], []
    for done, batch in enumerate(batches):
        full, ablated = references.full_logits(batch).cpu(), references.ablated(batch)
        runs = CandidateRuns(references.gated, batch, ablated, mask.double(), 0)
        values = partial(_kl_and_metric, full=full, batch=batch, task_metric=task_metric)
        base.append(values(runs.logits))
        each: list[Tensor] = []
        for logits in _each_removed(graph, runs, mask):
            each.append(values(logits))
            if progress is not None:
                progress((done + len(each) / max(len(edges), 1)) / len(batches))
        found = torch.stack(each) if each else base[-1].new_empty(0, 2, len(batch))
        kl.append(found[:, 0] - base[-1][0])
        metric.append(found[:, 1] - base[-1][1])
    whole = torch.cat(base, dim=1)
    return Removals(edges, whole[0], whole[1], torch.cat(kl, dim=1), torch.cat(metric, dim=1))


def _kl_and_metric(
    logits: Float[Tensor, "batch vocab"],
    full: Float[Tensor, "batch vocab"],
    batch: Batch,
    task_metric: Metric,
) -> Float[Tensor, "2 batch"]:
    return evidence_values(logits, full, batch, task_metric)[:2]


def _each_removed(
    graph: Graph, runs: CandidateRuns, mask: Bool[Tensor, " edge"]
) -> Iterator[Float[Tensor, "batch vocab"]]:
    """Logits of the circuit without each of its edges, in the flat order."""
    for reader in graph.edge_reader[mask].unique().tolist():
        block = graph.block_of_reader(reader)
        row = graph.block_view(mask, block)[reader - block.first_reader]
        writers = row.nonzero().flatten()
        candidates = row.repeat(len(writers), 1)
        candidates[torch.arange(len(writers)), writers] = False
        opened = runs.open(reader)
        for part in candidates.double().split(opened.at_once):
            yield from opened(part)


def names_of(graph: Graph, edges: Int[Tensor, " n"]) -> list[str]:
    """Names of edges by their positions."""
    pairs = zip(graph.edge_writer[edges].tolist(), graph.edge_reader[edges].tolist(), strict=True)
    return [f"{graph.writers[writer]}->{graph.readers[reader]}" for writer, reader in pairs]


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


def _affordable(batches: Sequence[Batch], n_edges: int) -> list[Batch]:
    """Whole batches from the front whose pairs, times the edges, are within `MOST_RUNS`."""
    taken = list(batches[:1])
    for batch in batches[1:]:
        if (sum(map(len, taken)) + len(batch)) * n_edges <= MOST_RUNS:
            taken.append(batch)
    return taken


def _sentence(found: dict) -> str:
    n, tolerance = found["n_edges"], found["tolerance"]
    if n == 0:
        return "The circuit keeps no edge, so none can be removed."
    first, surely = found["edges"][0], found["n_surely_dispensable"]
    undecided = n - found["n_needed"] - surely
    return (
        f"Each of the circuit's {n:,} edges was removed from it by itself on {found['n_pairs']} "
        f"pairs: {found['n_needed']} are needed (the KL rises by more than {tolerance:g} nats, "
        f"whole interval), {surely} are dispensable alone (by at most that), and {undecided} lie "
        f"in between. The most needed is {first['edge']} ({first['kl']['value']:.3g} nats). In a "
        "minimal circuit all are needed. Edges that stand in for each other are dispensable alone "
        "and not together: `--minimise` says how many can go."
    )


def _minimised_sentence(found: dict) -> str:
    before, after = found["before"], found["after"]
    n, left, pairs = found["n_edges_before"], found["n_edges"], found["n_search_pairs"]
    if left == n:
        return (
            f"None of the {n} edges could be dropped within {found['tolerance']:g} nats on "
            f"{pairs} training pairs, so the circuit is minimal at this tolerance."
        )
    if left == 0:
        return (
            f"All {n} edges could be dropped within {found['tolerance']:g} nats on {pairs} "
            "training pairs: at this tolerance the circuit is no better than none."
        )
    return (
        f"{n - left} of {n} edges could be dropped within {found['tolerance']:g} nats on {pairs} "
        f"training pairs, leaving {left}. On the {found['n_pairs']} held-out pairs the KL goes "
        f"from {before['kl']:.3g} to {after['kl']:.3g} nats (change {spell(found['kl_rise'], 3)}), "
        f"accuracy from {before['accuracy']:.1%} to {after['accuracy']:.1%}. A change far above "
        f"{found['tolerance']:g} would have said that the smaller circuit suits the training pairs "
        "alone."
    )
