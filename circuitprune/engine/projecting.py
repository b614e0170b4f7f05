"""From the residual inputs of a layer's readers to their queries, keys and values."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

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
    norm: nn.Module,
    projections: tuple[Projection, ...],
    again: Callable[[], Tensor] | None,
) -> Float[Tensor, "reader token d_head"]:
    """Each reader's own slice of the q, k and v projections of its own normed input.

    Args:
        readers: Their residual inputs.
        norm: In front of the projections.
        projections: q, k and v, in the order of the readers.
        again: Gives `readers` once more for the backward pass, where their gradients may take
            their place; without it they are kept.
    """
    heads: Tensor = _NormProject.apply(readers, norm, projections, again)  # type: ignore[no-untyped-call]
    return heads


if TYPE_CHECKING:

    class _Context(FunctionCtx):
        """What a forward leaves for its backward."""

        saved_tensors: tuple[Tensor, ...]
        norm: nn.Module
        projections: tuple[Projection, ...]
        again: Callable[[], Tensor] | None
        readers: Tensor
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
        norm: nn.Module,
        projections: tuple[Projection, ...],
        again: Callable[[], Tensor] | None,
    ) -> Tensor:
        ctx.norm, ctx.projections, ctx.again = norm, projections, again
        if again is None:
            ctx.readers = readers.detach()
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
        (heads,) = ctx.saved_tensors
        readers = into = ctx.readers if ctx.again is None else ctx.again()
        if ctx.again is None:
            into = torch.empty_like(readers)
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
        return into, None, None, None


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
