"""The residual stream of one gated run, in parts: what was written, and how it is mixed and read.

All parts lie in one buffer, so the inputs of a block's readers are one matrix product, and the
backward pass adds into one gradient buffer. The autograd functions here are ordered by a token, a
scalar that each takes and returns: every reader of a writer has added to the gradient before that
writer takes it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from circuitprune.engine.positions import AtAnswers, Everywhere, Positions
from circuitprune.engine.workspace import Workspace


class Stream:
    """Deltas of all writers behind their ablated base, and the gradients of the deltas.

    Args:
        shape: `(writer, batch, pos, d_model)`.
        last: Position of each example's answer, or None if all positions are asked for.
        n_dense: Writers that something reads at other positions than the answers'.
        widest: Readers of the largest block.
        like: A tensor of the stream's dtype and device.
        workspace: Lends the large buffers for as long as the stream, or its graph, is alive.

    Attributes:
        everywhere: All positions.
        answers: The positions that are asked for.
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
        n_writers, n_batch, n_pos, d_model = shape
        token_shape = (n_batch * n_pos, d_model)
        self.loan = loan = workspace.lend(self)
        buffer = loan.take(n_writers + 1, *token_shape, like=like)
        self.base, self.delta = buffer[0], buffer[1:]
        self.scratch = loan.take(widest + 1, *token_shape, like=like)  # readers, and their MLP's
        grid = buffer.unflatten(1, (n_batch, n_pos))
        at_answers = None if last is None else AtAnswers(grid, last)
        self.everywhere = Everywhere(buffer, at_answers, n_dense, loan)
        self.answers: Positions = at_answers or self.everywhere
        self.token = like.detach().new_zeros(())

    def begin_backward(self, _: Tensor) -> None:
        """Start a backward pass with empty gradients; a graph may be walked more than once."""
        self.everywhere.begin_backward()

    def room_for_readers(self, n_readers: int) -> Float[Tensor, "reader token d_model"]:
        """A buffer for reader inputs that the backward pass will find again."""
        return self.loan.take(n_readers, *self.scratch.shape[1:], like=self.scratch)

    def mix(
        self,
        gates: Float[Tensor, "reader writer"],
        writers: slice,
        where: Positions,
        base: Float[Tensor, "#reader token d_model"] | None = None,
        into: Tensor | None = None,
    ) -> Float[Tensor, "reader _ d_model"]:
        """`base + gates @ delta[writers]` somewhere; see `mixed`."""
        return self.mix_two(gates, writers, where, base, into, len(gates))[0]

    def mix_two(
        self,
        gates: Float[Tensor, "reader writer"],
        writers: slice,
        where: Positions,
        base: Float[Tensor, "#reader token d_model"] | None,
        into: Tensor | None,
        first: int,
    ) -> tuple[Float[Tensor, "first _ d_model"], Float[Tensor, "rest _ d_model"]]:
        """As `mix`, the first readers and the rest apart: one product, but two gradients."""
        task = _MixTask(self, writers, where, into, first)
        one, rest, self.token = _Mix.apply(self.token, gates, base, task)  # type: ignore[no-untyped-call]
        return one, rest

    def write_heads(
        self,
        values: Float[Tensor, "batch pos width"],
        writers: slice,
        where: Positions,
        weight: Float[Tensor, "head d_head d_model"],
        ablated: Float[Tensor, "head token d_model"],
    ) -> None:
        """Store what each head of a layer adds, minus its ablated value."""
        self.token = _WriteHeads.apply(self.token, values, writers, where, weight, ablated)  # type: ignore[no-untyped-call]

    def write(
        self,
        written: Float[Tensor, "batch _ d_model"],
        writer: int,
        where: Positions,
        ablated: Float[Tensor, "token d_model"],
    ) -> None:
        """Store what one writer adds, minus its ablated value."""
        self.token = _Write.apply(self.token, written, writer, where, ablated)  # type: ignore[no-untyped-call]

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


def mixed(
    gates: Float[Tensor, "reader writer"],
    writers: slice,
    where: Positions,
    base: Tensor | None,
    into: Tensor | None,
) -> Float[Tensor, "reader _ d_model"]:
    """`base + gates @ delta[writers]`, in a fresh tensor or in `into`.

    Without a `base` of its own the mix takes the stream's, which lies in front of the deltas in the
    same buffer, so that a column of ones makes it part of the one matrix product.
    """
    out = None if into is None else into[: len(gates)].flatten(1)
    parts = where.up_to(writers.stop)
    if base is None:
        gates = torch.cat([torch.ones_like(gates[:, :1]), gates], dim=1)
        result = torch.mm(gates, parts.flatten(1), out=out)
    else:
        result = torch.addmm(base.flatten(1), gates, parts[writers.start + 1 :].flatten(1), out=out)
    return result.view(len(gates), -1, parts.shape[-1])


# ---------------------------------------------------------------- autograd


if TYPE_CHECKING:

    class _Context(FunctionCtx):
        """What a forward leaves for its backward."""

        saved_tensors: tuple[Tensor, ...]
        needs_input_grad: tuple[bool, ...]
        task: "_MixTask"
        writers: slice
        where: Positions
        shape: torch.Size

else:  # torch makes a class of its own for each function
    _Context = FunctionCtx


@dataclass(frozen=True)
class _MixTask:
    """What is mixed for whom: all but the tensors that gradients go to."""

    stream: Stream
    writers: slice
    where: Positions
    into: Tensor | None
    first: int
    """Readers whose result, and gradient, is apart from the others'."""


class _Mix(Function):
    """`mixed`, whose backward adds to the one gradient buffer."""

    @staticmethod
    def forward(
        ctx: _Context, token: Tensor, gates: Tensor, base: Tensor | None, task: _MixTask
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(gates)
        ctx.task = task
        ctx.set_materialize_grads(False)
        result = mixed(gates, task.writers, task.where, base, task.into)
        return result[: task.first], result[task.first :], token.clone()

    @staticmethod
    def backward(
        ctx: _Context, grad: Tensor | None, grad_rest: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        task, (gates,) = ctx.task, ctx.saved_tensors
        stream, where, nothing = task.stream, task.where, gates.new_zeros(())
        if grad is None:  # what reads these is not read itself
            if grad_rest is None:
                return nothing, None, None, None
            grad = grad_rest.new_zeros(task.first, *grad_rest.shape[1:])
        whole = stream.join(grad, grad_rest, len(gates))
        flat = whole.flatten(1)
        grad_gates = flat @ where.delta[task.writers].flatten(1).T
        where.gradients()[task.writers].flatten(1).addmm_(gates.T, flat)
        where.settle()
        return nothing, grad_gates, whole if ctx.needs_input_grad[2] else None, None


class _WriteHeads(Function):
    """Store each head's output minus its ablated value in the stream's buffer."""

    @staticmethod
    def forward(
        ctx: _Context,
        token: Tensor,
        values: Tensor,
        writers: slice,
        where: Positions,
        weight: Tensor,
        ablated: Tensor,
    ) -> Tensor:
        ctx.writers, ctx.where, ctx.shape = writers, where, values.shape
        ctx.save_for_backward(weight)
        heads = where.of(values.flatten(0, 1))
        heads = heads.unflatten(1, (len(weight), -1)).transpose(0, 1)
        torch.baddbmm(where.of(ablated), heads, weight, beta=-1, out=where.room(writers))
        return token.clone()

    @staticmethod
    def backward(ctx: _Context, grad_token: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        grads = ctx.where.gradients()[ctx.writers]
        heads = torch.bmm(grads, weight.transpose(1, 2)).transpose(0, 1)
        return grad_token, ctx.where.spread(heads, ctx.shape), None, None, None, None


class _Write(Function):
    """Store one writer's output minus its ablated value, wherever it is read."""

    @staticmethod
    def forward(
        ctx: _Context,
        token: Tensor,
        written: Tensor,
        writer: int,
        where: Positions,
        ablated: Tensor,
    ) -> Tensor:
        ctx.writers, ctx.where, ctx.shape = slice(writer, writer + 1), where, written.shape
        (out,) = where.room(ctx.writers)
        torch.sub(written.flatten(0, 1), where.of(ablated), out=out)
        return token.clone()

    @staticmethod
    def backward(ctx: _Context, grad_token: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.where.gradients()[ctx.writers]
        return grad_token, grad.view(ctx.shape), None, None, None
