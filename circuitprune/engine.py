"""The one gated forward: an unmodified Hugging Face model under one float per edge.

Every reader r sees `base[r] + sum_w gate[w, r] * delta[w]`, where `delta[w]` is what writer w
wrote in this run minus what it carries when ablated, and `base[r]` is the ablated residual stream
at r with the biases that belong to no writer. All deltas live in one buffer
`[writer, token * d_model]`, so the inputs of one block's readers are a single matrix product.

Hugging Face's own layers run; only what their projections, MLPs and final norm see is replaced.
Their residual additions see zeros and are ignored.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from transformers import PreTrainedModel

from circuitprune.ablation import record_writers
from circuitprune.errors import GraphError
from circuitprune.graph import Block
from circuitprune.models.ports import Ports, narrow


class GatedModel:
    """A Hugging Face causal language model whose residual-stream edges carry gates.

    The model is held as it is: in eval, its parameters untouched, its modules intercepted only
    while a call runs.

    Args:
        model: A causal language model of a declared family (`circuitprune.models.FAMILIES`).
        kv_readers: `kv_head` or `query_head`; what owns a key/value reader.

    Raises:
        ModelError: the family is not declared or does not fit the model.
    """

    def __init__(self, model: PreTrainedModel, kv_readers: str = "kv_head") -> None:
        self.model = model.eval().requires_grad_(False)
        self.ports = Ports(model, kv_readers)
        self.graph = self.ports.graph

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        return self.model.dtype

    def __call__(
        self,
        gates: Float[Tensor, " edge"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        ablated: Float[Tensor, "writer batch pos d_model"],
        last: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits with every edge between its own value (gate 1) and its ablated value (gate 0).

        Differentiable in `gates`. See docs/method.md for the equation.

        Args:
            gates: One float per edge of `graph`, in its flat order.
            tokens: Right-padded token ids.
            mask: True on real tokens.
            ablated: What each writer carries when ablated, as `record` returns it.
            last: Compute only these positions; the result is then `[batch, vocab]`.

        Raises:
            GraphError: `gates` or `ablated` do not fit the graph.
        """
        self._check(gates, ablated)
        run = _GatedRun(self.ports, gates, ablated, last)
        try:
            with self.ports.intercept(run.changes()):
                logits = self.ports.run(tokens, mask, last)
        finally:
            run.close()
        if logits.requires_grad:
            logits.register_hook(run.begin_backward)
        return logits

    @torch.no_grad()
    def plain(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        last: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits of the untouched model, at all positions or only at `last`."""
        norm = self.ports.final_norm
        with self.ports.intercept([(norm, "forward", narrow(norm.forward, last))]):
            return self.ports.run(tokens, mask, last)

    def record(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """What each writer wrote on a plain run."""
        return record_writers(self.ports, tokens, mask)

    def _check(self, gates: Tensor, ablated: Tensor) -> None:
        if gates.shape != (self.graph.n_edges,):
            raise GraphError(
                f"expected {self.graph.n_edges:,} gates, one per edge, got {tuple(gates.shape)}"
            )
        if ablated.shape[0] != self.graph.n_writers:
            raise GraphError(
                f"expected {self.graph.n_writers} ablated writers, got {ablated.shape[0]}"
            )


class _GatedRun:
    """State of one gated forward and, through the autograd functions below, of its backward.

    The functions are ordered by a token: a scalar that each takes and returns, so that in the
    backward pass every reader of a writer has added to `gradient` before that writer reads it.
    """

    def __init__(self, ports: Ports, gates: Tensor, ablated: Tensor, last: Tensor | None) -> None:
        self.ports, self.graph, self.last = ports, ports.graph, last
        self.n_batch, self.n_pos, self.d_model = ablated.shape[1:]
        self.ablated = ablated.flatten(1, 2)  # [writer, token, d_model]
        sizes = [block.n_readers * block.n_writers for block in self.graph.blocks]
        blocks = gates.to(ablated.dtype).split(sizes)
        self.gates = {
            (b.kind, b.layer): g.view(b.n_readers, b.n_writers)
            for b, g in zip(self.graph.blocks, blocks, strict=True)
        }
        self.delta = ablated.new_empty(self.ablated.shape)
        self.gradient: Tensor | None = None
        self.token = torch.zeros((), dtype=ablated.dtype, device=ablated.device)
        self.base = self.after_attention = self.ablated[0]
        self.attention_bases: list[Tensor] = []
        self.pending: dict[nn.Module, Tensor] = {}

    def begin_backward(self, _: Tensor) -> None:
        """Start a backward pass with an empty gradient; a graph may be walked more than once."""
        self.gradient = torch.zeros_like(self.delta)

    def close(self) -> None:
        """Let go of the autograd graph: its nodes hold this run, and a cycle outlives its use."""
        self.token = self.token.detach()
        self.pending.clear()

    # ---------------------------------------------------------------- interception

    def changes(self) -> list[tuple[nn.Module, str, Any]]:
        """The instance attributes to replace while Hugging Face's forward runs."""
        changes: list[tuple[nn.Module, str, Any]] = [*self.ports.ungrouping()]
        for layer, ports in enumerate(self.ports.layers):
            for module in ports.projections:
                changes.append((module, "forward", self._projection(layer, module)))
            changes.append((ports.output, "forward", self._output(layer)))
            changes.append((ports.mlp, "forward", self._mlp(layer, ports.mlp.forward)))
        first, norm = self.ports.first_layer, self.ports.final_norm
        changes.append((first, "forward", self._first_layer(first.forward)))
        changes.append((norm, "forward", self._final_norm(norm.forward)))
        return changes

    def _first_layer(self, forward: Any) -> Any:
        def first_layer(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            torch.sub(hidden.flatten(0, 1), self.ablated[0], out=self.delta[0])
            return forward(hidden, *args, **kwargs)

        return first_layer

    def _projection(self, layer: int, module: nn.Module) -> Any:
        def projection(hidden: Tensor) -> Tensor:
            if module not in self.pending:
                outputs = self._read_attention(layer)
                self.pending.update(zip(self.ports.layers[layer].projections, outputs, strict=True))
            return self.pending.pop(module)

        return projection

    def _output(self, layer: int) -> Any:
        def output(values: Tensor) -> Tensor:
            heads = self.ports.head_weight(layer)
            first = self.graph.head_writer(layer, 0)
            self.token = _WriteHeads.apply(self.token, values, self, first, heads)
            self._advance_base_over_heads(layer)
            return self._nothing()

        return output

    def _mlp(self, layer: int, forward: Any) -> Any:
        ports = self.ports.layers[layer]

        def mlp(hidden: Tensor) -> Tensor:
            block = self.graph.mlp_block(layer)
            base = self.base if self.graph.parallel else self.after_attention
            reader = self._read(block, base)
            written = _first(forward(ports.mlp_norm(reader).view(hidden.shape)))
            if ports.mlp_post_norm is not None:
                written = ports.mlp_post_norm(written)
            writer = self.graph.mlp_writer(layer)
            self.token = _WriteChunk.apply(self.token, written, self, writer)
            self.base = self.after_attention = self.after_attention + self.ablated[writer]
            return self._nothing()

        return mlp

    def _final_norm(self, forward: Any) -> Any:
        def final_norm(hidden: Tensor) -> Tensor:
            stream = self._read(self.graph.logits_block, self.base, self.last)
            if self.last is None:
                return forward(stream.view(hidden.shape))
            return forward(stream[0]).unsqueeze(1).expand_as(hidden)

        return final_norm

    # ---------------------------------------------------------------- reading and writing

    def _read_attention(self, layer: int) -> list[Tensor]:
        """What each projection module of a layer returns: q, k, v of every reader's own input."""
        readers = self._read(self.graph.attention_block(layer), self.base)
        readers = self.ports.layers[layer].attention_norm(readers)
        n_kv = self.graph.n_kv_readers
        qkv = []
        parts = readers.split([self.graph.n_heads, n_kv, n_kv])
        for project, part in zip(self.ports.readers[layer], parts, strict=True):
            heads = project(part).view(-1, self.n_batch, self.n_pos, self.ports.d_head)
            qkv.append(heads.permute(1, 2, 0, 3))
        return self.ports.join(layer, qkv)

    def _read(
        self, block: Block, base: Tensor, last: Tensor | None = None
    ) -> Float[Tensor, "reader token d_model"]:
        """The residual input of every reader of a block."""
        gates = self.gates[block.kind, block.layer]
        if not self.ports.sandwich:
            return self._mix(gates, base, 0, block.n_writers, last)
        return self._read_sandwich(gates, block, base, last)

    def _read_sandwich(
        self, gates: Tensor, block: Block, base: Tensor, last: Tensor | None
    ) -> Float[Tensor, "reader token d_model"]:
        """As `_read`, each earlier layer's gated head sum passing that layer's own post-norm.

        A head's share is not additive behind a norm, so `base` keeps the normed ablated sum and
        each layer adds how far this reader's own normed sum is from it.
        """
        linear = gates.clone()
        for layer in range(len(self.attention_bases)):
            first = self.graph.head_writer(layer, 0)
            linear[:, first : first + self.graph.n_heads] = 0
        stream = self._mix(linear, base, 0, block.n_writers, last)
        layers = len(self.attention_bases)
        for layer in range(layers):
            first = self.graph.head_writer(layer, 0)
            stop = first + self.graph.n_heads
            norm, ablated = self._post_norm(layer), self.attention_bases[layer]
            heads = self._mix(gates[:, first:stop], ablated, first, stop, last)
            stream = stream + norm(heads) - norm(self._at(ablated, last))
        return stream

    def _post_norm(self, layer: int) -> nn.Module:
        norm = self.ports.layers[layer].attention_post_norm
        assert norm is not None
        return norm

    def _advance_base_over_heads(self, layer: int) -> None:
        """Add a layer's ablated heads and its output bias to the base of later readers."""
        first = self.graph.head_writer(layer, 0)
        written = self.ablated[first : first + self.graph.n_heads].sum(dim=0)
        bias = self.ports.attention_bias(layer)
        if bias is not None:
            written = written + bias
        if self.ports.sandwich:
            self.attention_bases.append(written)
            written = self._post_norm(layer)(written)
        self.after_attention = self.base + written

    def _mix(
        self, gates: Tensor, base: Tensor, start: int, stop: int, last: Tensor | None
    ) -> Float[Tensor, "reader token d_model"]:
        mixed, self.token = _Mix.apply(
            self.token, gates, self, self._at(base, last), start, stop, last
        )
        return mixed

    def _at(self, chunks: Tensor, last: Tensor | None) -> Tensor:
        """The answer positions of `[..., token, d_model]`; everything when `last` is None."""
        if last is None:
            return chunks
        rows = torch.arange(self.n_batch, device=last.device)
        return chunks.unflatten(-2, (self.n_batch, self.n_pos))[..., rows, last, :]

    def _nothing(self) -> Tensor:
        """What Hugging Face's residual addition gets instead of a branch's output."""
        return self.token.detach().expand(self.n_batch, self.n_pos, self.d_model)


def _first(output: Any) -> Tensor:
    """A module's hidden output; mixture-of-experts MLPs return a tuple."""
    return output[0] if isinstance(output, tuple) else output


class _Mix(Function):
    """`base + gates @ delta[start:stop]`; the backward adds to the run's one gradient buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        gates: Tensor,
        run: _GatedRun,
        base: Tensor,
        start: int,
        stop: int,
        last: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        delta = run._at(run.delta[start:stop], last).flatten(1)
        ctx.save_for_backward(gates)
        ctx.run, ctx.start, ctx.stop, ctx.last = run, start, stop, last
        ctx.set_materialize_grads(False)
        mixed = torch.addmm(base.reshape(1, -1), gates, delta)
        return mixed.view(gates.shape[0], -1, run.d_model), token.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_token: Tensor | None) -> tuple:
        run, (gates,) = ctx.run, ctx.saved_tensors
        if grad is None:
            return run.token.new_zeros(()), None, None, None, None, None, None
        grad = grad.flatten(1)
        delta = run.delta[ctx.start : ctx.stop]
        into = run.gradient[ctx.start : ctx.stop]
        grad_gates = grad @ run._at(delta, ctx.last).flatten(1).T
        if ctx.last is None:
            into.flatten(1).addmm_(gates.T, grad)
        else:
            rows = torch.arange(run.n_batch, device=grad.device)
            share = (gates.T @ grad).view(-1, run.n_batch, run.d_model)
            into.unflatten(1, (run.n_batch, run.n_pos))[:, rows, ctx.last] += share
        return run.token.new_zeros(()), grad_gates, None, None, None, None, None


class _WriteHeads(Function):
    """Store each head's output minus its ablated value in the run's buffer."""

    @staticmethod
    def forward(
        ctx: Any, token: Tensor, values: Tensor, run: _GatedRun, first: int, weight: Tensor
    ) -> Tensor:
        n_heads = weight.shape[0]
        heads = values.flatten(0, 1).unflatten(1, (n_heads, -1)).transpose(0, 1)
        slots = slice(first, first + n_heads)
        torch.baddbmm(run.ablated[slots], heads, weight, beta=-1, out=run.delta[slots])
        ctx.run, ctx.slots, ctx.shape = run, slots, values.shape
        ctx.save_for_backward(weight)
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        heads = torch.bmm(ctx.run.gradient[ctx.slots], weight.transpose(1, 2))
        return grad_token, heads.transpose(0, 1).reshape(ctx.shape), None, None, None


class _WriteChunk(Function):
    """Store one writer's output minus its ablated value in the run's buffer."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, written: Tensor, run: _GatedRun, writer: int) -> Tensor:
        torch.sub(written.flatten(0, 1), run.ablated[writer], out=run.delta[writer])
        ctx.run, ctx.writer, ctx.shape = run, writer, written.shape
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        return grad_token, ctx.run.gradient[ctx.writer].view(ctx.shape), None, None
