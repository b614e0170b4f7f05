"""One gated forward: what Hugging Face's modules are replaced by while it lasts."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.engine.ablation import Ablated
from circuitprune.engine.gated_layer import GatedLayer
from circuitprune.engine.gated_stream import GatedStream
from circuitprune.engine.workspace import Workspace
from circuitprune.models.ports import Branch, Change, Forward, Output, Ports


class GatedRun:
    """A model's forward under gates; the arguments are those of `GatedStream`."""

    def __init__(
        self,
        ports: Ports,
        gates: Float[Tensor, " edge"],
        ablated: Ablated,
        last: Int[Tensor, " batch"] | None,
        workspace: Workspace,
    ) -> None:
        self.ports, self.last = ports, last
        self.stream = GatedStream(ports, gates, ablated, last, workspace)
        self.layers = [GatedLayer(self.stream, layer) for layer in range(ports.graph.n_layers)]

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Run once."""
        try:
            with self.ports.intercept(self.changes()):
                logits = self.ports.run(tokens, mask, self.last)
        finally:
            self.stream.close()
        if logits.requires_grad:
            logits.register_hook(self.stream.parts.begin_backward)
        return logits

    def changes(self) -> list[Change]:
        """The instance attributes to replace while Hugging Face's forward runs."""
        first, norm = self.ports.first_layer, self.ports.final_norm
        return [
            *self.ports.ungrouping(),
            *(change for layer in self.layers for change in layer.changes()),
            (first, "forward", self._first_layer(first.forward)),
            (norm, "forward", self._final_norm(norm.forward)),
        ]

    def _first_layer(self, forward: Branch) -> Branch:
        def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            parts = self.stream.parts
            parts.base.copy_(self.stream.ablated(slice(0, 1))[0])
            torch.sub(hidden.flatten(0, 1), parts.base, out=parts.delta[0])
            return forward(hidden, *args, **kwargs)

        return first_layer

    def _final_norm(self, forward: Forward) -> Forward:
        def final_norm(hidden: Tensor) -> Tensor:
            gates = self.stream.gates[self.ports.graph.logits_block]
            stream = self.stream.read(gates, self.stream.parts.answers)
            if self.last is None:
                return forward(stream.view(hidden.shape))
            return forward(stream[0]).unsqueeze(1).expand_as(hidden)

        return final_norm
