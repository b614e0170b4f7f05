"""Rival circuits: how well can the task be done by other edges than the circuit's?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from circuitprune.circuits.selection import select
from circuitprune.data.batches import Batch, few_pairs
from circuitprune.engine.evaluation import Examples, evaluate_each
from circuitprune.errors import MetricError
from circuitprune.evidence.bootstrap import Bootstrap, Estimate, spell
from circuitprune.evidence.case import Case
from circuitprune.files.text import counted, nats
from circuitprune.metrics import kl_divergence

PENALTIES = (0.0, 0.5, 0.9, 1.0)
"""How far the circuit's own gates are kept closed while a rival is looked for; 0 is no penalty."""
STEPS = 5
"""Points of the path."""

NOTHING = 0.9
"""Share of the empty circuit's KL from which a circuit does next to nothing."""


@dataclass(frozen=True)
class Rival:
    """One circuit of the size, found with a penalty on the edges of the circuit under test."""

    penalty: float
    """In [0, 1]; 1 lets it have no edge of the circuit's that it finds any use for."""
    n_edges: int
    """Edges that it keeps."""
    n_shared: int
    """Of these, edges of the circuit under test."""
    jaccard: float
    """Shared edges over those of either, in [0, 1]."""
    kl: Estimate
    """On the held-out pairs, in nats."""


@dataclass(frozen=True)
class Rivals:
    """The section `rivals`."""

    n_pairs: int
    """Held-out pairs, which KL is on."""
    n_train_pairs: int
    """Training pairs, few of them, which rivals are found on."""
    n_edges: int
    """Edges of the circuit under test."""
    circuit_kl: Estimate
    """Its KL on the held-out pairs, in nats."""
    empty_kl: float
    """KL of no circuit at all, in nats."""
    rivals: tuple[Rival, ...]
    """By penalty, none first: what the same search finds if it may take any edge."""
    sentence: str
    """The same in words."""


def rivals(case: Case) -> Rivals:
    """Circuits of the size that are found while the circuit's own edges are kept closed.

    Edges are scored by gradients of the KL integrated along gates that open from 0 to 1, but those
    of the circuit under test only to `1 - penalty`; the best are cut to a circuit of the same size.
    Found on few training pairs (the held-out ones without such) and measured on the held-out ones.

    Raises:
        MetricError: the circuit keeps no edge, or every edge: no other one is its rival.

    Source: that many circuits do one task is reported by "All Circuits Lead to Rome" (ICML 2026)
    and arXiv 2606.06267; the penalised search is ours.
    """
    n_edges = int(case.mask.sum())
    if n_edges in (0, case.graph.n_edges):
        kept = "every edge" if n_edges else "no edge"
        raise MetricError(f"the circuit keeps {kept}, so it has no rival of its size")
    batches = few_pairs(case.train_batches or case.batches)
    masks = {"circuit": case.mask, "empty": case.empty_mask}
    progress = case.watch("search", "rivals")
    for i, penalty in enumerate(PENALTIES):
        reach = 1 - penalty * case.mask.double()
        scores = _scores(case, reach, batches)
        masks[f"{penalty:g}"] = select(case.graph, scores.abs(), n_edges)
        progress(i + 1, len(PENALTIES))
    progress = case.watch("", "runs")
    found = evaluate_each(case.references, masks, case.batches, case.task_metric, progress)
    draw = Bootstrap.draw(case.n_examples, case.n_bootstrap, case.generator("rivals"))
    rows = tuple(
        _rival(penalty, case.mask, masks[f"{penalty:g}"], found[f"{penalty:g}"], draw)
        for penalty in PENALTIES
    )
    circuit_kl, empty_kl = draw.mean(found["circuit"].kl), found["empty"].kl.mean().item()
    return Rivals(
        n_pairs=case.n_examples,
        n_train_pairs=sum(map(len, batches)),
        n_edges=n_edges,
        circuit_kl=circuit_kl,
        empty_kl=empty_kl,
        rivals=rows,
        sentence=_sentence(n_edges, circuit_kl, empty_kl, rows),
    )


def _rival(
    penalty: float, circuit: Tensor, mask: Tensor, found: Examples, draw: Bootstrap
) -> Rival:
    n_shared, n_either = int((circuit & mask).sum()), int((circuit | mask).sum())
    jaccard = n_shared / n_either if n_either else 0.0
    return Rival(penalty, int(mask.sum()), n_shared, jaccard, draw.mean(found.kl))


def _scores(
    case: Case,
    reach: Float64[Tensor, " edge"],
    batches: Sequence[Batch],
) -> Float64[Tensor, " edge"]:
    """Each edge's share of the fall of the KL while gates open from 0 to `reach`, midpoint rule."""
    gated, n_pairs = case.references.gated, sum(map(len, batches))
    precise = torch.promote_types(gated.dtype, torch.float32)
    total = torch.zeros_like(reach)
    for run in case.references.runs(batches):
        for k in range(STEPS):
            gates = (reach * (k + 0.5) / STEPS).to(gated.device, precise).requires_grad_()
            with torch.enable_grad():
                kl = kl_divergence(run.full, run(gates)).sum()
                (slopes,) = torch.autograd.grad(kl, gates)
            total -= slopes.double().cpu() * reach / STEPS
    return total / n_pairs


def _sentence(n_edges: int, circuit_kl: Estimate, empty_kl: float, rows: Sequence[Rival]) -> str:
    told = "; ".join(
        f"penalty {row.penalty:g}: {row.n_shared:,} shared, KL {nats(row.kl.value)}" for row in rows
    )
    return (
        f"Circuits of at most {counted(n_edges, 'edge')} found by one search that keeps the "
        f"circuit's own edges ever more closed, {told}. The circuit has {spell(circuit_kl, 3)} "
        f"nats, no edge at all {nats(empty_kl)}. The one that was to share none has "
        f"{spell(rows[-1].kl, 3)}: {_reading(rows, empty_kl)}"
    )


def _reading(rows: Sequence[Rival], empty_kl: float) -> str:
    """What it says that the circuit without the shared edges is so far from the model.

    Args:
        rows: What the search finds without a penalty, ..., and what was to share no edge.
        empty_kl: KL of no edge at all.
    """
    free, apart, last = rows[0].kl, rows[-1].kl, rows[-1]
    if 2 * last.n_shared > last.n_edges:
        return (
            "but most of its edges are the circuit's own, for want of others on a path, so it is "
            "no other way to do the task."
        )
    if free.low > NOTHING * empty_kl:
        return "the search finds no circuit of this size at all, so this says nothing."
    if apart.low <= free.high:
        return (
            "as near the model as the search without penalty, so the task is done in more than one "
            "way, and this circuit is one."
        )
    if apart.high > NOTHING * empty_kl:
        return (
            "hardly nearer the model than no edge, so this search sees no way around the circuit's "
            "edges."
        )
    return (
        "farther from the model than the search without penalty and nearer than no edge, so other "
        "edges do part of the task."
    )
