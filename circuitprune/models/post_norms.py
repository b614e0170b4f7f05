"""Norms between a layer's attention and the residual stream, where a family has them.

Behind such a norm a head's share does not add: what a layer's heads give a reader is
`norm(sum of its own head values)`. So these heads leave the linear mix, and each layer adds how
far the reader's own normed sum is from one that is already in the stream. A family without such
norms has an empty `PostNorms`, and all of this is over nothing.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitprune.circuits.graph import Graph
from circuitprune.models.norms import vjp


class PostNorms:
    """The norms that layers' head sums pass, by layer; false where the family has none.

    Args:
        graph: Of the model.
        norms: Behind the attention of each layer, or None.
    """

    def __init__(self, graph: Graph, norms: Sequence[nn.Module | None]) -> None:
        self.graph = graph
        self.norms = {layer: norm for layer, norm in enumerate(norms) if norm is not None}
        self.adds = torch.ones(graph.n_writers, dtype=torch.bool)
        """Which writers add to the stream as they are."""
        for layer in self.norms:
            self.adds[self.graph.heads(layer)] = False

    def __bool__(self) -> bool:
        return bool(self.norms)

    def upstream(self, n_writers: int) -> Iterator[tuple[int, slice]]:
        """Layers with a norm whose heads are among the first writers, and the heads' places."""
        for layer in self.norms:
            heads = self.graph.heads(layer)
            if heads.start < n_writers:
                yield layer, heads

    def linear(
        self,
        gates: Float[Tensor, "*span reader writer"],
        writers: Int[Tensor, " writer"] | None = None,
    ) -> Float[Tensor, "*span reader writer"]:
        """Gates of what adds to the stream as it is: 0 for heads behind a norm.

        Args:
            gates: Of some readers.
            writers: Whose gates they are; by default the first ones of the graph.
        """
        if not self:
            return gates
        adds = self.adds[: gates.shape[-1]] if writers is None else self.adds[writers.cpu()]
        return gates * adds.to(gates.device)

    def of(self, layer: int, heads: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """What a layer's head sum, its output bias included, adds to the stream."""
        norm = self.norms.get(layer)
        return heads if norm is None else norm(heads)

    def change(
        self,
        layer: int,
        now: Float[Tensor, "*any d_model"],
        before: Float[Tensor, "*fewer d_model"],
    ) -> Float[Tensor, "*any d_model"]:
        """How what a layer adds differs between its head sum now and before; they broadcast."""
        return self.of(layer, now) - self.of(layer, before)

    def pull_back(
        self,
        layer: int,
        heads: Float[Tensor, "token d_model"],
        grads: Float[Tensor, "reader token d_model"],
    ) -> Float[Tensor, "reader token d_model"]:
        """Gradients at the stream taken back to a layer's head sum."""
        return vjp(self.norms[layer], heads, grads)
