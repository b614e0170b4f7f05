"""Uniform gradient sampling: how open each edge should be, learned from sampled gates."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import require_steps
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import DataError, MetricError, NonFiniteError
from circuitprune.metrics import Metric

SAMPLES = 20
"""Optimisation steps, each with gates of its own, that one visit of a batch takes."""
LEARNING_RATE = 0.15
"""Of Adam, on the logits of theta."""
PENALTY = 1.0
"""What keeping all edges costs, in units of what cutting all of them does to the metric."""
WIDTH = 1.0
"""Width of the window in which a gate is fractional, in units of `theta * (1 - theta)`."""


def ugs(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """The learned probability `theta`, in [0, 1], that an edge is open.

    Adam minimises `- mean metric / |metric(full) - metric(empty)| + PENALTY * mean theta` over
    gates that are drawn anew at each step, `1 - clamp((u - theta) / w + 1/2, 0, 1)` with
    `u ~ U(0, 1)` and `w = WIDTH * theta * (1 - theta)`, held fixed: open with probability about
    theta, and fractional, with a gradient, where `u` comes near. All gates start at 1/2. `steps` is
    the number of passes over the batches, each of `SAMPLES` optimisation steps per batch, so it
    costs about `3 * SAMPLES * steps` forwards of the data. Deterministic.

    Unsigned: larger is more important. One batch shares its gates, so unlike a mean over examples
    the result depends on how examples are batched.

    Raises:
        ConfigError: no steps.
        DataError: no batches.
        MetricError: the full and the empty model have the same metric.
        NonFiniteError: a metric is NaN or infinite.

    Source: Li and Janson 2024, "Optimal ablation for interpretability" (arXiv 2409.09951).
    """
    require_steps(steps, "ugs")
    gated, batches = references.gated, list(batches)
    span = _span(references, batches, metric)
    precise = torch.promote_types(gated.dtype, torch.float32)
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(gated.graph.n_edges, device=gated.device, dtype=precise)
    optimiser = torch.optim.Adam([logits.requires_grad_()], LEARNING_RATE)
    for batch in [batch for _ in range(steps) for batch in batches]:
        run = references.run(batch)
        for _ in range(SAMPLES):
            with torch.enable_grad():
                theta = logits.sigmoid()
                gates = sampled_gates(theta, generator)
                out = run(gates)
                worth = _finite(metric(out, batch), batch).mean() / span
                optimiser.zero_grad()
                (PENALTY * theta.mean() - worth).backward(inputs=[logits])
            optimiser.step()
    return logits.detach().sigmoid()


def sampled_gates(
    theta: Float[Tensor, " edge"], generator: torch.Generator
) -> Float[Tensor, " edge"]:
    """Gates that are 1 with probability about theta, else 0, fractional in a window around it.

    The slope is `1 / w` in a window of width `w`, so the gradient of their mean is 1.
    """
    u = torch.rand(len(theta), generator=generator, dtype=torch.float64).to(theta)
    width = WIDTH * (theta * (1 - theta)).detach()
    return 1 - ((u - theta) / width + 0.5).clamp(0, 1)


@torch.no_grad()
def _span(references: References, batches: list[Batch], metric: Metric) -> float:
    """`|metric(full) - metric(empty)|`, each a mean over all examples."""
    values, empty = [], torch.zeros(references.gated.graph.n_edges, dtype=torch.bool)
    for batch in batches:
        ends = (references.full_logits(batch), references.run(batch)(empty))
        values.append(torch.stack([_finite(metric(end, batch), batch).double() for end in ends]))
    if not values:
        raise DataError("attribution needs pairs, but was given no batches")
    full, empty = torch.cat(values, dim=1).mean(dim=1).tolist()
    if abs(full - empty) <= 1e-6 * (abs(full) + abs(empty)):
        raise MetricError(
            f"ugs is undefined: the full model and the model with every edge ablated both score "
            f"{full:.4g}. Check that clean and corrupt prompts have different answers."
        )
    return float(abs(full - empty))


def _finite(values: Float[Tensor, " batch"], batch: Batch) -> Float[Tensor, " batch"]:
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(
            f"attribution gave NaN or infinite scores on examples {batch.index.tolist()}; "
            "use model.dtype=float32 or a metric that is finite on them"
        )
    return values
