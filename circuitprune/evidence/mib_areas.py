"""CPR and CMD of one order of edges as MIB's own evaluation computes them, without intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.engine.progress import Progress, silent
from circuitprune.engine.references import References
from circuitprune.evidence.mib import cmd, cpr, edge_circuits
from circuitprune.metrics import faithfulness, logit_diff


@dataclass(frozen=True)
class Areas:
    """What MIB's board shows of one cell."""

    n_pairs: int
    n_edges: int
    """Of the model, by query head, as MIB counts."""
    cpr: float
    """Edges cut by importance, what helps most first; higher is better."""
    cmd: float
    """Edges cut by the magnitude of importance; lower is better."""
    signed: tuple[float, ...]
    """Faithfulness of the ten circuits behind CPR, in the order of `SIZES`."""
    absolute: tuple[float, ...]
    """The same behind CMD."""


def mib_areas(
    references: References,
    importance: Float[Tensor, " edge"],
    batches: Sequence[Batch],
    progress: Progress = silent,
) -> Areas:
    """The areas under faithfulness of circuits cut by an importance, positive where an edge helps.

    At each of MIB's ten sizes the `int(size * n_edges)` first edges, trimmed; faithfulness
    `(m(circuit) - m(empty)) / (m(full) - m(empty))` with m the mean logit difference; trapezoids.

    Args:
        references: The model by query head, and what cut edges carry.
        importance: Of each edge, as an importance file has it.
        batches: Held-out pairs.
        progress: Told the runs that are done.

    Raises:
        MetricError: the full and the empty model score the same.

    Source: Mueller et al. 2025, "MIB" (arXiv:2504.13151), `evaluate_area_under_curve` of its
    circuit track.
    """
    graph = references.gated.graph
    cuts = {"signed": importance, "absolute": importance.abs()}
    masks = {f"{k} {s}": m for k, by in cuts.items() for s, m in edge_circuits(graph, by).items()}
    found = evaluate(
        references, {"empty": graph.no_edges(), **masks}, batches, logit_diff, progress
    )
    full = evaluate_full(references, batches, logit_diff)
    ends = [torch.tensor([one.metric], dtype=torch.float64) for one in (full, found["empty"])]

    def curve(kind: str) -> tuple[float, ...]:
        metrics = [found[name].metric for name in masks if name.startswith(kind)]
        return tuple(
            faithfulness(torch.tensor([one], dtype=torch.float64), *ends).item() for one in metrics
        )

    signed, absolute = curve("signed"), curve("absolute")
    return Areas(
        n_pairs=full.n,
        n_edges=graph.n_edges,
        cpr=cpr(torch.tensor(signed, dtype=torch.float64)).item(),
        cmd=cmd(torch.tensor(absolute, dtype=torch.float64)).item(),
        signed=signed,
        absolute=absolute,
    )
