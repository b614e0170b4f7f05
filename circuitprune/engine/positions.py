"""Where a reader looks at the residual stream: everywhere, or at the answers' positions alone.

`Everywhere` and `AtAnswers` have the same members, so what mixes and writes asks neither which one
it holds. The readers of the logits, and most of the last layer's, look at the answers alone.
"""

from jaxtyping import Float, Int, Shaped
from torch import Tensor, arange, stack

from circuitprune.engine.workspace import Loan


class AtAnswers:
    """The stream where an answer is: gathered once, each writer when it is first read.

    Args:
        grid: The stream's base and deltas.
        last: Position of each example's answer.
    """

    def __init__(
        self, grid: Float[Tensor, "part batch pos d_model"], last: Int[Tensor, " batch"]
    ) -> None:
        self.grid, self.positions = grid, last.tolist()
        n_parts, n_batch, _, d_model = grid.shape
        self.parts = grid.new_empty(n_parts, n_batch, d_model)
        self.delta = self.parts[1:]
        self.gathered = 0
        self.gradient = grid.new_empty(n_parts - 1, n_batch, d_model)
        self.elsewhere: Tensor | None = None
        """The gradient of the whole stream, from when on other positions matter too."""

    def up_to(self, stop: int) -> Float[Tensor, "part batch d_model"]:
        """The base and the first writers' deltas."""
        fresh = slice(self.gathered + 1, stop + 1)
        for example, position in enumerate(self.positions):
            self.parts[0, example] = self.grid[0, example, position]
            if self.gathered < stop:
                self.parts[fresh, example] = self.grid[fresh, example, position]
        self.gathered = max(self.gathered, stop)
        return self.parts[: stop + 1]

    def room(self, writers: slice) -> Float[Tensor, "writer batch d_model"]:
        """Where writers that nobody reads elsewhere are stored; all before them are gathered."""
        self.up_to(writers.start)
        self.gathered = max(self.gathered, writers.stop)
        return self.delta[writers]

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

    def begin_backward(self) -> None:
        """Start with an empty gradient, and with no other position of any weight."""
        self.gradient.zero_()
        self.elsewhere = None

    def gradients(self) -> Float[Tensor, "writer batch d_model"]:
        """The gradients of the deltas here; whoever adds to them calls `settle` afterwards."""
        return self.gradient

    def settle(self) -> None:
        """Pass the gradients on to the whole stream's, once other positions matter too."""
        if self.elsewhere is None:
            return
        grid = self.elsewhere.unflatten(1, self.grid.shape[1:3])
        for example, position in enumerate(self.positions):
            grid[:, example, position] += self.gradient[: len(grid), example]
        self.gradient.zero_()

    def join(self, whole: Float[Tensor, "writer token d_model"]) -> None:
        """Pass the gradients on to the whole stream's, now and whenever some are added."""
        if self.elsewhere is None:
            self.elsewhere = whole
            self.settle()


class Everywhere:
    """The stream at all positions: the run's own buffers.

    Args:
        parts: Base and deltas, in one buffer.
        answers: Its part at the answers, or None if all positions are asked for.
        n_dense: Writers that something reads at other positions than the answers'.
        loan: Lends the buffer for the gradients when a backward pass begins.
    """

    def __init__(
        self,
        parts: Float[Tensor, "part token d_model"],
        answers: AtAnswers | None,
        n_dense: int,
        loan: Loan,
    ) -> None:
        self.parts, self.delta = parts, parts[1:]
        self.answers, self.n_dense, self.loan = answers, n_dense, loan
        self.gradient: Tensor | None = None

    def up_to(self, stop: int) -> Float[Tensor, "part token d_model"]:
        """The base and the first writers' deltas."""
        return self.parts[: stop + 1]

    def room(self, writers: slice) -> Float[Tensor, "writer token d_model"]:
        """Where some writers are stored."""
        return self.delta[writers]

    def of(self, chunks: Shaped[Tensor, "*any token width"]) -> Shaped[Tensor, "*any token width"]:
        """The part of something by token that lies here: all of it."""
        return chunks

    def spread(
        self, chunks: Shaped[Tensor, "token head d_head"], shape: tuple[int, ...]
    ) -> Shaped[Tensor, "batch pos width"]:
        """The same values by example and position."""
        return chunks.reshape(shape)

    def begin_backward(self) -> None:
        """Start with an empty gradient; a graph may be walked more than once."""
        if self.gradient is None:
            self.gradient = self.loan.take(self.n_dense, *self.delta.shape[1:], like=self.delta)
        self.gradient.zero_()
        if self.answers is not None:
            self.answers.begin_backward()

    def gradients(self) -> Float[Tensor, "writer token d_model"]:
        """The gradients of the deltas, those at the answers included."""
        assert self.gradient is not None
        if self.answers is not None:
            self.answers.join(self.gradient)
        return self.gradient

    def settle(self) -> None:
        """Nothing is left to do: these are the gradients of the whole stream."""


Positions = Everywhere | AtAnswers
"""Where a reader looks, or where a writer is read."""
