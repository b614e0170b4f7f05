"""The residual stream of one gated run, in parts: what was written, and how it is mixed and read.

All parts lie in one buffer, so the inputs of a block's readers are one matrix product, and the
backward pass adds into one gradient buffer. The autograd functions here are ordered by a token, a
scalar that each takes and returns: every reader of a writer has added to the gradient before that
writer takes it.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from circuitprune.engine.answers import Answers
from circuitprune.engine.workspace import Workspace


class Stream:
    """Deltas of all writers in front of their ablated base, and the gradients of the deltas.

    Args:
        shape: `(writer, batch, pos, d_model)`.
        last: Position of each example's answer, or None if all positions are asked for.
        n_dense: Writers that something reads at other positions than the answers'.
        widest: Readers of the largest block.
        like: A tensor of the stream's dtype and device.
        workspace: Lends the large buffers for as long as the stream, or its graph, is alive.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        last: Tensor | None,
        n_dense: int,
        widest: int,
        like: Tensor,
        workspace: Workspace,
    ) -> None:
        n_writers, self.n_batch, self.n_pos, self.d_model = shape
        token_shape = (self.n_batch * self.n_pos, self.d_model)
        self.loan = loan = workspace.lend(self)
        self.buffer = loan.take(n_writers + 1, *token_shape, like=like)
        self.base, self.delta = self.buffer[0], self.buffer[1:]
        self.scratch = loan.take(widest + 1, *token_shape, like=like)  # readers, and their MLP's
        self.gradient: Tensor | None = None
        self.answers: Answers | None = None
        if last is not None:
            grid = self.buffer.unflatten(1, (self.n_batch, self.n_pos))
            self.answers = Answers(grid, last)
        self.n_dense = n_dense
        self.token = like.detach().new_zeros(())
        self.at_answers = False

    def begin_backward(self, _: Tensor) -> None:
        """Start a backward pass with an empty gradient; a graph may be walked more than once."""
        if self.gradient is None:
            self.gradient = self.loan.take(self.n_dense, *self.delta.shape[1:], like=self.delta)
        self.gradient.zero_()
        if self.answers is not None:
            self.answers.gradient.zero_()
            self.at_answers = True

    def gradients(self) -> Float[Tensor, "writer token d_model"]:
        """The gradients of the deltas, from when any but the answers' positions matter."""
        assert self.gradient is not None
        if self.at_answers and self.answers is not None:
            self.answers.add_to(self.gradient)
            self.at_answers = False
        return self.gradient

    def room_for_readers(self, n_readers: int) -> Float[Tensor, "reader token d_model"]:
        """A buffer for reader inputs that the backward pass will find again."""
        return self.loan.take(n_readers, *self.scratch.shape[1:], like=self.scratch)

    def mix(
        self,
        gates: Float[Tensor, "reader writer"],
        base: Float[Tensor, "#reader token d_model"] | None,
        start: int,
        stop: int,
        narrow: bool = False,
        into: Tensor | None = None,
    ) -> Float[Tensor, "reader _ d_model"]:
        """`base + gates @ delta[start:stop]` everywhere, or at the answers alone; see `mixed`."""
        return self.mix_two(gates, base, start, stop, narrow, into, len(gates))[0]

    def mix_two(
        self,
        gates: Float[Tensor, "reader writer"],
        base: Float[Tensor, "#reader token d_model"] | None,
        start: int,
        stop: int,
        narrow: bool,
        into: Tensor | None,
        first: int,
    ) -> tuple[Float[Tensor, "first _ d_model"], Float[Tensor, "rest _ d_model"]]:
        """As `mix`, the first readers and the rest apart: one product, but two gradients."""
        one, rest, self.token = _Mix.apply(
            self.token, gates, base, self, start, stop, narrow, into, first
        )
        return one, rest

    def write_heads(
        self,
        values: Float[Tensor, "batch pos width"],
        slots: slice,
        weight: Float[Tensor, "head d_head d_model"],
        ablated: Float[Tensor, "head token d_model"],
        narrow: bool,
    ) -> None:
        """Store what each head of a layer adds, minus its ablated value."""
        self.token = _WriteHeads.apply(self.token, values, self, slots, weight, ablated, narrow)

    def write(
        self,
        written: Float[Tensor, "batch _ d_model"],
        writer: int,
        ablated: Float[Tensor, "token d_model"],
        narrow: bool,
    ) -> None:
        """Store what one writer adds, minus its ablated value, everywhere or at the answers."""
        self.token = _Write.apply(self.token, written, self, writer, ablated, narrow)

    def join(self, grad: Tensor, rest: Tensor | None, n_rows: int) -> Tensor:
        """The gradients of two parts of one mix, one behind the other; zeros for a missing one."""
        if len(grad) == n_rows:
            return grad
        if grad.data_ptr() == self.scratch.data_ptr():  # the next rows are free
            whole = self.scratch[:n_rows]
        else:
            whole = grad.new_empty(n_rows, *grad.shape[1:])
            whole[: len(grad)] = grad
        whole[len(grad) :] = 0 if rest is None else rest
        return whole

    def at(self, chunks: Tensor, narrow: bool = True) -> Tensor:
        """The answers' positions of `[..., token, d_model]`, or everything."""
        if not narrow:
            return chunks
        assert self.answers is not None
        grid = chunks.unflatten(-2, (self.n_batch, self.n_pos))
        places = enumerate(self.answers.positions)
        return torch.stack([grid[..., i, position, :] for i, position in places], dim=-2)


def mixed(
    stream: Stream,
    gates: Tensor,
    base: Tensor | None,
    start: int,
    stop: int,
    narrow: bool,
    into: Tensor | None,
) -> Float[Tensor, "reader token d_model"]:
    """`base + gates @ delta[start:stop]`, in a fresh tensor or in `into`.

    Without a `base` of its own the mix takes the stream's, which lies in front of the deltas in the
    same buffer, so that a column of ones makes it part of the one matrix product.
    """
    out = None if into is None else into[: len(gates)].flatten(1)
    parts = stream.buffer
    if narrow:
        assert stream.answers is not None
        parts = stream.answers.up_to(stop)
    if base is None:
        gates = torch.cat([torch.ones_like(gates[:, :1]), gates], dim=1)
        mixed = torch.mm(gates, parts[: stop + 1].flatten(1), out=out)
    else:
        mixed = torch.addmm(base.flatten(1), gates, parts[start + 1 : stop + 1].flatten(1), out=out)
    return mixed.view(gates.shape[0], -1, stream.d_model)


class _Mix(Function):
    """`mixed`, whose backward adds to the one gradient buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        gates: Tensor,
        base: Tensor | None,
        stream: Stream,
        start: int,
        stop: int,
        narrow: bool,
        into: Tensor | None,
        first: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(gates)
        ctx.stream, ctx.rows, ctx.narrow, ctx.first = stream, slice(start, stop), narrow, first
        ctx.set_materialize_grads(False)
        result = mixed(stream, gates, base, start, stop, narrow, into)
        return result[:first], result[first:], token.clone()

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_rest: Tensor | None, grad_token: Tensor | None
    ) -> tuple:
        stream, (gates,) = ctx.stream, ctx.saved_tensors
        nothing = (None,) * 6
        if grad is None:  # what reads these is not read itself
            if grad_rest is None:
                return stream.token.new_zeros(()), None, None, *nothing
            grad = grad_rest.new_zeros(ctx.first, *grad_rest.shape[1:])
        grad = stream.join(grad, grad_rest, len(gates)).flatten(1)
        if ctx.narrow:
            delta, into = stream.answers.parts[1:], stream.answers.gradient
        else:
            delta, into = stream.delta, stream.gradients()
        grad_gates = grad @ delta[ctx.rows].flatten(1).T
        into[ctx.rows].flatten(1).addmm_(gates.T, grad)
        if ctx.narrow and not stream.at_answers:  # other positions matter already
            stream.answers.add_to(stream.gradient)
        grad_base = None
        if ctx.needs_input_grad[2]:
            grad_base = grad.view(len(gates), -1, stream.d_model)
        return stream.token.new_zeros(()), grad_gates, grad_base, *nothing


class _WriteHeads(Function):
    """Store each head's output minus its ablated value in the stream's buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        values: Tensor,
        stream: Stream,
        slots: slice,
        weight: Tensor,
        ablated: Tensor,
        narrow: bool,
    ) -> Tensor:
        ctx.stream, ctx.slots, ctx.shape, ctx.narrow = stream, slots, values.shape, narrow
        ctx.save_for_backward(weight)
        heads = stream.at(values.flatten(0, 1), narrow)
        heads = heads.unflatten(1, (len(weight), -1)).transpose(0, 1)
        out = stream.delta[slots]
        if narrow:
            assert stream.answers is not None
            out = stream.answers.room(slots)
        torch.baddbmm(stream.at(ablated, narrow), heads, weight, beta=-1, out=out)
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        stream, (weight,) = ctx.stream, ctx.saved_tensors
        into = stream.answers.gradient if ctx.narrow else stream.gradients()
        heads = torch.bmm(into[ctx.slots], weight.transpose(1, 2)).transpose(0, 1)
        if ctx.narrow:
            values = heads.new_zeros(ctx.shape)
            rows = torch.arange(len(values), device=values.device)
            values[rows, stream.answers.positions] = heads.flatten(1)
        else:
            values = heads.reshape(ctx.shape)
        return grad_token, values, *(None,) * 5


class _Write(Function):
    """Store one writer's output minus its ablated value, everywhere or at the answers."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        written: Tensor,
        stream: Stream,
        writer: int,
        ablated: Tensor,
        narrow: bool,
    ) -> Tensor:
        ctx.stream, ctx.writer, ctx.shape, ctx.narrow = stream, writer, written.shape, narrow
        out = stream.delta[writer]
        if narrow:
            assert stream.answers is not None
            out = stream.answers.room(slice(writer, writer + 1))[0]
        torch.sub(written.flatten(0, 1), stream.at(ablated, narrow), out=out)
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        stream = ctx.stream
        into = stream.answers.gradient if ctx.narrow else stream.gradients()
        return grad_token, into[ctx.writer].view(ctx.shape), *(None,) * 4
