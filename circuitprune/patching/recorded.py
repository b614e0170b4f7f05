"""One recorded run of a batch, and the same model from any point of it on.

What a change does not reach is read off the record; what it reaches is computed again by Hugging
Face's own modules, for several changes stacked in the batch. A stack is `[change, batch, pos,
d_model]`. In the last layer a branch matters only where an answer is: its `pos` has length 1.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from circuitprune.data.batches import Prompts
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.recording import empty_writers, recorders
from circuitprune.models.ports import Branch, Change, Forward, Output, output_of

LOGITS_PER_PASS = 8_000_000
"""Logits of one unembedding; 32 MB in float32."""

Stack = Float[Tensor, "change batch pos d_model"]
FinalStack = Float[Tensor, "change batch 1 d_model"]
"""Behind the last layer, at the answers."""
Item = TypeVar("Item")
Call = tuple[tuple[object, ...], dict[str, object]]
"""Positional arguments and the others."""


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
        tokens, mask, last = prompts
        self.tokens, self.last = tokens, last
        self.n_batch, self.n_pos = tokens.shape
        self.rows = torch.arange(self.n_batch, device=tokens.device)
        self.streams: dict[int, Float[Tensor, "batch pos d_model"]] = {}
        self.heads: dict[int, Float[Tensor, "batch pos d_model"]] = {}
        self.calls: dict[int, Call] = {}
        self.written = empty_writers(self.ports, tokens)
        recording = self.ports.intercept(recorders(self.ports, self.written))
        with recording, self._listening():
            self.logits = self.ports.run(tokens, mask, last)

    # ---------------------------------------------------------------- recording

    def _listening(self) -> AbstractContextManager[None]:
        changes: list[Change] = []
        for layer, modules in enumerate(self.ports.layers):
            norm, attention, output = modules.attention_norm, modules.attention, modules.output
            changes.append((norm, "forward", self._keep_stream(layer, norm.forward)))
            changes.append((attention, "forward", self._keep_call(layer, attention.forward)))
            changes.append((output, "forward", self._keep_heads(layer, output.forward)))
        final = self.ports.final_norm
        return self.ports.intercept([*changes, (final, "forward", self._keep_end(final.forward))])

    def _keep_stream(self, layer: int, forward: Forward) -> Forward:
        def norm(hidden: Tensor) -> Tensor:
            self.streams.setdefault(layer, hidden)
            return forward(hidden)

        return norm

    def _keep_call(self, layer: int, forward: Branch) -> Branch:
        def attention(*args: object, **kwargs: object) -> Output:
            others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            self.calls[layer] = args[1:], others
            return forward(*args, **kwargs)

        return attention

    def _keep_heads(self, layer: int, forward: Forward) -> Forward:
        def output(values: Tensor) -> Tensor:
            self.heads[layer] = forward(values)
            return self.heads[layer]

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
        model = self.ports.model
        n = max(1, LOGITS_PER_PASS // self.logits.numel())
        for start in range(0, len(names), n):
            normed = self.ports.final_norm(stream[start : start + n].flatten(0, 1))
            state = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=normed)
            swap: Change = (model.base_model, "forward", lambda *_, state=state, **__: state)
            with self.ports.intercept([swap]):
                logits = model(input_ids=self.tokens, use_cache=False).logits
            yield names[start : start + n], logits.view(-1, *self.logits.shape)

    # ---------------------------------------------------------------- parts of a layer

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        """What a layer's MLP writes when it reads this stream."""
        modules = self.ports.layers[layer]
        with self.ports.fused_activations():
            return modules.after_mlp(output_of(modules.mlp(modules.mlp_norm(stream))))

    def project(self, layer: int, stream: Stack) -> list[Float[Tensor, "row pos _"]]:
        """What a layer's projection modules return on this stream, a KV head for each reader."""
        modules = self.ports.layers[layer]
        normed = modules.attention_norm(stream).flatten(0, 1)
        outputs = (module(normed) for module in modules.projections)
        return [self.ports.widen(i, output) for i, output in enumerate(outputs)]

    def swapped(self, port: int, base: list[Tensor], changed: list[Tensor]) -> list[Tensor]:
        """The base's projections, but with the changed queries (0), keys (1) or values (2)."""
        mixed = []
        for module, (old, new) in enumerate(zip(base, changed, strict=True)):
            both = old.repeat(len(new) // len(old), 1, 1)
            parts = zip(self.ports.split(module, both), self.ports.split(module, new), strict=True)
            for mine, theirs in parts:
                if mine.port == port:
                    mine.values.copy_(theirs.values)
            mixed.append(both)
        return mixed

    def values(
        self, layer: int, projected: list[Float[Tensor, "row pos _"]]
    ) -> Float[Tensor, "change batch pos width"]:
        """All heads' values, side by side, of Hugging Face's attention on these projections."""
        modules = self.ports.layers[layer]
        changes: list[Change] = [*self.ports.ungrouping()]
        for module, output in zip(modules.projections, projected, strict=True):
            changes.append((module, "forward", lambda _, output=output: output))
        changes.append((modules.output, "forward", lambda values: values))
        args, kwargs = self._call(layer, len(projected[0]) // self.n_batch)
        with self.ports.intercept(changes):
            values = modules.attention(projected[0], *args, **kwargs)[0]
        stacked: Tensor = values.unflatten(0, (-1, self.n_batch))
        return stacked

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
            written: Tensor = modules.output(self.answers(layer, values))
            return written
        args, kwargs = self._call(layer, len(stream))
        out = modules.attention(modules.attention_norm(stream).flatten(0, 1), *args, **kwargs)[0]
        stacked: Tensor = out.unflatten(0, (-1, self.n_batch))
        return stacked

    def _call(self, layer: int, n: int) -> Call:
        """Masks, rotary angles and the rest that a layer's attention got, for n stacked changes."""
        args, kwargs = self.calls[layer]
        again = _repeater(n, self.n_batch)
        return tuple(map(again, args)), {name: again(value) for name, value in kwargs.items()}


def _repeater(n: int, n_batch: int) -> Callable[[object], object]:
    """A function that repeats whatever has one row per example, for n stacked copies of a batch."""

    def again(value: object) -> object:
        if isinstance(value, tuple | list):
            return type(value)(map(again, value))
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == n_batch > 1:
            return value.repeat(n, *[1] * (value.ndim - 1))
        return value

    return again
