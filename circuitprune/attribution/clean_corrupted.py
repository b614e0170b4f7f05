"""EAP with the gradient averaged over the two ends of the path: the clean and the corrupt run."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches, require_patch
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.engine.tapped import edge_scores_at
from circuitprune.metrics import Metric


def clean_corrupted(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """EAP with the mean of two gradients: at the clean run and at the corrupt run.

    `<corrupt[w] - clean[w], (g_clean + g_corrupt) / 2>` with `g` the metric's gradient at the
    reader's input: the trapezoid rule with one interval. `steps` is ignored.

    Raises:
        ConfigError: the ablation is not `patch`, so there is no corrupt run.

    Source: `clean-corrupted` of Hanna et al. 2024 (arXiv 2403.17806) in their code.
    """
    require_patch(references, "clean_corrupted")
    gated = references.gated

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        corrupt = references.ablated(batch)[:]
        tokens, mask, _, prefix = batch.clean_prompts
        clean = gated.record(tokens, mask, prefix)
        ends = (
            edge_scores_at(gated, batch, metric, corrupt - clean, run[0])
            for run in (clean, corrupt)
        )
        return sum(ends, start=clean.new_zeros(gated.graph.n_edges)) / 2

    return mean_over_batches(references.rests(batches), score)
