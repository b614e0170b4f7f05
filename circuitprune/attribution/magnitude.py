"""How far each writer moves under ablation: a baseline that needs no metric and no gradient."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric


def magnitude(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """`|ablated[w] - clean[w]|_2`, mean over real positions, then over examples.

    The same for all readers of a writer. In the unit of the residual stream, not of the metric,
    and unsigned: larger is more important. `metric` and `steps` are ignored. In families with a
    norm behind the attention, a head's output is measured in front of it.
    """
    gated = references.gated
    writer = gated.graph.edge_writer.to(gated.device)

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        moved = references.ablated(batch)[:] - gated.record(batch.clean, batch.mask)
        per_example = moved.norm(dim=-1).masked_fill(~batch.mask, 0).sum(-1) / (batch.last + 1)
        scores: Tensor = per_example.sum(-1)[writer]
        return scores

    return mean_over_batches(batches, score)
