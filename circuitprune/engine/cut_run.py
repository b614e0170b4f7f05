"""Whole writers cut, each example's own: a plain run in which they write constants instead.

`GatedModel` under gates that close all edges of a writer gives the same logits. Here the constants
have gradients, and every example has cuts of its own, which gates of a batch cannot say.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Prompts
from circuitprune.models.changes import (
    Branch,
    Change,
    Forward,
    Output,
    narrow,
    output_of,
    with_output,
)
from circuitprune.models.layer_ports import LayerPorts
from circuitprune.models.ports import Ports


def cut_logits(
    ports: Ports,
    prompts: Prompts,
    constants: Float[Tensor, "writer d_model"],
    cut: Bool[Tensor, "batch writer"],
) -> Float[Tensor, "batch vocab"]:
    """Answer-position logits where writer w of example b writes `constants[w]` if `cut[b, w]`.

    Differentiable in `constants`. A constant is what `record_writers` would see: of a head, in
    front of the output projection's bias and of a norm behind the attention; of an MLP, behind its
    norm and its multiplier.
    """
    tokens, mask, last, prefix = prompts
    norm = ports.final_norm
    changes = [*_changes(ports, constants, cut), (norm, "forward", narrow(norm.forward, last))]
    with ports.intercept(changes):
        return ports.run(tokens, mask, last, prefix)


def _changes(ports: Ports, constants: Tensor, cut: Tensor) -> list[Change]:
    graph, first = ports.graph, ports.first_layer
    changes: list[Change] = [(first, "forward", _input(first.forward, constants[0], cut[:, 0]))]
    for layer, modules in enumerate(ports.layers):
        heads, writer = graph.heads(layer), graph.mlp_writer(layer)
        at_heads = _heads(
            modules.output.forward,
            ports.head_weight(layer),
            constants[heads],
            cut[:, heads],
            modules.scale,
        )
        changes.append((modules.output, "forward", at_heads))
        changes.append(_mlp(modules, constants[writer], cut[:, writer]))
    return changes


def _chosen(cut: Tensor, constant: Tensor, written: Tensor) -> Tensor:
    """The constant in examples that cut it, else what was written, `[batch, pos, d_model]`."""
    return torch.where(cut[:, None, None], constant.to(written.dtype), written)


def _input(forward: Branch, constant: Tensor, cut: Tensor) -> Branch:
    def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
        return forward(_chosen(cut, constant, hidden), *args, **kwargs)

    return first_layer


def _heads(
    forward: Forward, weight: Tensor, constants: Tensor, cut: Tensor, scale: float
) -> Forward:
    """The output projection, its heads' shares replaced; what joins the stream is scaled behind."""

    def output(values: Tensor) -> Tensor:
        parts = values.unflatten(-1, (len(weight), -1))  # [batch, pos, head, d_head]
        closed = cut.to(values.dtype)
        lost = torch.einsum("bh,bphd,hdm->bpm", closed, parts, weight)
        gained = closed @ constants.to(values.dtype)
        return forward(values) + (gained[:, None] - lost) / scale

    return output


def _mlp(modules: LayerPorts, constant: Tensor, cut: Tensor) -> Change:
    """The MLP, or the norm behind it where there is one: what joins the stream, but scaled."""
    behind = modules.mlp if modules.mlp_post_norm is None else modules.mlp_post_norm
    forward = behind.forward

    def mlp(hidden: Tensor) -> Output:
        result = forward(hidden)
        output = output_of(result)
        whole = output.unflatten(0, (len(cut), -1)) if output.ndim == 2 else output
        new = _chosen(cut, constant / modules.scale, whole).view(output.shape)
        return with_output(result, new)

    return (behind, "forward", mlp)
