"""One recorded run of a batch, and the same model from any point of it on.

What a change does not reach is read off the record; what it reaches is computed again by Hugging
Face's own modules, for several changes stacked in the batch. A stack is `[change, batch, pos,
d_model]`. In the last layer a branch matters only where an answer is: its `pos` has length 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.data.batches import Prompts
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.recording import empty_writers, recorders
from circuitprune.models.changes import Branch, Change, Forward, Output
from circuitprune.patching.calls import Calls

LOGITS_PER_PASS = 8_000_000
"""Logits of one unembedding; 32 MB in float32."""

Stack = Float[Tensor, "change batch pos d_model"]
FinalStack = Float[Tensor, "change batch 1 d_model"]
"""Behind the last layer, at the answers."""
Item = TypeVar("Item")


class RecordedRun:
    """A plain run with all that is needed to take it up again; made under `torch.no_grad`.

    Args:
        gated: The model.
        prompts: What is run.

    Attributes:
        streams: Residual stream in front of each layer; behind the last, at the answers alone.
        heads: What each layer's attention wrote, its bias included, before any post-norm.
        written: What each writer wrote.
        logits: At the answers.
    """

    @torch.no_grad()
    def __init__(
        self,
        gated: GatedModel,
        prompts: Prompts,
    ) -> None:
        self.ports, self.graph = gated.ports, gated.graph
        self.post_norms = gated.ports.post_norms
        self.tokens, self.last = prompts.tokens, prompts.last
        self.n_batch, self.n_pos = self.tokens.shape
        self.rows = torch.arange(self.n_batch, device=self.tokens.device)
        self.streams: dict[int, Float[Tensor, "batch pos d_model"]] = {}
        self.heads: dict[int, Float[Tensor, "batch pos d_model"]] = {}
        self.calls = Calls(self.ports, prompts)
        self.written = empty_writers(self.ports, self.tokens)
        recording = self.ports.intercept(recorders(self.ports, self.written))
        with recording, self._listening():
            self.logits = self.ports.run(*prompts)

    # ---------------------------------------------------------------- recording

    def _listening(self) -> AbstractContextManager[None]:
        changes: list[Change] = []
        for layer, modules in enumerate(self.ports.layers):
            output = modules.output
            changes.append((output, "forward", self._keep_heads(layer, output.forward)))
        for layer, block in enumerate(self.ports.blocks):
            # the first is intercepted already, to record the input
            forward = block.__dict__.get("forward", block.forward)
            changes.append((block, "forward", self._keep_stream(layer, forward)))
        final = self.ports.final_norm
        return self.ports.intercept([*changes, (final, "forward", self._keep_end(final.forward))])

    def _keep_stream(self, layer: int, forward: Branch) -> Branch:
        def block(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            self.streams[layer] = hidden
            return forward(hidden, *args, **kwargs)

        return block

    def _keep_heads(self, layer: int, forward: Forward) -> Forward:
        def output(values: Tensor) -> Tensor:
            written = forward(values)
            self.heads[layer] = self.ports.layers[layer].scaled(written)
            return written

        return output

    def _keep_end(self, forward: Forward) -> Forward:
        def final_norm(hidden: Tensor) -> Tensor:
            end = hidden[self.rows, self.last].unsqueeze(1)
            self.streams[self.graph.n_layers] = end
            return forward(end).expand_as(hidden)

        return final_norm

    # ---------------------------------------------------------------- from a point of the run on

    def after_attention(self, layer: int, out: Stack) -> FinalStack:
        """The final stream when a layer's attention writes `out`, which is overwritten."""
        if self.graph.parallel:  # its MLP sees none of the change and goes on as recorded
            rest = self.streams[layer + 1] - self.answers(layer, self.heads[layer])
            return self.from_layer(layer + 1, out.add_(rest))
        middle = self.post_norms.of(layer, out).add_(self.answers(layer, self.streams[layer]))
        return self.from_layer(layer + 1, middle.add_(self.mlp(layer, middle)))

    def from_layer(self, first: int, stream: Stack) -> FinalStack:
        """The final stream when that in front of a layer is `stream`."""
        for layer in range(first, self.graph.n_layers):
            out = self._attend(layer, stream)
            stream = self.answers(layer, stream)
            middle = self.post_norms.of(layer, out).add_(stream)
            read = stream if self.graph.parallel else middle
            stream = middle.add_(self.mlp(layer, read))
        return stream

    def unembedded(
        self, names: Sequence[Item], stream: FinalStack
    ) -> Iterator[tuple[Sequence[Item], Float[Tensor, "change batch vocab"]]]:
        """Logits of final streams with the names of their changes, a few at a time.

        Norm, unembedding and soft cap are Hugging Face's own.
        """
        n = max(1, LOGITS_PER_PASS // self.logits.numel())
        for start in range(0, len(names), n):
            logits = self.ports.unembed(stream[start : start + n].flatten(0, 2))
            yield names[start : start + n], logits.view(-1, *self.logits.shape)

    # ---------------------------------------------------------------- parts of a layer

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        """What a layer's MLP writes when it reads this stream."""
        modules = self.ports.layers[layer]
        flat = stream.view(-1, *stream.shape[-2:])  # experts take three axes
        with self.ports.fused_activations():
            result = modules.mlp(modules.mlp_norm(flat))
        return modules.mlp_writes(result, len(flat)).view(stream.shape)

    def project(self, layer: int, stream: Stack) -> list[Float[Tensor, "row pos _"]]:
        """What a layer's projection modules return on this stream, a KV head for each reader."""
        modules = self.ports.layers[layer]
        normed = modules.attention_norm(stream).flatten(0, 1)
        outputs = (module(normed) for module in modules.projections)
        return [self.ports.widen(i, output) for i, output in enumerate(outputs)]

    def swapped(
        self, port: int, base: list[Tensor], changed: list[Tensor], rows: slice | None = None
    ) -> list[Tensor]:
        """The base's projections, but with the changed queries (0), keys (1) or values (2).

        Args:
            port: Which of them.
            base, changed: What the projection modules return on either stream.
            rows: Of these heads alone, where they are coupled.
        """
        mixed = []
        for module, (old, new) in enumerate(zip(base, changed, strict=True)):
            both = old.expand(len(new) // len(old), *old.shape).flatten(0, 1)
            parts = zip(self.ports.split(module, both), self.ports.split(module, new), strict=True)
            chosen = [
                _of_rows(mine.values, theirs.values, rows) if mine.port == port else mine.values
                for mine, theirs in parts
            ]
            whole = self.ports.together([values.transpose(0, 1) for values in chosen])
            mixed.append(whole.unflatten(0, new.shape[:2]))
        return mixed

    def values(
        self, layer: int, projected: list[Float[Tensor, "row pos _"]]
    ) -> Float[Tensor, "change batch pos width"]:
        """All heads' values, side by side, of Hugging Face's attention on these projections."""
        modules = self.ports.layers[layer]
        changes: list[Change] = [*self.ports.ungrouping()]
        for module, output in zip(modules.projections, projected, strict=True):
            changes.append((module, "forward", lambda _, output=output: output))
        return self._seen_at_output(layer, projected[0], changes)

    def answers(self, layer: int, values: Tensor) -> Tensor:
        """`[..., batch, pos, width]`: what a branch of this layer must compute of it."""
        if layer < self.graph.n_layers - 1:
            return values
        return values[..., self.rows, self.last, :].unsqueeze(-2)

    def _attend(self, layer: int, stream: Stack) -> Float[Tensor, "change batch _ d_model"]:
        """What a layer's attention writes, before any post-norm."""
        modules = self.ports.layers[layer]
        if layer == self.graph.n_layers - 1:
            values = self.values(layer, self.project(layer, stream))
        else:
            values = self._seen_at_output(layer, modules.attention_norm(stream).flatten(0, 1), [])
        written: Tensor = modules.scaled(modules.output(self.answers(layer, values)))
        return written

    def _seen_at_output(
        self, layer: int, read: Float[Tensor, "row pos _"], changes: list[Change]
    ) -> Float[Tensor, "change batch pos width"]:
        """What a layer's output projection is given when its attention reads this.

        Caught there: what an attention returns holds the residual stream in some families.
        """
        modules, seen = self.ports.layers[layer], list[Tensor]()
        args, kwargs = self.calls.of(layer, len(read) // self.n_batch)

        def catch(values: Tensor) -> Tensor:
            seen.append(values)
            return values

        with self.ports.intercept([*changes, (modules.output, "forward", catch)]):
            modules.attention(read, *args, **kwargs)
        stacked: Tensor = seen[0].unflatten(0, (-1, self.n_batch))
        return stacked


def _of_rows(
    old: Float[Tensor, "head token d_head"],
    new: Float[Tensor, "head token d_head"],
    rows: slice | None,
) -> Float[Tensor, "head token d_head"]:
    """The new heads, or the old ones with some from the new."""
    if rows is None:
        return new
    mixed = old.clone()
    mixed[rows] = new[rows]
    return mixed
