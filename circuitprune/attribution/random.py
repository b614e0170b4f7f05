"""Random scores: what every other method has to beat."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric


def random(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """Standard normal scores from a fixed seed; the same on every device and for every data set.

    Neither the pairs nor the metric are looked at, and the sign means nothing.
    """
    gated = references.gated
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(gated.graph.n_edges, generator=generator, dtype=torch.float64)
    return scores.to(gated.device, torch.promote_types(gated.dtype, torch.float32))
