"""Where a reader looks at the residual stream: everywhere, or at the answers' positions alone.

`Everywhere` and `AtAnswers` have the same members, so what mixes and writes asks neither which one
it holds. The readers of the logits, and most of the last layer's, look at the answers alone.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, arange, stack

from circuitprune.engine.dealing import WHOLE, dealt_to
from circuitprune.engine.workspace import Loan


class AtAnswers:
    """The stream where an answer is: gathered once, each writer when it is first read.

    Args:
        grid: The stream's bases and deltas.
        last: Position of each example's answer.
        base: The row of the one base that still grows while something is read here.
        dealt: The span of each token, or None if there is one.

    Attributes:
        pieces: The answers of each span.
    """

    def __init__(
        self,
        grid: Float[Tensor, "part batch pos d_model"],
        last: Int[Tensor, " batch"],
        base: int,
        dealt: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        here = None if dealt is None else dealt.gather(1, last.unsqueeze(1))
        self.pieces = WHOLE if here is None else dealt_to(here)
        self.grid, self.positions, self.base = grid, last.tolist(), base
        n_parts, n_batch, _, d_model = grid.shape
        self.parts = grid.new_empty(n_parts, n_batch, d_model)
        self.gathered = 0
        self.gradient = torch.empty_like(self.parts)
        self.elsewhere: Tensor | None = None
        """The gradient of the whole stream, from when on other positions matter too."""

    def up_to(self, stop: int) -> Float[Tensor, "part batch d_model"]:
        """The first bases and deltas."""
        self._gather(slice(self.gathered, stop))
        if self.base < stop:
            self._gather(slice(self.base, self.base + 1))
        self.gathered = max(self.gathered, stop)
        return self.parts[:stop]

    def _gather(self, rows: slice) -> None:
        if rows.start < rows.stop:
            for example, position in enumerate(self.positions):
                self.parts[rows, example] = self.grid[rows, example, position]

    def room(self, rows: slice) -> Float[Tensor, "writer batch d_model"]:
        """Where writers that nobody reads elsewhere are stored; all before them are gathered."""
        self.up_to(rows.start)
        self.gathered = max(self.gathered, rows.stop)
        return self.parts[rows]

    def of(self, chunks: Shaped[Tensor, "*any token width"]) -> Shaped[Tensor, "*any batch width"]:
        """The part of something by token that lies here."""
        grid = chunks.unflatten(-2, self.grid.shape[1:3])
        places = enumerate(self.positions)
        return stack([grid[..., i, position, :] for i, position in places], dim=-2)

    def spread(
        self, chunks: Shaped[Tensor, "batch head d_head"], shape: tuple[int, ...]
    ) -> Shaped[Tensor, "batch pos width"]:
        """What lies here among all positions, zeros elsewhere; undoes `of`."""
        whole = chunks.new_zeros(shape)
        whole[arange(len(whole), device=whole.device), self.positions] = chunks.flatten(1)
        return whole

    def among_all(
        self, readers: Float[Tensor, "reader batch d_head"]
    ) -> Float[Tensor, "reader token d_head"]:
        """What readers give here among all positions, zeros elsewhere."""
        n_batch, n_pos = self.grid.shape[1:3]
        rows = torch.tensor(self.positions) + torch.arange(n_batch) * n_pos
        whole = readers.new_zeros(len(readers), n_batch * n_pos, readers.shape[-1])
        return whole.index_copy(1, rows.to(readers.device), readers)

    def begin_backward(self) -> None:
        """Start with an empty gradient, and with no other position of any weight."""
        self.gradient.zero_()
        self.elsewhere = None

    def gradients(self) -> Float[Tensor, "part batch d_model"]:
        """The gradients of the parts here; whoever adds to them calls `settle` afterwards."""
        if self.elsewhere is not None:  # what was there has been passed on
            self.gradient.zero_()
        return self.gradient

    def settle(self) -> None:
        """Pass the gradients on to the whole stream's, once other positions matter too."""
        if self.elsewhere is None:
            return
        grid = self.elsewhere.unflatten(1, self.grid.shape[1:3])
        for example, position in enumerate(self.positions):
            grid[:, example, position] += self.gradient[: len(grid), example]

    def join(self, whole: Float[Tensor, "part token d_model"]) -> None:
        """Pass the gradients on to the whole stream's, now and whenever some are added."""
        if self.elsewhere is None:
            self.elsewhere = whole
            self.settle()


class Everywhere:
    """The stream at all positions: the run's own buffers.

    Args:
        parts: Bases and deltas, in one buffer.
        answers: Its part at the answers, or None if all positions are asked for.
        n_dense: Rows that something reads at other positions than the answers'.
        loan: Lends the buffer for the gradients when a backward pass begins.
        dealt: The span of each token, or None if there is one.

    Attributes:
        pieces: The tokens of each span.
    """

    def __init__(
        self,
        parts: Float[Tensor, "part token d_model"],
        answers: AtAnswers | None,
        n_dense: int,
        loan: Loan,
        dealt: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        self.pieces = WHOLE if dealt is None else dealt_to(dealt)
        self.parts, self.answers = parts, answers
        self.n_dense, self.loan = n_dense, loan
        self.gradient: Tensor | None = None

    def up_to(self, stop: int) -> Float[Tensor, "part token d_model"]:
        """The first bases and deltas."""
        return self.parts[:stop]

    def room(self, rows: slice) -> Float[Tensor, "writer token d_model"]:
        """Where some writers are stored."""
        return self.parts[rows]

    def of(self, chunks: Shaped[Tensor, "*any token width"]) -> Shaped[Tensor, "*any token width"]:
        """The part of something by token that lies here: all of it."""
        return chunks

    def spread(
        self, chunks: Shaped[Tensor, "token head d_head"], shape: tuple[int, ...]
    ) -> Shaped[Tensor, "batch pos width"]:
        """The same values by example and position."""
        return chunks.reshape(shape)

    def among_all(
        self, readers: Float[Tensor, "reader token d_head"]
    ) -> Float[Tensor, "reader token d_head"]:
        """The same values: they are at all positions."""
        return readers

    def begin_backward(self) -> None:
        """Start with an empty gradient; a graph may be walked more than once."""
        if self.gradient is None:
            self.gradient = self.loan.take(self.n_dense, *self.parts.shape[1:], like=self.parts)
        self.gradient.zero_()
        if self.answers is not None:
            self.answers.begin_backward()

    def gradients(self) -> Float[Tensor, "part token d_model"]:
        """The gradients of the parts, those at the answers included."""
        assert self.gradient is not None
        if self.answers is not None:
            self.answers.join(self.gradient)
        return self.gradient

    def settle(self) -> None:
        """Nothing is left to do: these are the gradients of the whole stream."""


Positions = Everywhere | AtAnswers
"""Where a reader looks, or where a writer is read."""
