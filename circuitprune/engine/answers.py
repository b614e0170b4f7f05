"""The part of a gated run that concerns the answers' positions alone."""

from jaxtyping import Float, Int
from torch import Tensor


class Answers:
    """What the writers' deltas are where an answer is, and the gradients there.

    The readers of the logits, and most of the last layer's, look at these positions alone; so they
    are gathered from the stream once, each writer when first read.

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
        self.gradient = grid.new_empty(n_parts - 1, n_batch, d_model)
        self.gathered = 0

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
        return self.parts[writers.start + 1 : writers.stop + 1]

    def add_to(self, gradient: Float[Tensor, "writer token d_model"]) -> None:
        """Pass the gradients here on to the whole stream's."""
        grid = gradient.unflatten(1, self.grid.shape[1:3])
        for example, position in enumerate(self.positions):
            grid[:, example, position] += self.gradient[: len(grid), example]
        self.gradient.zero_()
