"""The untouched model with what its heads compute replaced at chosen positions, part by part.

Where `Replay` and the gates change what travels along edges, these runs change what a head itself
computes, at some positions alone: its query, key or value as projected, or its output, the mixed
values that the output projection reads. All else is Hugging Face's own forward.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Prompts
from circuitprune.models.changes import Change, Forward, narrow
from circuitprune.models.ports import Ports

Part = Literal["q", "k", "v", "output"]
PROJECTED: tuple[Part, ...] = ("q", "k", "v")
Head = tuple[int, int]
"""Layer and head, both from 0."""
Take = Float[Tensor, "layer batch pos head"]
"""How much of another run's value a head takes at a position, in [0, 1]."""
Values = tuple[Float[Tensor, "batch pos head d_head"], ...]
"""Of each layer. Keys and values have a head for each KV head."""


@dataclass(frozen=True)
class Swap:
    """One part of the heads becomes `own + take * (values - own)`."""

    part: Part
    values: Values
    take: Take


@dataclass(frozen=True)
class HeadRun:
    """A run's logits at the answers, and what was recorded of its heads."""

    logits: Float[Tensor, "batch vocab"]
    parts: Mapping[Part, Values]


def n_heads_of(ports: Ports, part: Part) -> int:
    """Heads that a part has in each layer: KV heads for keys and values."""
    return ports.n_kv_heads if part in ("k", "v") else ports.graph.n_heads


def taking(
    ports: Ports, heads: Iterable[Head], where: Bool[Tensor, "batch pos"], part: Part = "output"
) -> Take:
    """Takes everything of some heads at some positions, nothing elsewhere.

    Args:
        ports: Of the model.
        heads: Query heads; of keys and values, their KV heads are taken.
        where: The positions of each example.
        part: What is taken.
    """
    n_heads, of = n_heads_of(ports, part), torch.zeros
    group = ports.graph.n_heads // n_heads
    take = of(ports.graph.n_layers, *where.shape, n_heads, dtype=ports.model.dtype)
    take = take.to(where.device)
    for layer, head in heads:
        take[layer, :, :, head // group] = where.to(take.dtype)
    return take


def run_heads(
    ports: Ports, prompts: Prompts, swaps: Sequence[Swap] = (), record: Sequence[Part] = ()
) -> HeadRun:
    """The model on prompts with parts of its heads replaced; differentiable in `take`.

    Swaps of one part are made in their order. What is recorded is seen after the swaps.

    Args:
        ports: Of the model.
        prompts: What is run.
        swaps: What is replaced, by what, and where.
        record: Parts whose values are kept.
    """
    seen: dict[Part, dict[int, Tensor]] = {part: {} for part in record}
    changes: list[Change] = []
    for layer, modules in enumerate(ports.layers):
        at_output = partial(_output, ports, layer, modules.output.forward, swaps, seen)
        changes.append((modules.output, "forward", at_output))
        for index, module in enumerate(modules.projections):
            at = partial(_projection, ports, layer, index, module.forward, swaps, seen)
            changes.append((module, "forward", at))
    norm = ports.final_norm
    changes.append((norm, "forward", narrow(norm.forward, prompts.last)))
    with ports.intercept(changes):
        logits = ports.run(*prompts)
    whole = {part: tuple(found[layer] for layer in sorted(found)) for part, found in seen.items()}
    return HeadRun(logits, whole)


def _output(
    ports: Ports,
    layer: int,
    forward: Forward,
    swaps: Sequence[Swap],
    seen: Mapping[Part, dict[int, Tensor]],
    values: Tensor,
) -> Tensor:
    """The output projection, reading heads that may be another run's."""
    heads = values.unflatten(-1, (ports.graph.n_heads, ports.d_head))
    return forward(_swapped("output", layer, heads, swaps, seen).flatten(-2))


def _projection(
    ports: Ports,
    layer: int,
    index: int,
    forward: Forward,
    swaps: Sequence[Swap],
    seen: Mapping[Part, dict[int, Tensor]],
    hidden: Tensor,
) -> Tensor:
    """A projection module whose queries, keys or values may be another run's."""
    output = forward(hidden)
    parts = []
    for found in ports.split(index, output):
        own = found.values.transpose(0, 1).unflatten(0, output.shape[:2])
        parts.append(_swapped(PROJECTED[found.port], layer, own, swaps, seen))
    return ports.together(parts)


def _swapped(
    part: Part,
    layer: int,
    own: Float[Tensor, "batch pos head d_head"],
    swaps: Sequence[Swap],
    seen: Mapping[Part, dict[int, Tensor]],
) -> Float[Tensor, "batch pos head d_head"]:
    for swap in swaps:
        if swap.part == part:
            own = own + swap.take[layer].unsqueeze(-1) * (swap.values[layer] - own)
    if part in seen:
        seen[part][layer] = own
    return own
