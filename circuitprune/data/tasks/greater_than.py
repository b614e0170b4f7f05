"""Greater-than: "The war lasted from the year 1732 to the year 17" is followed by 33 to 99."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.errors import DataError

TEMPLATES = (
    "The {noun} lasted from the year {XX}{YY} to the year {XX}",
    "The {noun} started in the year {XX}{YY} and ended in the year {XX}",
    "The {noun} went on from {XX}{YY} to {XX}",
    "In the year {XX}{YY} the {noun} began, and it ended in the year {XX}",
)

CORRUPT_YEAR = "01"


@dataclass(frozen=True)
class GreaterThan:
    """An event starts in a year of a century: it ends later in that century.

    `answers` are all two-digit strings above YY, `wrong` all from 00 to YY; they follow the prompt
    without a space. The corruption `year_01` sets YY to 01, after which nearly every year is
    possible. The group is the noun.

    Source: Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv:2305.00586).
    """

    nouns: tuple[str, ...] = lexicon.EVENTS
    centuries: tuple[str, ...] = lexicon.CENTURIES
    years: tuple[str, ...] = lexicon.TWO_DIGITS[2:99]
    """Start years YY, a subset of 02 to 98."""
    templates: tuple[str, ...] = TEMPLATES

    name = "greater_than"
    corruptions = ("year_01",)

    def __post_init__(self) -> None:
        outside = sorted(set(self.years) - set(lexicon.TWO_DIGITS[2:99]))
        if outside:
            raise DataError(f"greater_than starts in years 02 to 98, got {', '.join(outside)}")

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, start years uniform; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        noun, century, year = map(rng.choice, (self.nouns, self.centuries, self.years))
        template = rng.choice(self.templates)
        above = int(year) + 1
        return Pair(
            id=f"greater_than-{number:06d}",
            clean=template.format(noun=noun, XX=century, YY=year),
            corrupt=template.format(noun=noun, XX=century, YY=CORRUPT_YEAR),
            answers=lexicon.TWO_DIGITS[above:],
            wrong=lexicon.TWO_DIGITS[:above],
            kind=kind,
            group=noun,
            meta={"century": century, "year": year},
        )
