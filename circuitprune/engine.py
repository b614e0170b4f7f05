"""The one gated forward: an unmodified Hugging Face model under one float per edge.

Every reader r sees `base[r] + sum_w gate[w, r] * delta[w]`, where `delta[w]` is what writer w
wrote in this run minus what it carries when ablated, and `base[r]` is the ablated residual stream
at r with the biases that belong to no writer. All deltas live in one buffer
`[writer, token * d_model]`, so the inputs of one block's readers are a single matrix product.

Hugging Face's own layers run; only what their projections, MLPs and final norm see is replaced.
Their residual additions see zeros and are ignored.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from transformers import PreTrainedModel

from circuitprune.ablation import Ablated, record_writers
from circuitprune.errors import GraphError
from circuitprune.graph import Block
from circuitprune.models.ports import Ports, Projection, narrow
from circuitprune.workspace import Workspace


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
        self._workspace = Workspace()

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
        ablated: Ablated,
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
        run = _GatedRun(self.ports, gates, ablated, last, self._workspace)
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

    def _check(self, gates: Tensor, ablated: Ablated) -> None:
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

    def __init__(
        self,
        ports: Ports,
        gates: Tensor,
        ablated: Ablated,
        last: Tensor | None,
        workspace: Workspace,
    ) -> None:
        self.ports, self.graph, self.last = ports, ports.graph, last
        self.differentiable = gates.requires_grad and torch.is_grad_enabled()
        self.loan = workspace.lend(self)
        n_writers, self.n_batch, self.n_pos, self.d_model = ablated.shape
        self.ablated = ablated
        sizes = [block.n_readers * block.n_writers for block in self.graph.blocks]
        gates = gates.to(ports.model.dtype)
        blocks = gates.split(sizes)
        self.gates = {
            (b.kind, b.layer): g.view(b.n_readers, b.n_writers)
            for b, g in zip(self.graph.blocks, blocks, strict=True)
        }
        token_shape = (self.n_batch * self.n_pos, self.d_model)
        self.buffer = self.loan.take(n_writers + 1, *token_shape, like=gates)
        self.base, self.delta = self.buffer[0], self.buffer[1:]
        widest = self.graph.attention_block(0).n_readers
        self.scratch = self.loan.take(widest, *token_shape, like=gates)
        self.gradient: Tensor | None = None
        self.reader_gradient: Tensor | None = None
        self.token = gates.detach().new_zeros(())
        self.head_sums: list[Tensor] = []
        self.delayed: Tensor | None = None
        self.pending: dict[nn.Module, Tensor] = {}

    def begin_backward(self, _: Tensor) -> None:
        """Start a backward pass with an empty gradient; a graph may be walked more than once."""
        if self.gradient is None:
            self.gradient = self.loan.take(*self.delta.shape, like=self.delta)
            self.reader_gradient = self.loan.take(*self.scratch.shape, like=self.delta)
        self.gradient.zero_()

    def close(self) -> None:
        """Let go of what the backward pass does not need, and of the autograd graph itself.

        Its nodes hold this run, and a cycle would keep the buffers beyond their use.
        """
        self.token = self.token.detach()
        self.pending.clear()
        del self.ablated, self.head_sums, self.delayed

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
            self.base.copy_(self._ablated(slice(0, 1))[0])
            torch.sub(hidden.flatten(0, 1), self.base, out=self.delta[0])
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
            weight = self.ports.head_weight(layer)
            slots = self._heads(layer)
            ablated = self._ablated(slots)
            self.token = _WriteHeads.apply(self.token, values, self, slots, weight, ablated)
            total = ablated.sum(dim=0)
            if self.graph.parallel:  # the MLP reads nothing of its own layer, not even the bias
                self.delayed = total
            else:
                self._add_heads_to_base(layer, total)
            return self._nothing()

        return output

    def _mlp(self, layer: int, forward: Any) -> Any:
        ports = self.ports.layers[layer]

        def mlp(hidden: Tensor) -> Any:
            # what the last layer's MLP writes is read by the logits alone, where an answer is
            last = self.last if layer == self.graph.n_layers - 1 else None
            reader = self._read(self.graph.mlp_block(layer), last)
            result = forward(ports.mlp_norm(reader).view(len(hidden), -1, self.d_model))
            written = result[0] if isinstance(result, tuple) else result
            if ports.mlp_post_norm is not None:
                written = ports.mlp_post_norm(written)
            writer = self.graph.mlp_writer(layer)
            ablated = self._ablated(slice(writer, writer + 1))[0]
            self.token = _WriteChunk.apply(self.token, written, self, writer, ablated, last)
            if self.delayed is not None:
                self._add_heads_to_base(layer, self.delayed)
            self.base += ablated
            return (self._nothing(), *result[1:]) if isinstance(result, tuple) else self._nothing()

        return mlp

    def _final_norm(self, forward: Any) -> Any:
        def final_norm(hidden: Tensor) -> Tensor:
            stream = self._read(self.graph.logits_block, self.last)
            if self.last is None:
                return forward(stream.view(hidden.shape))
            return forward(stream[0]).unsqueeze(1).expand_as(hidden)

        return final_norm

    # ---------------------------------------------------------------- reading and writing

    def _read_attention(self, layer: int) -> list[Tensor]:
        """What each projection module of a layer returns: q, k, v of every reader's own input."""
        block = self.graph.attention_block(layer)
        keep = self._worth_keeping(block)
        into = self.loan.take(*self.scratch.shape, like=self.scratch) if keep else self.scratch
        readers = self._read(block, into=into)
        again = None if keep else self._mixer(block)
        heads = _NormProject.apply(readers, self, layer, again)
        return [part.unflatten(0, (self.n_batch, self.n_pos)) for part in self.ports.join(heads)]

    def _worth_keeping(self, block: Block) -> bool:
        """Whether the backward pass should find a block's reader inputs instead of mixing again.

        They are the largest tensors of a step. Mixing few writers again costs less time than
        keeping the result costs memory; behind post-norms it would cost those norms again.
        """
        if not self.differentiable:
            return False
        return self.ports.sandwich or block.n_writers > 3 * block.n_readers

    def _mixer(self, block: Block) -> Callable[[], Tensor]:
        """A function that mixes a block's reader inputs once more, into the scratch buffer."""
        gates = self.gates[block.kind, block.layer].detach()
        base = self.base.clone() if self.differentiable else self.base

        def mix() -> Tensor:
            return _mix(self, gates, base, 0, block.n_writers, None, self.scratch)

        return mix

    def _read(
        self, block: Block, last: Tensor | None = None, into: Tensor | None = None
    ) -> Float[Tensor, "reader token d_model"]:
        """The residual input of every reader of a block."""
        gates = self.gates[block.kind, block.layer]
        if not self.ports.sandwich:
            return self._mix(gates, None, 0, block.n_writers, last, into)
        return self._read_sandwich(gates, block, last)

    def _read_sandwich(
        self, gates: Tensor, block: Block, last: Tensor | None
    ) -> Float[Tensor, "reader token d_model"]:
        """As `_read`, each earlier layer's gated head sum passing that layer's own post-norm.

        A head's share is not additive behind a norm, so `base` keeps the normed ablated sum and
        each layer adds how far this reader's own normed sum is from it.
        """
        linear = gates.clone()
        for layer in range(len(self.head_sums)):
            linear[:, self._heads(layer)] = 0
        stream = self._mix(linear, None, 0, block.n_writers, last)
        for layer, ablated in enumerate(self.head_sums):
            slots, norm = self._heads(layer), self._post_norm(layer)
            heads = self._mix(gates[:, slots], ablated, slots.start, slots.stop, last)
            stream = stream + norm(heads) - norm(self._at(ablated, last))
        return stream

    def _heads(self, layer: int) -> slice:
        """The writers that are heads of a layer."""
        first = self.graph.head_writer(layer, 0)
        return slice(first, first + self.graph.n_heads)

    def _post_norm(self, layer: int) -> nn.Module:
        norm = self.ports.layers[layer].attention_post_norm
        assert norm is not None
        return norm

    def _ablated(self, writers: slice) -> Float[Tensor, "writer token d_model"]:
        """What some writers carry when ablated."""
        return self.ablated[writers].flatten(1, 2)

    def _add_heads_to_base(self, layer: int, written: Tensor) -> None:
        """Add a layer's ablated head sum and its output bias to the base of later readers."""
        bias = self.ports.attention_bias(layer)
        if bias is not None:
            written = written + bias
        if self.ports.sandwich:
            self.head_sums.append(written)
            written = self._post_norm(layer)(written)
        self.base += written

    def _mix(
        self,
        gates: Tensor,
        base: Tensor | None,
        start: int,
        stop: int,
        last: Tensor | None,
        into: Tensor | None = None,
    ) -> Float[Tensor, "reader token d_model"]:
        mixed, self.token = _Mix.apply(self.token, gates, self, base, start, stop, last, into)
        return mixed

    def _at(self, chunks: Tensor, last: Tensor | None) -> Tensor:
        """The answer positions of `[..., token, d_model]`; everything when `last` is None."""
        if last is None:
            return chunks
        rows = torch.arange(self.n_batch, device=last.device)
        return chunks.unflatten(-2, (self.n_batch, self.n_pos))[..., rows, last, :]

    def _put(self, chunks: Tensor, last: Tensor | None, values: Tensor) -> None:
        """Store values at the answer positions of `[..., token, d_model]`, or everywhere."""
        if last is None:
            chunks.copy_(values)
            return
        rows = torch.arange(self.n_batch, device=last.device)
        chunks.unflatten(-2, (self.n_batch, self.n_pos))[..., rows, last, :] = values

    def _nothing(self) -> Tensor:
        """What Hugging Face's residual addition gets instead of a branch's output."""
        return self.token.detach().expand(self.n_batch, self.n_pos, self.d_model)


def _mix(
    run: _GatedRun,
    gates: Tensor,
    base: Tensor | None,
    start: int,
    stop: int,
    last: Tensor | None,
    into: Tensor | None,
) -> Float[Tensor, "reader token d_model"]:
    """`base + gates @ delta[start:stop]`, in a fresh tensor or in `into`.

    Without a `base` of its own the mix takes the run's, which lies in front of the deltas in the
    same buffer, so that a column of ones makes it part of the one matrix product.
    """
    out = None if into is None else into.flatten(1)
    if base is None:
        gates = torch.cat([torch.ones_like(gates[:, :1]), gates], dim=1)
        mixed = torch.mm(gates, run._at(run.buffer[: stop + 1], last).flatten(1), out=out)
    else:
        delta = run._at(run.delta[start:stop], last).flatten(1)
        mixed = torch.addmm(run._at(base, last).reshape(1, -1), gates, delta, out=out)
    return mixed.view(gates.shape[0], -1, run.d_model)


class _Mix(Function):
    """`_mix`, whose backward adds to the run's one gradient buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        gates: Tensor,
        run: _GatedRun,
        base: Tensor | None,
        start: int,
        stop: int,
        last: Tensor | None,
        into: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(gates)
        ctx.run, ctx.start, ctx.stop, ctx.last = run, start, stop, last
        ctx.set_materialize_grads(False)
        return _mix(run, gates, base, start, stop, last, into), token.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_token: Tensor | None) -> tuple:
        run, (gates,) = ctx.run, ctx.saved_tensors
        if grad is None:
            return run.token.new_zeros(()), None, None, None, None, None, None, None
        grad = grad.flatten(1)
        delta = run.delta[ctx.start : ctx.stop]
        into = run.gradient[ctx.start : ctx.stop]
        grad_gates = grad @ run._at(delta, ctx.last).flatten(1).T
        if ctx.last is None:
            into.flatten(1).addmm_(gates.T, grad)
        else:
            share = (gates.T @ grad).view(-1, run.n_batch, run.d_model)
            run._put(into, ctx.last, run._at(into, ctx.last) + share)
        return run.token.new_zeros(()), grad_gates, None, None, None, None, None, None


class _NormProject(Function):
    """Each reader's own slice of the q, k and v projections of its own normed input.

    The norm runs on the q, k and v readers in turn and again in the backward pass, so that the
    normed inputs of all readers never exist at once and no norm keeps its intermediate results.
    """

    @staticmethod
    def forward(
        ctx: Any,
        readers: Tensor,
        run: _GatedRun,
        layer: int,
        again: Callable[[], Tensor] | None,
    ) -> Tensor:
        ctx.run, ctx.layer = run, layer
        ctx.inputs = again or (lambda: readers)
        norm, projections = run.ports.layers[layer].attention_norm, run.ports.readers[layer]
        heads = readers.new_empty(*readers.shape[:2], run.ports.d_head)
        for slots, projection in _rows(projections):
            normed = norm(readers[slots])
            if projection.bias is None:
                torch.bmm(normed, projection.weight, out=heads[slots])
            else:
                bias = projection.bias.unsqueeze(1)
                torch.baddbmm(bias, normed, projection.weight, out=heads[slots])
        return heads

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        run, readers = ctx.run, ctx.inputs().detach()
        norm, into = run.ports.layers[ctx.layer].attention_norm, run.reader_gradient
        for slots, projection in _rows(run.ports.readers[ctx.layer]):
            normed_grad = torch.bmm(grad[slots], projection.weight.transpose(1, 2))
            with torch.enable_grad():
                part = readers[slots].detach().requires_grad_()
                (part_grad,) = torch.autograd.grad(norm(part), part, normed_grad)
            into[slots] = part_grad
        return into, None, None, None


def _rows(projections: tuple[Projection, ...]) -> Iterator[tuple[slice, Projection]]:
    """Each projection with the rows of its readers in the attention block."""
    first = 0
    for projection in projections:
        yield slice(first, first + len(projection.weight)), projection
        first += len(projection.weight)


class _WriteHeads(Function):
    """Store each head's output minus its ablated value in the run's buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        values: Tensor,
        run: _GatedRun,
        slots: slice,
        weight: Tensor,
        ablated: Tensor,
    ) -> Tensor:
        heads = values.flatten(0, 1).unflatten(1, (len(weight), -1)).transpose(0, 1)
        torch.baddbmm(ablated, heads, weight, beta=-1, out=run.delta[slots])
        ctx.run, ctx.slots, ctx.shape = run, slots, values.shape
        ctx.save_for_backward(weight)
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        heads = torch.bmm(ctx.run.gradient[ctx.slots], weight.transpose(1, 2))
        return grad_token, heads.transpose(0, 1).reshape(ctx.shape), None, None, None, None


class _WriteChunk(Function):
    """Store one writer's output minus its ablated value in the run's buffer, perhaps at `last`."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        written: Tensor,
        run: _GatedRun,
        writer: int,
        ablated: Tensor,
        last: Tensor | None,
    ) -> Tensor:
        difference = written.flatten(0, 1) - run._at(ablated, last)
        run._put(run.delta[writer], last, difference)
        ctx.run, ctx.writer, ctx.shape, ctx.last = run, writer, written.shape, last
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        written = ctx.run._at(ctx.run.gradient[ctx.writer], ctx.last)
        return grad_token, written.view(ctx.shape), None, None, None, None
