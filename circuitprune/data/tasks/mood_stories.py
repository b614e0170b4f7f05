"""Mood stories: "Mary loves parties. John hates parties. Mary feels very", then " excited"."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.errors import DataError

LOVES = "{name} loves parties, and joins them whenever possible."
HATES = "{name} hates parties, and avoids them whenever possible."
END = "One day, they were invited to a grand gala. {name} feels very"
MOODS = (("excited", "nervous"),)
"""(of who loves parties, of who hates them)."""


@dataclass(frozen=True)
class MoodStories:
    """One loves parties, one hates them, both are invited: how does one of them feel?

    ToyMoodStories. Who loves comes first in half of the pairs, and the end asks for each in turn.
    The corruption `other` asks for the other one. The group is the name that is asked for.

    Source: Tigges et al. 2023, "Linear Representations of Sentiment in Large Language Models"
    (arXiv:2310.15154); the two moods are read from its text.
    """

    names: tuple[str, ...] = lexicon.FEMALE + lexicon.MALE
    moods: tuple[tuple[str, str], ...] = MOODS

    name = "mood_stories"
    corruptions = ("other",)
    metric = "logit_diff"

    def __post_init__(self) -> None:
        if len({*self.names}) < 2:
            raise DataError(f"mood_stories needs at least 2 different names, got {self.names}")

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        people = rng.sample(self.names, 2)
        asked, loves_first = number % 2, number // 2 % 2 == 0
        told = [LOVES.format(name=people[0]), HATES.format(name=people[1])]
        story = " ".join(told if loves_first else told[::-1])
        moods = [tuple(f" {pair[side]}" for pair in self.moods) for side in (0, 1)]
        return Pair(
            id=f"mood_stories-{number:06d}",
            clean=f"{story} {END.format(name=people[asked])}",
            corrupt=f"{story} {END.format(name=people[1 - asked])}",
            answers=moods[asked],
            wrong=moods[1 - asked],
            kind=kind,
            group=people[asked],
            meta={"sentiment": ("positive", "negative")[asked]},
        )
