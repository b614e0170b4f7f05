"""How long work tells how far it is: by calls, and with no thought of who shows them, or how."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

Progress = Callable[[int, int], None]
"""`(done, total)`, in a unit that the work names; the total stays. May start above 0."""
Watch = Callable[[str, str], Progress]
"""`(what is being done, unit of its parts) -> Progress` of that piece of work."""


def silent(_done: int, _total: int) -> None:
    """Shows nothing."""


def unwatched(_what: str, _unit: str) -> Progress:
    """A `Watch` that shows nothing."""
    return silent


def told(items: Sequence[Item], progress: Progress) -> Iterator[Item]:
    """The items in order, telling how many are done with whenever the next one is asked for."""
    for done, item in enumerate(items):
        progress(done, len(items))
        yield item
    progress(len(items), len(items))


class Nested:
    """Progress of work whose parts tell of themselves: units of the whole, told more finely.

    Args:
        whole: What is told.

    Example:
        >>> nested = Nested(lambda done, total: print(done, "of", total))
        >>> nested(10, 40)
        10 of 40
        >>> nested.part(20)(1, 2)
        20 of 40
    """

    def __init__(self, whole: Progress) -> None:
        self.whole = whole
        self.done = self.total = 0

    def __call__(self, done: int, total: int) -> None:
        """Of the whole."""
        self.done, self.total = done, total
        self.whole(done, total)

    def part(self, size: int) -> Progress:
        """Of the part under way, which is `size` units of the whole and counts in its own."""
        return lambda done, total: self.whole(self.done + size * done // total, self.total)
