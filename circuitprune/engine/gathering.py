"""Layers of a sharded model on the way back: gathered in front of their gradients, let go behind.

FSDP2 gathers for the backward pass of a module whose output has a history. Under gates a layer
hands nothing on but the token of the stream, so gathering hangs on that.
"""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.distributed.fsdp import FSDPModule

from circuitprune.engine.stream import Stream
from circuitprune.models.changes import Branch, Output


def gathered_back(stream: Stream, block: FSDPModule, forward: Branch) -> Branch:
    """A layer's forward whose backward pass finds the layer's weights whole.

    Args:
        stream: Of the run; its token passes all that the layer's backward pass does.
        block: The layer, as `shard` has left it.
        forward: Of the layer.
    """

    def layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
        stream.token = _LetGo.apply(stream.token, block)  # type: ignore[no-untyped-call]
        result = forward(hidden, *args, **kwargs)
        stream.token = _Gather.apply(stream.token, block)  # type: ignore[no-untyped-call]
        return result

    return layer


if TYPE_CHECKING:

    class _Context(FunctionCtx):
        """What a forward leaves for its backward."""

        block: FSDPModule

else:  # torch makes a class of its own for each function
    _Context = FunctionCtx


class _Gather(Function):
    """Behind a layer, so in front of its gradients."""

    @staticmethod
    def forward(ctx: _Context, token: Tensor, block: FSDPModule) -> Tensor:
        ctx.block = block
        return token.clone()

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:
        ctx.block.unshard()
        return grad, None


class _LetGo(Function):
    """In front of a layer, so behind its gradients."""

    @staticmethod
    def forward(ctx: _Context, token: Tensor, block: FSDPModule) -> Tensor:
        ctx.block = block
        return token.clone()

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:
        ctx.block.reshard()
        return grad, None
