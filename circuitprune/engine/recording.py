"""What each writer adds to the residual stream on a plain run, recorded as it is written."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.data.batches import Prefix
from circuitprune.models.changes import Branch, Change, Forward, Output, narrow
from circuitprune.models.layer_ports import LayerPorts
from circuitprune.models.ports import Ports


@torch.no_grad()
def record_writers(
    ports: Ports,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    prefix: Prefix | None = None,
    subtract_from: Float[Tensor, "writer batch pos d_model"] | None = None,
) -> Float[Tensor, "writer batch pos d_model"]:
    """What each writer adds to the residual stream on a plain run, in the order of the graph.

    Heads without the output projection's bias, which belongs to no head; in families with a norm
    behind the attention, heads before that norm and MLPs after theirs. With `subtract_from`, that
    tensor minus it, in place.
    """
    norm, last = ports.final_norm, torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    written = empty_writers(ports, tokens) if subtract_from is None else subtract_from
    no_logits = (norm, "forward", narrow(norm.forward, last))
    with ports.intercept([*recorders(ports, written, subtract_from is not None), no_logits]):
        ports.run(tokens, mask, last, prefix)
    return written


def empty_writers(
    ports: Ports, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "writer batch pos d_model"]:
    """An uninitialised buffer for what the writers of a run write."""
    graph = ports.graph
    shape = (graph.n_writers, *tokens.shape, graph.d_model)
    return torch.empty(shape, dtype=ports.model.dtype, device=ports.model.device)


def recorders(
    ports: Ports, written: Float[Tensor, "writer batch pos d_model"], subtract: bool = False
) -> list[Change]:
    """Interceptions under which a run, otherwise untouched, fills `written`.

    With `subtract`, it is subtracted from what is there.
    """
    into = written.flatten(1, 2)
    first = ports.first_layer
    changes: list[Change] = [(first, "forward", _record_input(first.forward, written[0], subtract))]
    for layer, modules in enumerate(ports.layers):
        output, mlp, heads = modules.output, modules.mlp, into[ports.graph.heads(layer)]
        chunk = written[ports.graph.mlp_writer(layer)]
        weight = partial(ports.head_weight, layer)  # of a sharded model there is none yet
        at_heads = _record_heads(output.forward, weight, heads, subtract)
        at_mlp = _record_mlp(mlp.forward, modules, chunk, subtract)
        changes += [(output, "forward", at_heads), (mlp, "forward", at_mlp)]
    return changes


def _put(into: Tensor, chunk: Tensor, subtract: bool) -> None:
    """Store `[batch, pos, d_model]`; what was computed at one position goes to all."""
    if subtract:
        into -= chunk
    else:
        into.copy_(chunk)


def _record_input(forward: Branch, into: Tensor, subtract: bool) -> Branch:
    def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
        _put(into, hidden.detach(), subtract)
        return forward(hidden, *args, **kwargs)

    return first_layer


def _record_heads(
    forward: Forward, weight_of: Callable[[], Tensor], into: Tensor, subtract: bool
) -> Forward:
    def output(values: Tensor) -> Tensor:
        weight = weight_of()
        heads = values.detach().flatten(0, 1).unflatten(1, (len(weight), -1)).transpose(0, 1)
        if subtract:
            into.baddbmm_(heads, weight, alpha=-1)
        else:
            torch.bmm(heads, weight, out=into)
        return forward(values)

    return output


def _record_mlp(forward: Branch, modules: LayerPorts, into: Tensor, subtract: bool) -> Branch:
    def mlp(hidden: Tensor) -> Output:
        result = forward(hidden)
        _put(into, modules.mlp_writes(result, len(into)).detach(), subtract)
        return result

    return mlp
