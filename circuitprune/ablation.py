"""What an edge carries when it is cut, and the reference runs behind it, computed once."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuitprune.models.ports import Ports, narrow


@torch.no_grad()
def record_writers(
    ports: Ports, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "writer batch pos d_model"]:
    """What each writer adds to the residual stream on a plain run, in the order of the graph.

    Heads without the output projection's bias, which belongs to no head; in families with a norm
    behind the attention, heads before that norm and MLPs after theirs.
    """
    graph, dtype = ports.graph, ports.model.dtype
    n_tokens = tokens.numel()
    written = torch.empty(
        graph.n_writers, n_tokens, graph.d_model, dtype=dtype, device=ports.model.device
    )

    def first_layer(forward: Any) -> Any:
        def record(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            written[0] = hidden.flatten(0, 1)
            return forward(hidden, *args, **kwargs)

        return record

    def output(layer: int, forward: Any) -> Any:
        def record(values: Tensor) -> Tensor:
            heads = values.flatten(0, 1).unflatten(1, (graph.n_heads, -1)).transpose(0, 1)
            first = graph.head_writer(layer, 0)
            torch.bmm(heads, ports.head_weight(layer), out=written[first : first + graph.n_heads])
            return forward(values)

        return record

    def mlp(layer: int, forward: Any) -> Any:
        post_norm = ports.layers[layer].mlp_post_norm

        def record(hidden: Tensor) -> Any:
            result = forward(hidden)
            chunk = result[0] if isinstance(result, tuple) else result
            chunk = chunk if post_norm is None else post_norm(chunk)
            written[graph.mlp_writer(layer)] = chunk.flatten(0, 1)
            return result

        return record

    norm, last = ports.final_norm, torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    changes: list[tuple[nn.Module, str, Any]] = [
        (ports.first_layer, "forward", first_layer(ports.first_layer.forward)),
        (norm, "forward", narrow(norm.forward, last)),  # no logits needed
    ]
    for layer, layer_ports in enumerate(ports.layers):
        changes.append((layer_ports.output, "forward", output(layer, layer_ports.output.forward)))
        changes.append((layer_ports.mlp, "forward", mlp(layer, layer_ports.mlp.forward)))
    with ports.intercept(changes):
        ports.run(tokens, mask, last)
    return written.unflatten(1, tuple(tokens.shape))
