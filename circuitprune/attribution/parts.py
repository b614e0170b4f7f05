"""Edge attribution patching at parts: nodes, neurons, features.

A part has one edge, into the stream, so its score is the first-order change of the metric when the
part is ablated: `<ablated_j - clean_j, d metric / d part j>`. In hidden space this is a product of
numbers for each neuron: nothing of the size of tokens times parts times width is made.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches, require_steps
from circuitprune.attribution.eap_ig_inputs import OFFSET, Rule
from circuitprune.data.pairs import Batch
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.references import References
from circuitprune.metrics import Metric


def eap(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """First-order estimate of the metric's change when each part is ablated; `steps` is ignored.

    Equal to minus the gradient of the gates on parts at 1.

    Source: attribution patching of nodes and neurons (Nanda 2023; Kramar et al. 2024, arXiv
    2403.00745), of features (Marks et al. 2024, arXiv 2403.19647).
    """
    gated = of_parts(references)

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        return part_scores(gated, batch, metric, difference(references, batch), None)

    return mean_over_batches(references.rests(batches), score)


def eap_ig_inputs(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    steps: int = 5,
    rule: Rule = "left",
) -> Float[Tensor, " edge"]:
    """`eap` with the gradient averaged while the input moves from ablated to clean.

    Points and rules are those of the method of this name for edges; the differences of the parts
    are those of the clean run.

    Raises:
        ConfigError: no steps.

    Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv 2403.17806).
    """
    require_steps(steps, "eap_ig_inputs")
    gated = of_parts(references)

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        tokens, mask, _, prefix = batch.clean_prompts
        ablated = references.ablated_copy(batch)
        clean = gated.record(tokens, mask, prefix)
        change, entry = (ablated - clean)[0], gated.columns[0]
        total = change.new_zeros(gated.graph.n_edges, dtype=_precise(gated))
        for k in range(steps):
            share = (k + OFFSET[rule]) / steps
            embeddings = ablated[0][..., entry] - change[..., entry] * share
            total += part_scores(gated, batch, metric, change, embeddings)
        return total / steps

    return mean_over_batches(references.rests(batches), score)


def eap_ig_inputs_right(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """`eap_ig_inputs` by the right sum, as EAP-IG takes it for nodes."""
    return eap_ig_inputs(references, batches, metric, steps, rule="right")


def eap_ig_inputs_midpoint(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """`eap_ig_inputs` by the midpoint sum."""
    return eap_ig_inputs(references, batches, metric, steps, rule="midpoint")


def of_parts(references: References) -> GatedParts:
    """The model, whose gates stand on parts."""
    assert isinstance(references.gated, GatedParts)  # the config has refused the method otherwise
    return references.gated


def difference(references: References, batch: Batch) -> Float[Tensor, "batch pos width"]:
    """What each part would carry instead, minus what it is on the clean run."""
    change = references.ablated_copy(batch)
    tokens, mask, _, prefix = batch.clean_prompts
    references.gated.subtract(change, tokens, mask, prefix)
    return change[0]


def part_scores(
    gated: GatedParts,
    batch: Batch,
    metric: Metric,
    change: Float[Tensor, "batch pos width"],
    embeddings: Float[Tensor, "batch pos d_model"] | None,
) -> Float[Tensor, " edge"]:
    """`sum over examples and positions of <change_j, d metric / d part j>`, at some embeddings."""
    gates = torch.ones(gated.graph.n_edges, device=gated.device, dtype=_precise(gated))
    gates.requires_grad_()
    with torch.enable_grad():
        logits = gated.moved(gates, batch, change, embeddings)
        (gradient,) = torch.autograd.grad(metric(logits, batch).sum(), gates)
    return -gradient


def _precise(gated: GatedParts) -> torch.dtype:
    return torch.promote_types(gated.dtype, torch.float32)
