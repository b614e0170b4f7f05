"""Gradients at every reader of one plain run, contracted with every upstream writer's difference.

At gates of 1 all readers of a block see the same residual stream, so the model runs as Hugging
Face wrote it, and only the backward pass is split by reader. With `g_r` the gradient of the metric
at reader r's input, the score of an edge is `<ablated[w] - now[w], g_r>`: minus the gradient of the
gated model at gate 1, a law that the tests hold both to.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from circuitprune.data.pairs import Batch
from circuitprune.engine.contraction import Contraction
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.recording import recorders
from circuitprune.metrics import Metric
from circuitprune.models.changes import Branch, Change, Forward, Output, output_of, with_output
from circuitprune.models.norms import ClosedNorm, closed_form, pull_back, vjp

Tap = Callable[[ClosedNorm | None, Tensor, Tensor], Tensor]
"""Takes a projection's output gradient and its output; gives the gradient at the stream."""


def edge_scores(
    gated: GatedModel,
    batch: Batch,
    metric: Metric,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, " edge"]:
    """`sum over examples and positions of <ablated[w] - clean[w], d metric / d input of r>`.

    One forward and one backward: the writers are recorded on the run whose gradient is taken.

    Args:
        gated: The model.
        batch: Its clean prompts are run.
        metric: Summed over the batch before the backward pass.
        ablated: What each writer carries when ablated; is overwritten with the difference.
    """
    run = TappedRun(gated, ablated, None, batch)
    with gated.ports.intercept(recorders(gated.ports, ablated, subtract=True)):
        logits = run.forward()
    return run.backward(logits, metric)


def edge_scores_at(
    gated: GatedModel,
    batch: Batch,
    metric: Metric,
    difference: Float[Tensor, "writer batch pos d_model"],
    embeddings: Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, " edge"]:
    """As `edge_scores`, with gradients at other embeddings and the difference given.

    Args:
        gated, batch, metric: As above.
        difference: What each writer would carry instead, minus what it carries.
        embeddings: What enters layer 0, a point on a path between two prompts.
    """
    run = TappedRun(gated, difference, embeddings, batch)
    return run.backward(run.forward(), metric)


class TappedRun:
    """A plain forward whose backward pass gives scores.

    Args:
        gated: The model.
        difference: What each writer would carry instead, minus what it carries.
        entering: What enters layer `start`; None at layer 0: the clean prompts' embeddings.
        batch: Whose clean prompts are run.
        start: The first layer that runs; those before it are passed over.
    """

    def __init__(
        self,
        gated: GatedModel,
        difference: Float[Tensor, "writer batch pos d_model"],
        entering: Float[Tensor, "batch pos d_model"] | None,
        batch: Batch,
        start: int = 0,
    ) -> None:
        self.ports, self.graph = gated.ports, gated.ports.graph
        self.post_norms = gated.ports.post_norms
        self.difference = difference.flatten(1, 2)
        self.entering, self.batch, self.start = entering, batch, start
        self.contraction = Contraction(gated, difference, batch.last, batch.spans)
        self.entrance = difference.new_zeros(())
        self.streams: dict[nn.Module, Tensor] = {}
        """What each norm saw; readers without one see it themselves."""

    @torch.enable_grad()
    def forward(self) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits with the taps in place."""
        with self.ports.intercept(self.changes()):
            return self.ports.run(*self.batch.clean_prompts)

    @torch.enable_grad()
    def backward(
        self, logits: Float[Tensor, "batch vocab"], metric: Metric
    ) -> Float[Tensor, " edge"]:
        """The scores, filled by one backward pass of the summed metric."""
        metric(logits, self.batch).sum().backward(inputs=[self.entrance])
        return self.finished()

    def finished(self) -> Float[Tensor, " edge"]:
        """The scores, after a backward pass."""
        self.streams.clear()  # they hold the graph, which holds this run
        return self.contraction.finished()

    def changes(self) -> list[Change]:
        """The forwards to replace: all call Hugging Face's own and listen to its gradients."""
        changes: list[Change] = [*self.ports.ungrouping()]
        for layer, ports in enumerate(self.ports.layers):
            for norm in {ports.attention_norm, ports.mlp_norm}:  # one module in some families
                changes.append((norm, "forward", self._remember(norm, norm.forward)))
            for position, module in enumerate(ports.projections):
                listen = self._listen(layer, position, module.forward)
                changes.append((module, "forward", listen))
            changes.append((ports.mlp, "forward", self._listen_mlp(layer, ports.mlp.forward)))
        for layer, post in self.post_norms.norms.items():
            changes.append((post, "forward", self._keep_heads(layer, post.forward)))
        first, final = self.ports.blocks[self.start], self.ports.final_norm
        changes += [
            (block, "forward", self.ports.pass_over) for block in self.ports.blocks[: self.start]
        ]
        changes.append((first, "forward", self._enter(first.forward)))
        changes.append((final, "forward", self._leave(final.forward)))
        return changes

    def _enter(self, forward: Branch) -> Branch:
        def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            hidden = hidden if self.entering is None else self.entering
            self.entrance = hidden.detach().requires_grad_()
            return forward(self.entrance, *args, **kwargs)

        return first_layer

    def _leave(self, forward: Forward) -> Forward:
        def final_norm(hidden: Tensor) -> Tensor:
            rows = torch.arange(hidden.shape[0], device=hidden.device)
            stream = hidden[rows, self.batch.last]
            stream.register_hook(self._tap_logits)
            return forward(stream).unsqueeze(1).expand_as(hidden)

        return final_norm

    def _remember(self, norm: nn.Module, forward: Forward) -> Forward:
        def remember(hidden: Tensor) -> Tensor:
            self.streams[norm] = hidden
            return forward(hidden)

        return remember

    def _keep_heads(self, layer: int, forward: Forward) -> Forward:
        def post_norm(heads: Tensor) -> Tensor:
            self.contraction.heads[layer] = heads.detach().flatten(0, 1)
            return forward(heads)

        return post_norm

    def _listen(self, layer: int, position: int, forward: Forward) -> Forward:
        norm = self.ports.layers[layer].attention_norm
        # told apart now: while the run lasts, the norm's own forward is replaced
        closed, tap = closed_form(norm), self._tap_projection(layer, position)

        def projection(hidden: Tensor) -> Tensor:
            self.streams.setdefault(norm, hidden)
            output = self.ports.widen(position, forward(hidden.detach()))
            tapped: Tensor = _Tapped.apply(  # type: ignore[no-untyped-call]
                self.streams[norm], output, lambda *grads: tap(closed, *grads)
            )
            return tapped.clone() if self.ports.clips else tapped

        return projection

    def _listen_mlp(self, layer: int, forward: Branch) -> Branch:
        """In the last layer only where an answer is: nothing reads the rest."""
        tap, norm = self._tap_mlp(layer), self.ports.layers[layer].mlp_norm

        def mlp(hidden: Tensor) -> Output:
            self.streams.setdefault(norm, hidden)
            hidden = hidden.view_as(hidden)  # this use alone: the stream itself goes on elsewhere
            hidden.register_hook(tap)
            if layer < self.graph.n_layers - 1:
                return forward(hidden)
            rows = torch.arange(len(hidden), device=hidden.device)
            result = forward(hidden[rows, self.batch.last].unsqueeze(1))
            answers = output_of(result).view(len(hidden), 1, -1)
            return with_output(result, self.ports.writable(answers.expand_as(hidden)))

        return mlp

    # ---------------------------------------------------------------- what the taps do

    @torch.no_grad()
    def _tap_projection(self, layer: int, position: int) -> Tap:
        """A projection's output gradient, split by reader and taken back through the norm.

        Returns the gradient at the residual stream in front of the norm, the sum over its readers.
        """
        block, norm = self.graph.attention_block(layer), self.ports.layers[layer].attention_norm

        def tap(closed: ClosedNorm | None, grad: Tensor, output: Tensor) -> Tensor:
            stream = self.streams[norm].detach().flatten(0, 1)
            found = None if closed is None else closed.statistics(stream.unsqueeze(0))
            total = torch.zeros_like(stream)
            parts = zip(
                self.ports.split(position, grad), self.ports.split(position, output), strict=True
            )
            for part, made in parts:
                projection = self.ports.projections(layer)[part.port]
                own = slice(part.first, part.first + len(projection.weight))
                inputs = self.contraction.room(block, own)
                if closed is None or found is None:
                    torch.bmm(part.values, projection.weight.transpose(1, 2), out=inputs)
                    inputs.copy_(vjp(norm, stream, inputs))
                else:
                    x = stream.unsqueeze(0)
                    pull_back(closed, projection, made.values, x, found, part.values, inputs)
                total += inputs.sum(dim=0)
            return total.view(*self.batch.clean.shape, -1)

        return tap

    def _tap_mlp(self, layer: int) -> Callable[[Tensor], None]:
        """An MLP's input gradient taken back through the norm in front of it."""
        block, norm = self.graph.mlp_block(layer), self.ports.layers[layer].mlp_norm

        def tap(grad: Tensor) -> None:
            grads = grad.reshape(1, -1, self.graph.d_model)
            stream = self.streams[norm].detach().view(-1, self.graph.d_model)
            self.contraction.room(block, slice(0, 1)).copy_(vjp(norm, stream, grads))

        return tap

    def _tap_logits(self, grad: Tensor) -> None:
        """The gradient at the residual stream in front of the final norm, at answer positions."""
        self.contraction.add_logits(grad.unsqueeze(0))


if TYPE_CHECKING:

    class _Context(FunctionCtx):
        """What a forward leaves for its backward."""

        saved_tensors: tuple[Tensor, ...]
        tap: Callable[[Tensor, Tensor], Tensor]

else:  # torch makes a class of its own for each function
    _Context = FunctionCtx


class _Tapped(Function):
    """A frozen projection of a normed stream whose backward pass is the tap's."""

    @staticmethod
    def forward(
        ctx: _Context, stream: Tensor, output: Tensor, tap: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        ctx.tap = tap
        ctx.save_for_backward(output)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
        (output,) = ctx.saved_tensors
        return ctx.tap(grad, output), None, None
