"""Cross-model activation patching: what the edges of one model carry, put into another."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import Examples, each_run
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.progress import Progress, silent
from circuitprune.engine.references import Run
from circuitprune.errors import GraphError
from circuitprune.metrics import Metric, evidence_values


@torch.no_grad()
def cross_patched(
    host: GatedModel,
    donor: GatedModel,
    masks: Mapping[str, Bool[Tensor, " edge"]],
    batches: Sequence[Batch],
    metric: Metric,
    progress: Progress = silent,
) -> dict[str, Examples]:
    """The host model with the edges of a mask carrying what the donor wrote on the same prompt.

    Reader r of the host sees::

        sum over upstream writers w of  donor[w] if (w, r) is in the mask, else now[w]

    plus the host's own biases, where `donor[w]` is what w wrote in an untouched run of the donor on
    the clean prompt and `now[w]` what it writes in this run of the host. Norms, projections, MLPs
    and the unembedding are the host's. With an empty mask this is the host itself; with all edges
    of one head in the mask, Prakash et al.'s patch of that head's output.

    Args:
        host: The model that runs.
        donor: The model whose activations are put in; same graph and same tokens.
        masks: Edges to take from the donor, by name.
        batches: Pairs; their corrupt prompts are not used.
        metric: Higher is better.
        progress: Told the runs that are done, one for each mask and batch.

    Returns:
        For each mask, its pairs: `kl` is `KL(donor || patched host)` in nats and `exact_match` is
        the agreement of the most likely token with the donor's.

    Raises:
        GraphError: models of different graphs or widths.

    Source: Prakash et al. 2024, "Fine-Tuning Enhances Existing Mechanisms" (arXiv 2402.14811),
    cross-model activation patching (CMAP), there of heads' outputs, here of edges.
    """
    if host.graph != donor.graph:
        raise GraphError(
            f"the models have {host.graph.describe()} (width {host.graph.d_model}) and "
            f"{donor.graph.describe()} (width {donor.graph.d_model}); activations can be patched "
            "across models of equal sizes only"
        )
    live = {name: ~mask for name, mask in masks.items()}
    rows: dict[str, list[Tensor]] = {name: [] for name in masks}
    runs = each_run((_donated(host, donor, batch) for batch in batches), live)
    for done, (name, logits, run) in enumerate(runs, start=1):
        rows[name].append(evidence_values(logits, run.full, run.batch, metric))
        progress(done, len(live) * len(batches))
    return {name: Examples.joined(found) for name, found in rows.items()}


def _donated(host: GatedModel, donor: GatedModel, batch: Batch) -> Run:
    """The host on a batch, cut edges carrying the donor's values, compared with the donor."""
    theirs = batch.to(donor.device)
    written = donor.record(theirs.clean, theirs.mask).to(host.device, host.dtype)
    target = donor.plain(theirs.clean, theirs.mask, theirs.last)
    return Run(host, batch.to(host.device), written, lambda _: target)
