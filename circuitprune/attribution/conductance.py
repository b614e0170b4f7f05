"""Conductance: gradients on the way from the corrupt to the clean input, times how writers move."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches, require_patch, require_steps
from circuitprune.data.pairs import Batch
from circuitprune.engine.recording import recorders
from circuitprune.engine.references import References
from circuitprune.engine.tapped import TappedRun
from circuitprune.metrics import Metric


def conductance(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """EAP-IG with each writer's own move along the path in place of its end points.

    `sum_k <z_w(x_{k-1}) - z_w(x_k), g_r(x_k)>`, k = 1 .. steps, where `x_k` is `k / steps` of the
    way from the corrupt to the clean input, `z_w(x)` what writer w writes there and `g_r(x)` the
    metric's gradient at reader r's input. EAP-IG takes `z_w(x_0) - z_w(x_m)` out of the sum, which
    is exact only where writers move in a line; here the scores of any cut between input and logits
    sum to `metric(corrupt) - metric(clean)`, up to the error of the sum over steps.

    Raises:
        ConfigError: no steps, or an ablation other than `patch`.

    Source: Dhamdhere et al. 2018, "How Important Is a Neuron?" (arXiv 1805.12233); for edges
    "Demystifying Variance in Circuit Discovery" (arXiv 2606.16920), CEAP.
    """
    require_steps(steps, "conductance")
    require_patch(references, "conductance")
    gated = references.gated

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        written = references.ablated_copy(batch)  # at x_0, then at each point in turn
        tokens, mask, _, prefix = batch.clean_prompts
        start = written[0].clone()
        moved = gated.record(tokens, mask, prefix)[0] - start
        precise = torch.promote_types(gated.dtype, torch.float32)
        total = written.new_zeros(gated.graph.n_edges, dtype=precise)
        for k in range(1, steps + 1):
            difference = written.clone()
            run = TappedRun(gated, difference, start + moved * (k / steps), batch)
            with gated.ports.intercept(recorders(gated.ports, difference, subtract=True)):
                logits = run.forward()
            written -= difference
            total += run.backward(logits, metric)
        return total

    return mean_over_batches(references.rests(batches), score)
