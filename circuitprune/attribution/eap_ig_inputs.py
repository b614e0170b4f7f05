"""Edge attribution patching with gradients integrated from the ablated to the clean input."""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches, require_steps
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.engine.tapped import edge_scores_at
from circuitprune.errors import ConfigError
from circuitprune.metrics import Metric

Rule = Literal["left", "midpoint", "right"]
"""Where a step is looked at: at its ablated end, in its middle, at its clean end."""
OFFSET: dict[Rule, float] = {"left": 0.0, "midpoint": 0.5, "right": 1.0}


def eap_ig_inputs(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    steps: int = 5,
    rule: Rule = "left",
) -> Float[Tensor, " edge"]:
    """EAP with the gradient averaged while the input moves from ablated to clean.

    `<ablated[w] - clean[w], mean_k d metric / d input of r at x_k>`, where only what enters layer 0
    is interpolated: `x_k = ablated + alpha_k (clean - ablated)` for k = 0 .. steps - 1. `alpha_k`
    is `k / steps` (`left`: with the ablated end, without the clean one; EAP-IG's edge scores),
    `(k + 1) / steps` (`right`: EAP-IG's node scores), or `(k + 0.5) / steps` (`midpoint`).

    Raises:
        ConfigError: no steps, or the left sum under `zero` ablation, where a norm of nothing has no
            gradient.

    Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv 2403.17806).
    """
    require_steps(steps, "eap_ig_inputs")
    gated = references.gated
    if rule == "left" and references.ablation.kind == "zero":
        raise ConfigError(
            "eap_ig_inputs starts at the ablated input, and the gradient of a norm at zero is as "
            "large as its epsilon is small; use eap_ig_inputs_midpoint, gate_ig or ablation=patch"
        )

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        difference = references.ablated_copy(batch)
        ablated = difference[0].clone()
        tokens, mask, _, prefix = batch.clean_prompts
        gated.subtract(difference, tokens, mask, prefix)
        precise = torch.promote_types(gated.dtype, torch.float32)
        total = difference.new_zeros(gated.graph.n_edges, dtype=precise)
        for k in range(steps):
            embeddings = ablated - difference[0] * ((k + OFFSET[rule]) / steps)
            total += edge_scores_at(gated, batch, metric, difference, embeddings)
        return total / steps

    return mean_over_batches(references.rests(batches), score)


def eap_ig_inputs_right(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """`eap_ig_inputs` by the right sum."""
    return eap_ig_inputs(references, batches, metric, steps, rule="right")


def eap_ig_inputs_midpoint(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """`eap_ig_inputs` by the midpoint sum."""
    return eap_ig_inputs(references, batches, metric, steps, rule="midpoint")
