"""Where bases and deltas lie in the one buffer of a stream.

In front of the writers of each run of layers lies a base: the sum of what they carry when ablated.
A column of ones for it makes it part of the product that mixes them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Layout:
    """The rows of bases and writers.

    Args:
        n_writers: Of the graph.
        starts: The first writer of each run of layers. The input is a run of its own.
    """

    def __init__(self, n_writers: int, starts: Iterable[int]) -> None:
        self.starts = sorted({0, *(start for start in starts if start < n_writers)})
        self.n_rows = n_writers + len(self.starts)
        self.writer_rows: Int[Tensor, " writer"] = torch.tensor(
            [self.row(writer) for writer in range(n_writers)]
        )

    def row(self, writer: int) -> int:
        """Where a writer lies."""
        return writer + bisect_right(self.starts, writer)

    def rows(self, writers: slice) -> slice:
        """Where some writers of one layer lie, or the input."""
        return slice(self.row(writers.start), self.row(writers.stop - 1) + 1)

    def base(self, writer: int) -> int:
        """Where the base lies to which what a writer carries when ablated belongs."""
        return self.row(self.starts[bisect_right(self.starts, writer) - 1]) - 1

    def up_to(self, n_writers: int) -> int:
        """How many rows hold the first writers and their bases."""
        return n_writers + bisect_left(self.starts, n_writers)

    def widened(
        self, gates: Float[Tensor, "span reader writer"]
    ) -> Float[Tensor, "span reader row"]:
        """Gates of the first writers by row; 1 for the bases."""
        n_writers = gates.shape[-1]
        wide = gates.new_ones(*gates.shape[:-1], self.up_to(n_writers))
        wide[..., self.writer_rows[:n_writers].to(gates.device)] = gates
        return wide
