"""Edge attribution patching: one gradient at the clean run."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.engine.tapped import edge_scores
from circuitprune.metrics import Metric


def eap(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """First-order estimate of the metric's change when each edge is ablated.

    `<ablated[w] - clean[w], d metric / d input of r at the clean run>`, mean over examples; equal
    to minus the gradient of the gated model at gate 1. `steps` is ignored.

    Source: Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"
    (arXiv 2310.10348).
    """
    gated = references.gated

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        return edge_scores(gated, batch, metric, references.ablated_copy(batch))

    return mean_over_batches(references.rests(batches), score)
