"""Information flow routes: how much of each reader's input is made up of each writer's output."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches
from circuitprune.circuits.graph import Block
from circuitprune.data.pairs import Batch
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.metrics import Metric
from circuitprune.models.norms import norm_scale


def ifr(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """Each writer's share of a reader's input on the clean run, in [0, 1].

    `prox(w, r) = max(0, |x_r|_1 - |z_w - x_r|_1)` with `x_r` the residual stream in front of r's
    norm and `z_w` what w adds to it, divided by the sum of `prox` over the writers upstream of r.
    Mean over real positions (of `logits`: the answer position), then over examples. Biases that
    belong to no writer are part of `x_r` and get no share, so the shares of a reader sum to 1; they
    are 0 where no writer comes near. Behind the norms of Gemma-2, a head's part is its output times
    the norm's scale.

    Unsigned: larger is more important. Readers of one block have the same input, hence the same
    shares. No metric, no ablation and no steps: these arguments are ignored.

    Source: Ferrando and Voita 2024, "Information Flow Routes" (arXiv 2403.00824).
    """
    gated = references.gated

    @torch.no_grad()
    def score(batch: Batch) -> Float[Tensor, " edge"]:
        precise = torch.promote_types(gated.dtype, torch.float32)
        scores = torch.zeros(gated.graph.n_edges, device=gated.device, dtype=precise)
        for block, parts, stream in _streams(gated, batch):
            shares = proximity(parts, stream)
            if block.kind == "logits":
                rows = torch.arange(len(batch), device=shares.device)
                mean = shares[:, rows, batch.last]
            else:
                mean = shares.masked_fill(~batch.mask, 0).sum(-1) / (batch.last + 1)
            gated.graph.block_view(scores, block)[:] = mean.sum(-1)
        return scores

    return mean_over_batches(batches, score)


def proximity(
    parts: Float[Tensor, "writer batch pos d_model"], stream: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "writer batch pos"]:
    """How near each part comes to the whole, by the L1 norm, divided by the sum over the parts."""
    length = stream.abs().sum(-1)
    near = [(length - (part - stream).abs().sum(-1)).clamp(min=0) for part in parts]
    total = torch.stack(near)
    return total / total.sum(0).clamp(min=torch.finfo(total.dtype).tiny)


def _streams(
    gated: GatedModel, batch: Batch
) -> Iterator[tuple[Block, Float[Tensor, "writer batch pos d_model"], Tensor]]:
    """Each block of readers, what its writers add to the residual stream, and the stream itself."""
    graph, ports = gated.graph, gated.ports
    parts = gated.record(batch.clean, batch.mask)
    stream = parts[0].clone()
    for layer in range(graph.n_layers):
        first, mlp = graph.head_writer(layer, 0), graph.mlp_writer(layer)
        bias, heads = ports.attention_bias(layer), parts[first:mlp]
        yield graph.attention_block(layer), parts[:first], stream
        attention = heads.sum(0) if bias is None else heads.sum(0) + bias
        if layer in ports.post_norms.norms:
            heads *= norm_scale(ports.post_norms.norms[layer])(attention)
        attention = ports.post_norms.of(layer, attention)
        if graph.parallel:
            yield graph.mlp_block(layer), parts[:first], stream
        stream = stream + attention
        if not graph.parallel:
            yield graph.mlp_block(layer), parts[:mlp], stream
        stream = stream + parts[mlp]
    yield graph.logits_block, parts, stream
