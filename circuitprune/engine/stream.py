"""The residual stream of one gated run, in parts: what was written, and how it is mixed and read.

All parts lie in one buffer, so the inputs of a panel's readers are one matrix product, and the
backward pass adds into one gradient buffer and into one gradient of the gates. The autograd
functions here are ordered by a token, a scalar that each takes and returns and that begins with the
gates: every reader of a writer has added to the gradient before that writer takes it, and all
have added to the gates' before these take theirs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from circuitprune.circuits.graph import Block, Graph
from circuitprune.engine.dealing import mix, pull, slopes, views_of
from circuitprune.engine.layout import Layout
from circuitprune.engine.mixer import Mixer
from circuitprune.engine.panels import Panel
from circuitprune.engine.positions import AtAnswers, Everywhere, Positions
from circuitprune.engine.workspace import Workspace


class Stream:
    """Deltas of all writers behind their ablated bases, and the gradients of the deltas.

    Args:
        graph: Of the model.
        gates: One float per edge at each span, in the graph's flat order and the stream's type.
        shape: `(batch, pos, d_model)`.
        last: Position of each example's answer, or None if all positions are asked for.
        dealt: The span of each token, or None if there is one.
        starts: The first writer of each run of layers, where a base begins.
        n_dense: Writers that something reads at other positions than the answers'.
        workspace: Lends the large buffers for as long as the stream, or its graph, is alive.

    Attributes:
        everywhere: All positions.
        answers: The positions that are asked for.
        gates: By block, `[span, reader, writer]`, without their history.
    """

    def __init__(
        self,
        graph: Graph,
        gates: Float[Tensor, "span edge"],
        shape: tuple[int, ...],
        last: Tensor | None,
        dealt: Int[Tensor, "batch pos"] | None,
        starts: Sequence[int],
        n_dense: int,
        workspace: Workspace,
    ) -> None:
        n_batch, n_pos, d_model = shape
        self.graph, self.token_shape = graph, (n_batch * n_pos, d_model)
        self.differentiable = gates.requires_grad and torch.is_grad_enabled()
        self.gates = {b: views_of(gates.detach(), b) for b in graph.blocks}
        self.layout = layout = Layout(graph.n_writers, starts)
        self.loan = workspace.lend(self)
        self.parts = self.loan.take(layout.n_rows, *self.token_shape, like=gates)
        for start in layout.starts:
            self.parts[layout.base(start)] = 0
        grid = self.parts.unflatten(1, (n_batch, n_pos))
        base = layout.base(graph.n_writers - 1)
        at_answers = None if last is None else AtAnswers(grid, last, base, dealt)
        dense = layout.up_to(n_dense)
        self.everywhere = Everywhere(self.parts, at_answers, dense, self.loan, dealt)
        self.answers: Positions = at_answers or self.everywhere
        self.slopes, self.n_spans = gates.new_empty(0), len(gates)
        self.mixers: list[Mixer] = []
        self.token: Tensor = _Begin.apply(gates, self)  # type: ignore[no-untyped-call]

    def begin_backward(self, _: Tensor | None) -> None:
        """Start a backward pass with empty gradients; a graph may be walked more than once."""
        if len(self.slopes):
            for mixer in self.mixers:  # gradients of the pass before lie where inputs were
                mixer.seat.holder = None
        self.slopes = self.parts.new_zeros(self.n_spans, self.graph.n_edges)
        self.everywhere.begin_backward()

    def add_to_base(self, writer: int, ablated: Float[Tensor, "token d_model"]) -> None:
        """Put what a writer, or a layer's heads together, carry when ablated into the stream."""
        self.parts[self.layout.base(writer)] += ablated

    def deltas(self, writers: slice) -> Float[Tensor, "writer token d_model"]:
        """Where some writers of one layer are stored."""
        return self.parts[self.layout.rows(writers)]

    # ---------------------------------------------------------------- reading

    def read(self, mixer: Mixer, layer: int) -> dict[Block, Float[Tensor, "reader _ d_model"]]:
        """Inputs of a layer's readers of a panel; those of a later layer may take their place."""
        panel = mixer.panel
        if mixer not in self.mixers:
            self.mixers.append(mixer)
            self.token = _Fill.apply(self.token, self, mixer)  # type: ignore[no-untyped-call]
        *inputs, self.token = _Read.apply(self.token, mixer, layer)  # type: ignore[no-untyped-call]
        return dict(zip(blocks_of(panel, layer), inputs, strict=True))

    def mix(
        self,
        block: Block,
        writers: slice,
        where: Positions,
        base: Float[Tensor, "#reader _ d_model"],
    ) -> Float[Tensor, "reader _ d_model"]:
        """`base + gates @ delta` of a block's readers and the heads of one layer."""
        task = (block, writers, where)
        mixed: Tensor
        mixed, self.token = _Mix.apply(self.token, base, self, task)  # type: ignore[no-untyped-call]
        return mixed

    # ---------------------------------------------------------------- writing

    def write_heads(
        self,
        values: Float[Tensor, "batch pos width"],
        writers: slice,
        where: Positions,
        weight: Float[Tensor, "head d_head d_model"],
        ablated: Float[Tensor, "head token d_model"],
    ) -> None:
        """Store what each head of a layer adds, minus its ablated value."""
        rows = self.layout.rows(writers)
        self.token = _WriteHeads.apply(self.token, values, rows, where, weight, ablated)  # type: ignore[no-untyped-call]

    def write(
        self,
        written: Float[Tensor, "batch _ d_model"],
        writer: int,
        where: Positions,
        ablated: Float[Tensor, "token d_model"],
    ) -> None:
        """Store what one writer adds, minus its ablated value."""
        row = self.layout.row(writer)
        self.token = _Write.apply(self.token, written, row, where, ablated)  # type: ignore[no-untyped-call]


def blocks_of(panel: Panel, layer: int) -> list[Block]:
    """The blocks of a layer that have readers in a panel."""
    return [block for block in panel.rows if block.layer == layer]


# ---------------------------------------------------------------- autograd


MixTask = tuple[Block, slice, Positions]
"""Whose readers, heads of one layer, and where they are read."""

if TYPE_CHECKING:

    class _Context(FunctionCtx):
        """What a forward leaves for its backward."""

        saved_tensors: tuple[Tensor, ...]
        needs_input_grad: tuple[bool, ...]
        stream: Stream
        mixer: Mixer
        layer: int
        task: MixTask
        rows: slice
        where: Positions
        shape: torch.Size

else:  # torch makes a class of its own for each function
    _Context = FunctionCtx


class _Begin(Function):
    """The first token, whose gradient is that of the gates."""

    @staticmethod
    def forward(ctx: _Context, gates: Tensor, stream: Stream) -> Tensor:
        ctx.stream = stream
        return gates.new_zeros(())

    @staticmethod
    def backward(ctx: _Context, _: Tensor) -> tuple[Tensor, None]:
        return ctx.stream.slopes, None


class _Fill(Function):
    """What stands in front of a panel, whose backward comes when all its readers have theirs."""

    @staticmethod
    def forward(ctx: _Context, token: Tensor, stream: Stream, mixer: Mixer) -> Tensor:
        ctx.stream, ctx.mixer = stream, mixer
        mixer.fill()
        return token.clone()

    @staticmethod
    def backward(ctx: _Context, grad_token: Tensor) -> tuple[Tensor, None, None]:
        ctx.mixer.finish(ctx.stream.slopes)
        return grad_token, None, None


class _Read(Function):
    """The inputs of a layer's readers, by block; their gradients take their place."""

    @staticmethod
    def forward(ctx: _Context, token: Tensor, mixer: Mixer, layer: int) -> tuple[Tensor, ...]:
        ctx.mixer, ctx.layer = mixer, layer
        ctx.set_materialize_grads(False)
        mixer.complete(layer)
        blocks = blocks_of(mixer.panel, layer)
        return *(mixer.inputs[mixer.panel.rows[block]] for block in blocks), token.clone()

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor | None) -> tuple[Tensor, None, None]:
        mixer, layer = ctx.mixer, ctx.layer
        for block, grad in zip(blocks_of(mixer.panel, layer), grads[:-1], strict=True):
            mixer.receive(block, grad)
        mixer.spread(layer)
        return mixer.gates.new_zeros(()), None, None


class _Mix(Function):
    """`base + gates @ delta` of a layer's heads."""

    @staticmethod
    def forward(
        ctx: _Context, token: Tensor, base: Tensor, stream: Stream, task: MixTask
    ) -> tuple[Tensor, Tensor]:
        ctx.stream, ctx.task = stream, task
        ctx.set_materialize_grads(False)
        block, writers, where = task
        gates, rows = stream.gates[block][..., writers], stream.layout.rows(writers)
        mixed = base.expand(gates.shape[1], -1, -1).clone()
        mix(where.pieces, gates, where.up_to(rows.stop)[rows], mixed, add=True)
        return mixed, token.clone()

    @staticmethod
    def backward(ctx: _Context, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        stream, (block, writers, where) = ctx.stream, ctx.task
        nothing = stream.parts.new_zeros(())
        if grad is None:  # what reads these is not read itself
            return nothing, None, None, None
        gates, rows = stream.gates[block][..., writers], stream.layout.rows(writers)
        into = views_of(stream.slopes, block)[..., writers]
        into += slopes(where.pieces, grad, where.up_to(rows.stop)[rows], len(into))
        pull(where.pieces, gates, grad, where.gradients()[rows])
        where.settle()
        return nothing, grad if ctx.needs_input_grad[1] else None, None, None


class _WriteHeads(Function):
    """Store each head's output minus its ablated value in the stream's buffer."""

    @staticmethod
    def forward(
        ctx: _Context,
        token: Tensor,
        values: Tensor,
        rows: slice,
        where: Positions,
        weight: Tensor,
        ablated: Tensor,
    ) -> Tensor:
        ctx.rows, ctx.where, ctx.shape = rows, where, values.shape
        ctx.save_for_backward(weight)
        heads = where.of(values.flatten(0, 1))
        heads = heads.unflatten(1, (len(weight), -1)).transpose(0, 1)
        torch.baddbmm(where.of(ablated), heads, weight, beta=-1, out=where.room(rows))
        return token.clone()

    @staticmethod
    def backward(ctx: _Context, grad_token: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        grads = ctx.where.gradients()[ctx.rows]
        heads = torch.bmm(grads, weight.transpose(1, 2)).transpose(0, 1)
        return grad_token, ctx.where.spread(heads, ctx.shape), None, None, None, None


class _Write(Function):
    """Store one writer's output minus its ablated value, wherever it is read."""

    @staticmethod
    def forward(
        ctx: _Context, token: Tensor, written: Tensor, row: int, where: Positions, ablated: Tensor
    ) -> Tensor:
        ctx.rows, ctx.where, ctx.shape = slice(row, row + 1), where, written.shape
        (out,) = where.room(ctx.rows)
        torch.sub(written.flatten(0, 1), where.of(ablated), out=out)
        return token.clone()

    @staticmethod
    def backward(ctx: _Context, grad_token: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.where.gradients()[ctx.rows]
        return grad_token, grad.view(ctx.shape), None, None, None
