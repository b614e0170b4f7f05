"""Pairs that are there already, as a task: from a file, or made in Python."""

from collections.abc import Iterator, Sequence
from random import Random

from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.errors import DataError

ALL_KINDS = "all"


class GivenPairs:
    """Each pair once, in an order drawn from the generator given.

    `corruptions` are `all` (the default) and every `kind` among them; choosing a kind keeps only
    its pairs.

    Args:
        pairs: At least one.
        name: What the task is called.

    Raises:
        DataError: no pairs, or something that is no `Pair`.
    """

    def __init__(self, pairs: Sequence[Pair], name: str = "pairs") -> None:
        odd = [pair for pair in pairs if not isinstance(pair, Pair)]
        if odd or not pairs:
            what = f"got {odd[0]!r}" if odd else "got none"
            raise DataError(f"expected a list of circuitprune.data.tasks.Pair, {what}")
        self.name, self.all_pairs = name, tuple(pairs)
        kinds = dict.fromkeys(pair.kind for pair in self.all_pairs if pair.kind)
        self.corruptions = (ALL_KINDS, *(kind for kind in kinds if kind != ALL_KINDS))

    def __len__(self) -> int:
        return len(self.all_pairs)

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """The pairs of one kind, or all of them, shuffled; then it ends."""
        kind = choose_corruption(self, corruption)
        chosen = [pair for pair in self.all_pairs if kind in (ALL_KINDS, pair.kind)]
        rng.shuffle(chosen)
        return iter(chosen)
