"""From the residual inputs of a layer's readers to their queries, keys and values."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from circuitprune.engine.stream import Stream
from circuitprune.models.norms import (
    ClosedNorm,
    Projection,
    Statistics,
    closed_form,
    project,
    pull_back,
)


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
    heads: Tensor = _NormProject.apply(readers, stream, norm, projections, again)  # type: ignore[no-untyped-call]
    return heads


if TYPE_CHECKING:

    class _Context(FunctionCtx):
        """What a forward leaves for its backward."""

        saved_tensors: tuple[Tensor, ...]
        stream: Stream
        norm: nn.Module
        projections: tuple[Projection, ...]
        inputs: Callable[[], Tensor]
        closed: ClosedNorm | None
        statistics: list[Statistics]

else:  # torch makes a class of its own for each function
    _Context = FunctionCtx


class _NormProject(Function):
    """See `norm_project`.

    The norm runs on the q, k and v readers in turn, so that the normed inputs of all readers never
    exist at once. Its backward pass is closed, from the projections' outputs and a number or two
    per token; a norm of unknown form runs again under autograd.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        readers: Tensor,
        stream: Stream,
        norm: nn.Module,
        projections: tuple[Projection, ...],
        again: Callable[[], Tensor] | None,
    ) -> Tensor:
        ctx.stream, ctx.norm, ctx.projections = stream, norm, projections
        ctx.inputs = again or (lambda: readers)
        closed = ctx.closed = closed_form(norm)
        ctx.statistics = []
        heads = readers.new_empty(*readers.shape[:2], projections[0].weight.shape[2])
        for slots, projection in _rows(projections):
            if closed is None:
                _project(norm, projection, readers[slots], heads[slots])
            else:
                ctx.statistics.append(project(closed, projection, readers[slots], heads[slots]))
        ctx.save_for_backward(heads)
        return heads

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        readers, scratch = ctx.inputs().detach(), ctx.stream.scratch
        (heads,) = ctx.saved_tensors
        fits = scratch.shape[1:] == readers.shape[1:]
        into = scratch[: len(readers)] if fits else torch.empty_like(readers)
        for i, (slots, projection) in enumerate(_rows(ctx.projections)):
            if ctx.closed is not None:
                parts = (heads[slots], readers[slots], ctx.statistics[i], grad[slots])
                pull_back(ctx.closed, projection, *parts, out=into[slots])
                continue
            through = torch.bmm(grad[slots], projection.weight.transpose(1, 2))
            with torch.enable_grad():
                part = readers[slots].detach().requires_grad_()
                (part_grad,) = torch.autograd.grad(ctx.norm(part), part, through)
            into[slots] = part_grad  # which may be where they are read: nothing else needs them
        return into, None, None, None, None


def _project(norm: nn.Module, projection: Projection, readers: Tensor, out: Tensor) -> None:
    normed = norm(readers)
    if projection.bias is None:
        torch.bmm(normed, projection.weight, out=out)
    else:
        torch.baddbmm(projection.bias.unsqueeze(1), normed, projection.weight, out=out)


def _rows(projections: tuple[Projection, ...]) -> Iterator[tuple[slice, Projection]]:
    """Each projection with the rows of its readers in the attention block."""
    first = 0
    for projection in projections:
        yield slice(first, first + len(projection.weight)), projection
        first += len(projection.weight)
