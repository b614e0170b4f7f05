"""The residual stream of one gated run, in parts: what was written, and how it is mixed and read.

All parts lie in one buffer, so the inputs of a block's readers are one matrix product, and the
backward pass adds into one gradient buffer. The autograd functions here are ordered by a token, a
scalar that each takes and returns: every reader of a writer has added to the gradient before that
writer takes it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

from circuitprune.models.ports import Projection
from circuitprune.workspace import Workspace


class Stream:
    """Deltas of all writers in front of their ablated base, and the gradients of the deltas.

    Args:
        shape: `(writer, batch, pos, d_model)`.
        widest: Readers of the largest block.
        like: A tensor of the stream's dtype and device.
        workspace: Lends the large buffers for as long as the stream, or its graph, is alive.
    """

    def __init__(
        self, shape: tuple[int, ...], widest: int, like: Tensor, workspace: Workspace
    ) -> None:
        n_writers, self.n_batch, self.n_pos, self.d_model = shape
        token_shape = (self.n_batch * self.n_pos, self.d_model)
        self.loan = loan = workspace.lend(self)
        self.buffer = loan.take(n_writers + 1, *token_shape, like=like)
        self.base, self.delta = self.buffer[0], self.buffer[1:]
        self.scratch = loan.take(widest, *token_shape, like=like)
        self.gradient: Tensor | None = None
        self.reader_gradient: Tensor | None = None
        self.token = like.detach().new_zeros(())

    def begin_backward(self, _: Tensor) -> None:
        """Start a backward pass with an empty gradient; a graph may be walked more than once."""
        if self.gradient is None:
            self.gradient = self.loan.take(*self.delta.shape, like=self.delta)
            self.reader_gradient = self.loan.take(*self.scratch.shape, like=self.delta)
        self.gradient.zero_()

    def room_for_readers(self) -> Float[Tensor, "reader token d_model"]:
        """A buffer for reader inputs that the backward pass will find again."""
        return self.loan.take(*self.scratch.shape, like=self.scratch)

    def mix(
        self,
        gates: Float[Tensor, "reader writer"],
        base: Float[Tensor, "token d_model"] | None,
        start: int,
        stop: int,
        last: Tensor | None,
        into: Tensor | None = None,
    ) -> Float[Tensor, "reader _ d_model"]:
        """`base + gates @ delta[start:stop]` at all positions or at `last`; see `mixed`."""
        result, self.token = _Mix.apply(self.token, gates, self, base, start, stop, last, into)
        return result

    def write_heads(
        self,
        values: Float[Tensor, "batch pos width"],
        slots: slice,
        weight: Float[Tensor, "head d_head d_model"],
        ablated: Float[Tensor, "head token d_model"],
    ) -> None:
        """Store what each head of a layer adds, minus its ablated value."""
        self.token = _WriteHeads.apply(self.token, values, self, slots, weight, ablated)

    def write(
        self,
        written: Float[Tensor, "batch _ d_model"],
        writer: int,
        ablated: Float[Tensor, "token d_model"],
        last: Tensor | None,
    ) -> None:
        """Store what one writer adds, minus its ablated value, at all positions or at `last`."""
        self.token = _Write.apply(self.token, written, self, writer, ablated, last)

    def at(self, chunks: Tensor, last: Tensor | None) -> Tensor:
        """The answer positions of `[..., token, d_model]`; everything when `last` is None."""
        if last is None:
            return chunks
        rows = torch.arange(self.n_batch, device=last.device)
        return chunks.unflatten(-2, (self.n_batch, self.n_pos))[..., rows, last, :]

    def put(self, chunks: Tensor, last: Tensor | None, values: Tensor) -> None:
        """Store values at the answer positions of `[..., token, d_model]`, or everywhere."""
        if last is None:
            chunks.copy_(values)
            return
        rows = torch.arange(self.n_batch, device=last.device)
        chunks.unflatten(-2, (self.n_batch, self.n_pos))[..., rows, last, :] = values


def norm_project(
    readers: Float[Tensor, "reader token d_model"],
    stream: Stream,
    norm: nn.Module,
    projections: tuple[Projection, ...],
    again: Callable[[], Tensor] | None,
) -> Float[Tensor, "reader token d_head"]:
    """Each reader's own slice of the q, k and v projections of its own normed input.

    Args:
        readers: Their residual inputs.
        stream: Lends the buffer for their gradient.
        norm: In front of the projections.
        projections: q, k and v, in the order of the readers.
        again: Makes `readers` once more for the backward pass; without it they are kept.
    """
    return _NormProject.apply(readers, stream, norm, projections, again)


def mixed(
    stream: Stream,
    gates: Tensor,
    base: Tensor | None,
    start: int,
    stop: int,
    last: Tensor | None,
    into: Tensor | None,
) -> Float[Tensor, "reader token d_model"]:
    """`base + gates @ delta[start:stop]`, in a fresh tensor or in `into`.

    Without a `base` of its own the mix takes the stream's, which lies in front of the deltas in the
    same buffer, so that a column of ones makes it part of the one matrix product.
    """
    out = None if into is None else into.flatten(1)
    if base is None:
        gates = torch.cat([torch.ones_like(gates[:, :1]), gates], dim=1)
        mixed = torch.mm(gates, stream.at(stream.buffer[: stop + 1], last).flatten(1), out=out)
    else:
        delta = stream.at(stream.delta[start:stop], last).flatten(1)
        mixed = torch.addmm(stream.at(base, last).reshape(1, -1), gates, delta, out=out)
    return mixed.view(gates.shape[0], -1, stream.d_model)


class _Mix(Function):
    """`mixed`, whose backward adds to the one gradient buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        gates: Tensor,
        stream: Stream,
        base: Tensor | None,
        start: int,
        stop: int,
        last: Tensor | None,
        into: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(gates)
        ctx.stream, ctx.start, ctx.stop, ctx.last = stream, start, stop, last
        ctx.set_materialize_grads(False)
        return mixed(stream, gates, base, start, stop, last, into), token.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_token: Tensor | None) -> tuple:
        stream, (gates,) = ctx.stream, ctx.saved_tensors
        if grad is None:
            return stream.token.new_zeros(()), None, None, None, None, None, None, None
        grad = grad.flatten(1)
        delta = stream.delta[ctx.start : ctx.stop]
        into = stream.gradient[ctx.start : ctx.stop]
        grad_gates = grad @ stream.at(delta, ctx.last).flatten(1).T
        if ctx.last is None:
            into.flatten(1).addmm_(gates.T, grad)
        else:
            share = (gates.T @ grad).view(-1, stream.n_batch, stream.d_model)
            stream.put(into, ctx.last, stream.at(into, ctx.last) + share)
        return stream.token.new_zeros(()), grad_gates, None, None, None, None, None, None


class _NormProject(Function):
    """See `norm_project`.

    The norm runs on the q, k and v readers in turn and again in the backward pass, so that the
    normed inputs of all readers never exist at once and no norm keeps its intermediate results.
    """

    @staticmethod
    def forward(
        ctx: Any,
        readers: Tensor,
        stream: Stream,
        norm: nn.Module,
        projections: tuple[Projection, ...],
        again: Callable[[], Tensor] | None,
    ) -> Tensor:
        ctx.stream, ctx.norm, ctx.projections = stream, norm, projections
        ctx.inputs = again or (lambda: readers)
        heads = readers.new_empty(*readers.shape[:2], projections[0].weight.shape[2])
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
        readers, shared = ctx.inputs().detach(), ctx.stream.reader_gradient
        into = shared if shared.shape == readers.shape else torch.empty_like(readers)
        for slots, projection in _rows(ctx.projections):
            torch.bmm(grad[slots], projection.weight.transpose(1, 2), out=into[slots])
            with torch.enable_grad():
                part = readers[slots].detach().requires_grad_()
                (part_grad,) = torch.autograd.grad(ctx.norm(part), part, into[slots])
            into[slots] = part_grad
        return into, None, None, None, None


def _rows(projections: tuple[Projection, ...]) -> Iterator[tuple[slice, Projection]]:
    """Each projection with the rows of its readers in the attention block."""
    first = 0
    for projection in projections:
        yield slice(first, first + len(projection.weight)), projection
        first += len(projection.weight)


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
    ) -> Tensor:
        heads = values.flatten(0, 1).unflatten(1, (len(weight), -1)).transpose(0, 1)
        torch.baddbmm(ablated, heads, weight, beta=-1, out=stream.delta[slots])
        ctx.stream, ctx.slots, ctx.shape = stream, slots, values.shape
        ctx.save_for_backward(weight)
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        heads = torch.bmm(ctx.stream.gradient[ctx.slots], weight.transpose(1, 2))
        return grad_token, heads.transpose(0, 1).reshape(ctx.shape), None, None, None, None


class _Write(Function):
    """Store one writer's output minus its ablated value, at all positions or at `last`."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        written: Tensor,
        stream: Stream,
        writer: int,
        ablated: Tensor,
        last: Tensor | None,
    ) -> Tensor:
        difference = written.flatten(0, 1) - stream.at(ablated, last)
        stream.put(stream.delta[writer], last, difference)
        ctx.stream, ctx.writer, ctx.shape, ctx.last = stream, writer, written.shape, last
        return token.clone()

    @staticmethod
    def backward(ctx: Any, grad_token: Tensor) -> tuple:
        written = ctx.stream.at(ctx.stream.gradient[ctx.writer], ctx.last)
        return grad_token, written.view(ctx.shape), None, None, None, None
