"""Gradients integrated along the gates themselves, all moving together from 0 to 1."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches, require_steps
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric


def gate_ig(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 20
) -> Float[Tensor, " edge"]:
    """Each edge's share of the metric between the empty and the full model.

    `- mean_k d metric / d gate at gates = (k + 0.5) / steps`, the midpoint rule, so the scores sum
    to `metric(empty) - metric(full)` up to the quadrature error (completeness of integrated
    gradients, Sundararajan et al. 2017, arXiv 1703.01365). The path passes through every degree of
    ablation, so a metric that is flat at the clean run, such as the KL to it, still has a signal.

    Raises:
        ConfigError: no steps.
    """
    require_steps(steps, "gate_ig")
    gated = references.gated

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        run = references.run(batch)
        precise = torch.promote_types(gated.dtype, torch.float32)
        total = torch.zeros(gated.graph.n_edges, device=gated.device, dtype=precise)
        for k in range(steps):
            gates = torch.full_like(total, (k + 0.5) / steps).requires_grad_()
            with torch.enable_grad():
                logits = run(gates)
                (gradient,) = torch.autograd.grad(metric(logits, batch).sum(), gates)
            total -= gradient
        return total / steps

    return mean_over_batches(batches, score)
