"""One gated forward: what Hugging Face's modules are replaced by while it lasts."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.data.batches import Prefix
from circuitprune.engine.gated_layer import GatedLayer
from circuitprune.engine.gated_stream import GatedStream
from circuitprune.models.changes import Branch, Change, Forward, Output


class GatedRun:
    """A model's forward under the gates of a stream."""

    def __init__(self, stream: GatedStream) -> None:
        self.stream, self.ports, self.last = stream, stream.ports, stream.last
        self.layers = [GatedLayer(stream, layer) for layer in range(stream.graph.n_layers)]

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        prefix: Prefix | None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Run once."""
        try:
            with self.ports.intercept(self.changes()):
                logits = self.ports.run(tokens, mask, self.last, prefix)
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
            (first, "forward", self._first_layer(self.layers[0].forward())),
            (norm, "forward", self._final_norm(norm.forward)),
        ]

    def _first_layer(self, forward: Branch) -> Branch:
        def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            hidden = hidden.detach()  # of embeddings that a hook lets require gradients
            parts = self.stream.parts
            (ablated,) = self.stream.ablated(slice(0, 1))
            parts.add_to_base(0, ablated)
            torch.sub(hidden.flatten(0, 1), ablated, out=parts.deltas(slice(0, 1))[0])
            return forward(hidden, *args, **kwargs)

        return first_layer

    def _final_norm(self, forward: Forward) -> Forward:
        def final_norm(hidden: Tensor) -> Tensor:
            stream = self.stream.read_logits()
            if self.last is None:
                return forward(stream.view(hidden.shape))
            return forward(stream[0]).unsqueeze(1).expand_as(hidden)

        return final_norm
