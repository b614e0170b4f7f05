"""What neurons and features say: how strong they are at each token, and which tokens they promote.

Both are readings of the untouched model, not causes: docs/parts.md says what they leave out.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.feature_sites import FeatureSite
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.lens.logits import residual_streams, through_norm, unembedding_of
from circuitprune.models.changes import output_of
from circuitprune.models.layer_ports import in_out
from circuitprune.models.norms import known_norm, norm_scale

FINE = re.compile(r"(input|[a-z]+(\d+))\.[nf]\d+")
"""Names of neurons and features: `m3.n17`, `resid2.f5`."""


@torch.no_grad()
def activations(
    gated: GatedParts,
    parts: Sequence[int],
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "part batch pos"]:
    """How strong some neurons or features are at each token of a plain run.

    A neuron's is the number in front of its MLP's last linear map, a feature's what its dictionary
    encodes.
    """
    columns = []
    for part in parts:
        number, own = gated.place(part)
        columns.append(gated.columns[number].start + own)
    found: Tensor = gated.record(tokens, mask)[0][..., columns].permute(2, 0, 1)
    return found


@torch.no_grad()
def direct_effects(
    gated: GatedParts, parts: Sequence[int], batches: Iterable[Batch]
) -> Float[Tensor, "part vocab"]:
    """By how much each token's logit rises for each unit of a neuron or feature, directly.

    With `d` what a unit adds to the residual stream (the neuron's row of the last linear map, the
    feature's direction; through the norm behind the MLP, if there is one), `s` the final norm's
    scale and `U` the unembedding::

        mean over pairs of  U (s * centred(d))  -  its mean over tokens

    in logits for a unit at the answer position, relative to all tokens, as what raises all of them
    alike changes nothing. Norms' scales are held at what they are in this run; a scale or a soft
    cap behind the unembedding is left out.

    Raises:
        ModelError: a norm whose scale is not known, or no linear unembedding.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; Elhage et al. 2021.
    """
    final, unembedding = gated.ports.final_norm, unembedding_of(gated).weight
    total, n = torch.zeros(()), 0
    for batch in batches:
        written = _written(gated, parts, batch)
        scale = norm_scale(final)(residual_streams(gated, batch)["logits"])
        if known_norm(final).centred:
            written = written - written.mean(-1, keepdim=True)
        total = total + (written * scale).double().sum(1)
        n += len(batch)
    logits = (total / n).to(unembedding) @ unembedding.T
    return logits - logits.mean(-1, keepdim=True)


def _written(
    gated: GatedParts, parts: Sequence[int], batch: Batch
) -> Float[Tensor, "part example d_model"]:
    """What a unit of each part adds to the stream at the answer positions of each pair."""
    outputs, rows = _mlp_outputs(gated, batch), []
    for part in parts:
        number, own = gated.place(part)
        site, name = gated.sites[number], FINE.fullmatch(gated.graph.edge_name(part))
        assert name is not None
        if isinstance(site, FeatureSite):
            row = site.dictionary.w_dec[own].expand(len(batch), -1)
        else:
            row = in_out(site.module)[own].expand(len(batch), -1)
        if name[1][0] not in "am":  # the stream itself, or what enters it
            rows.append(row)
            continue
        layer = gated.ports.layers[int(name[2])]
        if not isinstance(site, FeatureSite) and layer.mlp_post_norm is not None:
            row = through_norm(layer.mlp_post_norm, row, outputs[int(name[2])])
        rows.append(layer.scaled(row))
    return torch.stack(rows)


def _mlp_outputs(gated: GatedParts, batch: Batch) -> dict[int, Float[Tensor, "example d_model"]]:
    """What MLPs return in front of a norm behind them, at the answer positions; by layer."""
    found: dict[int, Tensor] = {}
    normed = {n: one for n, one in enumerate(gated.ports.layers) if one.mlp_post_norm is not None}
    if not normed:
        return found
    rows = torch.arange(len(batch), device=batch.last.device)
    with ExitStack() as hooks:
        for number, layer in normed.items():

            def keep(_: object, __: object, result: Tensor, number: int = number) -> None:
                found[number] = output_of(result)[rows, batch.last].clone()

            hooks.enter_context(layer.mlp.register_forward_hook(keep))
        gated.plain(batch.clean, batch.mask, batch.last)
    return found
