"""The untouched model with its residual stream replaced at positions, whole or along directions.

`x` at a position in front of a layer becomes `x + P (values - x)`: P is the identity, or projects
onto given directions. All else is Hugging Face's own forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Prompts
from circuitprune.errors import GraphError
from circuitprune.models.changes import Branch, Change, Output, narrow
from circuitprune.models.ports import Ports

Streams = dict[int, Float[Tensor, "batch pos d_model"]]
"""By layer, the residual stream in front of it."""


@dataclass(frozen=True)
class StreamSwap:
    """Values that the stream in front of a layer takes at some positions."""

    layer: int
    values: Float[Tensor, "batch pos d_model"]
    where: Bool[Tensor, "batch pos"]
    along: Float[Tensor, "direction d_model"] | None = None
    """Orthonormal rows; None takes everything."""


@torch.no_grad()
def run_streams(
    ports: Ports, prompts: Prompts, swaps: Sequence[StreamSwap] = ()
) -> tuple[Float[Tensor, "batch vocab"], Streams]:
    """Logits at the answers, and the stream in front of each layer, with the swaps made.

    Args:
        ports: Of the model.
        prompts: What is run.
        swaps: Several of one layer are made in their order.

    Raises:
        GraphError: a layer that the model does not have.
    """
    for swap in swaps:
        if not 0 <= swap.layer < len(ports.blocks):
            raise GraphError(f"no layer {swap.layer}; the model has 0 to {len(ports.blocks) - 1}")
    streams: Streams = {}
    changes: list[Change] = []
    for layer, block in enumerate(ports.blocks):
        mine = [swap for swap in swaps if swap.layer == layer]
        changes.append((block, "forward", partial(_block, block.forward, layer, mine, streams)))
    norm = ports.final_norm
    changes.append((norm, "forward", narrow(norm.forward, prompts.last)))
    with ports.intercept(changes):
        return ports.run(*prompts), streams


def _block(
    forward: Branch,
    layer: int,
    swaps: Sequence[StreamSwap],
    streams: Streams,
    hidden: Tensor,
    *args: object,
    **kwargs: object,
) -> Output:
    for swap in swaps:
        change = swap.values - hidden
        if swap.along is not None:
            change = change @ swap.along.T @ swap.along
        hidden = hidden + change * swap.where.unsqueeze(-1)
    streams[layer] = hidden
    return forward(hidden, *args, **kwargs)
