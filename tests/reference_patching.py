"""The slow truth of patching: hooks on an untouched Hugging Face model, one edge at a time.

Shares no code with the package but the names and the order of `Graph`. `model` must have one KV
head per KV reader of the graph (`reference.ungrouped_model`).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from reference import (
    at_last,
    blocks,
    changed_input,
    changed_output,
    layers,
    logits_with_slice,
    parse_node,
    patched_logits,
    plain_logits,
    reader_place,
    seen,
    writers,
)
from torch import Tensor
from transformers import PreTrainedModel

Metric = Callable[[Tensor], Tensor]


def edge_effects(
    model: PreTrainedModel,
    family: str,
    tokens: Tensor,
    other: Tensor | dict[str, Tensor],
    batch,
    metric: Metric,
    edges: list[str],
) -> Tensor:
    """`[edge, example]`: the metric when one reader alone sees what a writer writes on `other`.

    `other` is another batch of prompts, or what each writer is replaced by.
    """
    now, instead = recorded(model, family, tokens, other, batch.mask)
    before = metric(at_last(plain_logits(model, tokens, batch.mask), batch.last))
    effects = []
    for edge in edges:
        writer, reader = edge.split("->")
        change = instead[writer] - now[writer]
        logits = logits_with_change(model, family, tokens, batch.mask, writer, change, reader)
        effects.append(metric(at_last(logits, batch.last)) - before)
    return torch.stack(effects)


def node_effects(
    model: PreTrainedModel,
    family: str,
    tokens: Tensor,
    other: Tensor,
    batch,
    metric: Metric,
    names: list[str],
) -> Tensor:
    """`[node, example]`: the metric when everyone sees what a writer writes on `other`."""
    _, instead = recorded(model, family, tokens, other, batch.mask)
    before = metric(at_last(plain_logits(model, tokens, batch.mask), batch.last))
    effects = []
    for name in names:
        logits = patched_logits(model, family, tokens, batch.mask, name, instead[name])
        effects.append(metric(at_last(logits, batch.last)) - before)
    return torch.stack(effects)


def path_effect(
    model: PreTrainedModel,
    family: str,
    tokens: Tensor,
    other: Tensor | dict[str, Tensor],
    batch,
    metric: Metric,
    hops: list[tuple[str, str]],
) -> Tensor:
    """`[example]`: the metric when a change travels along `(writer, reader), (writer, reader) ...`.

    Each later writer is run again with the reader before it changed, on an otherwise plain run.
    """
    now, instead = recorded(model, family, tokens, other, batch.mask)
    before = metric(at_last(plain_logits(model, tokens, batch.mask), batch.last))
    change = instead[hops[0][0]] - now[hops[0][0]]
    for (writer, reader), (component, _) in pairwise(hops):
        place = reader_change(model, family, tokens, batch.mask, writer, change, reader)
        with hooked(*place):
            change = writers(model, family, tokens, batch.mask)[component] - now[component]
    logits = logits_with_change(model, family, tokens, batch.mask, hops[-1][0], change, hops[-1][1])
    return metric(at_last(logits, batch.last)) - before


def recorded(model, family, tokens, other, mask) -> tuple[dict, dict]:
    """What each writer writes, and what it is replaced by."""
    instead = other if isinstance(other, dict) else writers(model, family, other, mask)
    return writers(model, family, tokens, mask), instead


def logits_with_change(model, family, tokens, mask, writer, change, reader) -> Tensor:
    """The model's logits when one reader sees a writer changed."""
    where, module, features, value = reader_change(
        model, family, tokens, mask, writer, change, reader
    )
    return logits_with_slice(model, tokens, mask, where, module, value, features)


def reader_change(model, family, tokens, mask, writer, change, reader) -> tuple:
    """Where a reader reads, and what it reads there once `writer` is changed by `change`."""
    norm, module, where, features = reader_place(model, family, reader)
    stream = seen(model, tokens, mask, changed_input, norm)
    stream = stream + arriving(model, family, tokens, mask, writer, change)
    if module is norm:
        return where, module, features, stream
    return where, module, features, norm(stream) if where is changed_input else module(norm(stream))


def arriving(model, family, tokens, mask, writer, change) -> Tensor:
    """How the residual stream changes when a writer does: Gemma-2 has a norm in between."""
    if writer[0] != "a":
        return change
    layer = layers(model, family)[parse_node(writer)[0]]
    heads = seen(model, tokens, mask, changed_output, layer.output)
    return layer.post_attention(heads + change) - layer.post_attention(heads)


def hooked(where, module, features, value):
    """Inside, some features of a module's input or output come from `value`."""

    def swap(now):
        now = now.clone()
        now[..., features] = value[..., features]
        return now

    return where(module, swap)


def constant(model, family, value: float, tokens: Tensor) -> dict[str, Tensor]:
    """Every writer replaced by one number."""
    entering = seen(model, tokens, torch.ones_like(tokens), changed_input, blocks(model, family)[0])
    names = writers(model, family, tokens, torch.ones_like(tokens))
    return {name: torch.full_like(entering, value) for name in names}
