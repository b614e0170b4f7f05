"""The residual stream under gates: what a run's readers see, what ablated writers leave in it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Block
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.positions import Positions
from circuitprune.engine.stream import Stream
from circuitprune.engine.workspace import Workspace
from circuitprune.models.ports import Ports


class GatedStream:
    """What all layers of one gated run share.

    Args:
        ports: Of the model.
        gates: One float per edge, in the graph's flat order.
        ablated: What each writer carries when ablated.
        last: Position of each example's answer, or None if all positions are asked for.
        workspace: Lends the large buffers.

    Attributes:
        parts: Base and deltas of the stream.
        gates: By block, `[reader, writer]`.
        head_sums: Ablated head sums, bias included, of layers with a norm behind them.
    """

    def __init__(
        self,
        ports: Ports,
        gates: Float[Tensor, " edge"],
        ablated: Ablated,
        last: Int[Tensor, " batch"] | None,
        workspace: Workspace,
    ) -> None:
        self.ports, self.graph, self.last = ports, ports.graph, last
        self.post_norms = ports.post_norms
        self.differentiable = gates.requires_grad and torch.is_grad_enabled()
        gates = gates.to(ports.model.dtype)
        self.gates = self._by_block(gates)
        self._ablated: Ablated | None = ablated
        self.n_batch, self.n_pos, self.d_model = ablated.shape[1:]
        widest = self.graph.attention_block(0).n_readers
        n_dense = self.graph.n_writers
        if last is not None:
            n_dense = self.graph.attention_block(self.graph.n_layers - 1).n_writers
        self.parts = Stream(ablated.shape, last, n_dense, widest, gates, workspace)
        self.head_sums: dict[int, Tensor] = {}

    def close(self) -> None:
        """Let go of what the backward pass does not need, and of the autograd graph itself."""
        self.parts.token = self.parts.token.detach()
        self._ablated = None
        self.head_sums.clear()

    def ablated(self, writers: slice) -> Float[Tensor, "writer token d_model"]:
        """What some writers carry when ablated; lent until their own place in the stream is used.

        That place is where examples that are kept apart are joined.
        """
        assert self._ablated is not None
        if isinstance(self._ablated, Tensor):
            return self._ablated[writers].flatten(1, 2)
        out = self.parts.delta[writers].unflatten(1, (self.n_batch, self.n_pos))
        return self._ablated.into(writers, out).flatten(1, 2)

    def read(
        self, gates: Float[Tensor, "reader writer"], where: Positions
    ) -> Float[Tensor, "reader token d_model"]:
        """The residual inputs of readers with these gates, at all positions or at the answers.

        The base holds the normed ablated head sums, where there are norms, and each such layer
        adds how far these readers' own normed sums are from them.
        """
        n_writers = gates.shape[1]
        stream = self.parts.mix(self.post_norms.linear(gates), slice(0, n_writers), where)
        for layer, heads in self.post_norms.upstream(n_writers):
            ablated = where.of(self.head_sums[layer]).unsqueeze(0)
            own = self.parts.mix(gates[:, heads], heads, where, ablated)
            stream = stream + self.post_norms.change(layer, own, ablated)
        return stream

    def add_heads(
        self, layer: int, ablated: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """Put a layer's ablated heads and output bias into the base; returns what joined it."""
        bias = self.ports.attention_bias(layer)
        if bias is not None:
            ablated = ablated + bias
        if layer in self.post_norms.norms:
            self.head_sums[layer] = ablated
        written = self.post_norms.of(layer, ablated)
        self.parts.base += written
        return written

    def nothing(self) -> Float[Tensor, "batch pos d_model"]:
        """What Hugging Face's residual addition gets instead of a branch's output."""
        nothing = self.parts.token.detach().expand(self.n_batch, self.n_pos, self.d_model)
        return self.ports.writable(nothing)

    def _by_block(self, gates: Tensor) -> dict[Block, Tensor]:
        blocks = self.graph.blocks
        parts = gates.split([block.n_readers * block.n_writers for block in blocks])
        shaped = zip(blocks, parts, strict=True)
        return {block: part.view(block.n_readers, block.n_writers) for block, part in shaped}
