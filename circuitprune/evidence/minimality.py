"""Minimality: does every kept edge earn its place?

Wang et al. 2022 (arXiv 2211.00593) ask of every node v for some set K of the circuit's nodes such
that `F(C without K and v)` is far from `F(C without K)`. Here it is every edge, K is empty, and the
difference is measured exactly, in the KL to the full model as well as in the task metric.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.data.batches import Batch
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.gated_spans import GatedSpans
from circuitprune.engine.progress import Progress, silent
from circuitprune.engine.references import References
from circuitprune.errors import MetricError, old_names
from circuitprune.evidence.bootstrap import Bootstrap, Estimate
from circuitprune.evidence.case import Case
from circuitprune.evidence.statistics import Verdict
from circuitprune.files.text import counted, nats
from circuitprune.metrics import Metric, evidence_values
from circuitprune.patching.candidates import CandidateRuns
from circuitprune.patching.part_replay import PartReplay

MOST_RUNS = 100_000
"""Edges times pairs; a larger circuit is judged on fewer pairs, but never on less than a batch."""


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
class EdgeRemoved:
    """What removing one edge from the circuit changes."""

    edge: str
    """Its name."""
    kl: Estimate
    """By how much the KL rises, in nats; negative: the edge does harm."""
    metric: Estimate
    """By how much the task metric changes, in its unit; negative: the edge helps."""


@dataclass(frozen=True)
class Minimality:
    """The section `minimality`."""

    n_pairs: int
    """Held-out pairs that it was affordable on."""
    n_edges: int
    """Edges of the circuit."""
    tolerance: float
    """Nats of KL up to which an edge is dispensable."""
    base_kl: float
    """KL of the circuit itself on these pairs, in nats."""
    base_metric: float
    """Its task metric on these pairs."""
    n_needed: int
    """Edges without which the KL surely rises beyond the tolerance."""
    n_surely_dispensable: int
    """Edges without which it surely does not."""
    dispensable: tuple[str, ...]
    """Names of those without which its mean does not."""
    edges: tuple[EdgeRemoved, ...]
    """Each edge that was removed, the most needed first."""
    verdict: Verdict
    """Whether every edge is needed."""
    sentence: str
    """The same in words."""
    n_removed: int | None = None
    """Edges that were removed, drawn at random from the circuit's; None: all of them."""


def minimality(case: Case) -> Minimality:
    """The exact effect of removing each kept edge from the circuit, with intervals over pairs.

    An edge is *dispensable* if removing it alone raises the KL by at most `case.tolerance` nats,
    *needed* if the whole interval lies beyond, *surely dispensable* if the whole interval lies
    within. Two edges that stand in for each other are each dispensable, not both: `minimise` finds
    what can go together. Of a circuit of more than `case.n_removed` edges so many are drawn.

    Raises:
        MetricError: the circuit keeps no edge, so that "each is needed" would say nothing.
    """
    if not case.mask.any():
        raise MetricError("the circuit keeps no edge, so there is none to remove")
    chosen = drawn(case)
    batches = affordable(case.batches, len(chosen))
    progress = case.watch("", "runs")
    found = removals(case.references, case.mask, batches, case.task_metric, progress, chosen)
    rows, tolerance = _rows(case, found), case.tolerance
    n_needed = sum(row.kl.exceeds(tolerance) for row in rows)
    n_surely_dispensable = sum(row.kl.is_at_most(tolerance) for row in rows)
    result = Minimality(
        n_pairs=len(found.base_kl),
        n_edges=(n_edges := int(case.mask.sum())),
        tolerance=tolerance,
        base_kl=found.base_kl.mean().item(),
        base_metric=found.base_metric.mean().item(),
        n_needed=n_needed,
        n_surely_dispensable=n_surely_dispensable,
        dispensable=tuple(row.edge for row in rows if row.kl.value <= tolerance),
        edges=rows,
        verdict=verdict(n_edges, n_needed, n_surely_dispensable),
        sentence="",
        n_removed=None if len(rows) == n_edges else len(rows),
    )
    return replace(result, sentence=_sentence(result))


def drawn(case: Case) -> Int[Tensor, " n"]:
    """Positions of the kept edges that are removed by themselves, ascending; see `n_removed`."""
    kept = case.mask.nonzero().flatten()
    if len(kept) <= case.n_removed:
        return kept
    order = torch.randperm(len(kept), generator=case.generator("minimality/edges"))
    return kept[order[: case.n_removed]].sort().values


def verdict(n_edges: int, n_needed: int, n_surely_dispensable: int) -> Verdict:
    """`pass` if every edge is needed, `fail` if one is surely dispensable, else `undecided`."""
    if n_surely_dispensable:
        return "fail"
    return "pass" if n_needed == n_edges else "undecided"


def _rows(case: Case, found: Removals) -> tuple[EdgeRemoved, ...]:
    """Each edge's mean effects with 95 % intervals, all from the same resamples of the pairs."""
    generator = case.generator("minimality/bootstrap")
    draw = Bootstrap.draw(len(found.base_kl), case.n_bootstrap, generator)
    names, kl = names_of(case.graph, found.edges), found.kl.mean(dim=1)
    return tuple(
        EdgeRemoved(names[i], draw.mean(found.kl[i]), draw.mean(found.metric[i]))
        for i in kl.argsort(descending=True, stable=True).tolist()
    )


@torch.no_grad()
def removals(
    references: References,
    mask: Bool[Tensor, " edge"],
    batches: Sequence[Batch],
    task_metric: Metric,
    progress: Progress = silent,
    chosen: Int[Tensor, " n"] | None = None,
) -> Removals:
    """Runs the circuit once, and each edge's removal only where it makes a difference.

    Args:
        chosen: Positions of kept edges, ascending; None removes each of them.

    Raises:
        MetricError: NaN or infinite logits.
    """
    edges = mask.nonzero().flatten() if chosen is None else chosen
    kl, metric, base, done, total = [], [], [], 0, len(edges) * len(batches)
    for batch in references.rests(batches):
        full, ablated = references.full_logits(batch).cpu(), references.ablated(batch)
        values = partial(_kl_and_metric, full=full, batch=batch, task_metric=task_metric)
        whole_logits, each_logits = _without_each(references.gated, batch, ablated, mask, edges)
        base.append(values(whole_logits))
        each: list[Tensor] = []
        for logits in each_logits:
            each.append(values(logits))
            progress(done := done + 1, total)
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


def _without_each(
    gated: GatedModel,
    batch: Batch,
    ablated: Ablated,
    mask: Bool[Tensor, " edge"],
    edges: Int[Tensor, " n"],
) -> tuple[Float[Tensor, "batch vocab"], Iterator[Float[Tensor, "batch vocab"]]]:
    """Logits of a circuit, and of it without each of some edges or parts, in the flat order."""
    if isinstance(gated, GatedParts):
        replay = PartReplay(gated, batch.clean_prompts, ablated, batch.spans, kept=mask)
        some = replay.edges(edges)
        return replay.logits.cpu(), (one for _, logits in some for one in logits.cpu())
    if isinstance(gated, GatedSpans):
        logits = gated.on(batch, mask.to(gated.device, gated.dtype), ablated)
        return logits, (_cut_alone(gated, batch, ablated, mask, edge) for edge in edges.tolist())
    runs = CandidateRuns(gated, batch, ablated, mask.double(), 0)
    return runs.logits, _each_removed(gated.graph, runs, mask, edges)


@torch.no_grad()
def _cut_alone(
    gated: GatedModel, batch: Batch, ablated: Ablated, mask: Bool[Tensor, " edge"], edge: int
) -> Float[Tensor, "batch vocab"]:
    """Logits of a circuit without one edge, by a run of the whole model."""
    left = mask.to(gated.device, gated.dtype)
    left[edge] = 0
    return gated.on(batch, left, ablated)


def _each_removed(
    graph: Graph, runs: CandidateRuns, mask: Bool[Tensor, " edge"], edges: Int[Tensor, " n"]
) -> Iterator[Float[Tensor, "batch vocab"]]:
    """Logits of the circuit without each of some of its edges, in the flat order."""
    readers = graph.edge_reader[edges]
    for reader in readers.unique().tolist():
        block = graph.block_of_reader(reader)
        row = graph.block_view(mask, block)[reader - block.first_reader]
        writers = graph.edge_writer[edges[readers == reader]]
        candidates = row.repeat(len(writers), 1)
        candidates[torch.arange(len(writers)), writers] = False
        opened = runs.open(reader)
        for part in candidates.double().split(opened.at_once):
            yield from opened(part)


def names_of(graph: Graph, edges: Int[Tensor, " n"]) -> list[str]:
    """Names of edges by their positions."""
    return [graph.edge_name(edge) for edge in edges.tolist()]


def affordable(batches: Sequence[Batch], n_edges: int) -> list[Batch]:
    """Whole batches from the front whose pairs, times the edges, are within `MOST_RUNS`."""
    taken = list(batches[:1])
    for batch in batches[1:]:
        if (sum(map(len, taken)) + len(batch)) * n_edges <= MOST_RUNS:
            taken.append(batch)
    return taken


def _sentence(found: Minimality) -> str:
    n, tolerance = found.n_removed or found.n_edges, found.tolerance
    first, surely = found.edges[0], found.n_surely_dispensable
    undecided = n - found.n_needed - surely
    whose = f"Each of the circuit's {counted(n, 'edge')}"
    if found.n_removed:
        whose = f"Each of {n:,} of the circuit's {counted(found.n_edges, 'edge')}, drawn at random,"
    return (
        f"{whose} was removed from it by itself on "
        f"{counted(found.n_pairs, 'pair')}: {found.n_needed} are needed (the KL rises by more "
        f"than {tolerance:g} nats, whole interval), {surely} are dispensable alone (by at most "
        f"that), and {undecided} lie in between. The most needed is {first.edge} "
        f"({nats(first.kl.value)} nats). In a minimal circuit all are needed. Edges that stand in "
        "for each other are dispensable alone and not together: verify --minimise says how many "
        "can go."
    )


_MINIMISE = ("AT_ONCE", "TOLERANCE", "Minimised", "minimise", "minimised")
__getattr__ = old_names(__name__, {name: f"evidence.minimise.{name}" for name in _MINIMISE})
