"""Greater-than: "The war lasted from the year 1732 to the year 17" is followed by 33 to 99."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import NamedTuple

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.pair import OneToken, Pair, choose_corruption
from circuitprune.errors import DataError

TEMPLATES = (
    "The {noun} lasted from the year {XX}{YY} to the year {end}",
    "The {noun} started in the year {XX}{YY} and ended in the year {end}",
    "The {noun} went on from {XX}{YY} to {end}",
    "In the year {XX}{YY} the {noun} began, and it ended in the year {end}",
)

CORRUPT_YEAR = "01"


class Cut(NamedTuple):
    """How far the end year is given, and how far an answer goes on."""

    given: int
    """Digits of the start year YY that stand behind the century in the prompt."""
    asked: int
    """Digits of an answer, which must be one token."""


CUTS = (Cut(0, 2), Cut(0, 1), Cut(1, 1))
"""17|32 as GPT-2 cuts years, 1|7|3|2 as Gemma, Qwen and SmolLM2 do, 173|2 as Llama 3."""


@dataclass(frozen=True)
class GreaterThan:
    """An event starts in a year of a century: it ends later in that century.

    The prompt ends with the century. `answers` are all two-digit strings above YY, `wrong` all from
    00 to YY; they follow without a space. The corruption `year_01` sets YY to 01, after which
    nearly every year is possible. The group is the noun.

    Where a tokenizer cuts years otherwise (`CUTS`), an answer is still its next token: right if
    every year that goes on so is above YY, wrong if none is, and in neither set if that stays open,
    as after 3 for a start in 1732. Start years that leave a set empty are not drawn.

    Raises:
        DataError: a year outside of 02 to 98, or none with a right and a wrong answer.

    Source: Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv:2305.00586).
    """

    nouns: tuple[str, ...] = lexicon.EVENTS
    centuries: tuple[str, ...] = lexicon.CENTURIES
    years: tuple[str, ...] = lexicon.TWO_DIGITS[2:99]
    """Start years YY, a subset of 02 to 98."""
    templates: tuple[str, ...] = TEMPLATES
    cut: Cut = CUTS[0]
    """What `fitted` sets."""

    name = "greater_than"
    corruptions = ("year_01",)

    def __post_init__(self) -> None:
        outside = sorted(set(self.years) - set(lexicon.TWO_DIGITS[2:99]))
        if outside:
            raise DataError(f"greater_than starts in years 02 to 98, got {', '.join(outside)}")
        if not self._drawn():
            years = ", ".join(self.years) or "none"
            raise DataError(
                f"greater_than needs a start year after which a digit says that the end is later, "
                f"and another that it is not; got {years}, cut as {self.cut}"
            )

    def fitted(self, one_token: OneToken) -> "GreaterThan":
        """The task with years cut as this tokenizer cuts most of them."""

        def fits(cut: Cut) -> int:
            kept = 0
            for given in {year[: cut.given] for year in self.years}:
                rest = [year[cut.given :] for year in self.years if year.startswith(given)]
                asked = [digits[: cut.asked] for digits in rest]
                for century in self.centuries:
                    whole = one_token(f"in the year {century}{given}", asked)
                    kept += sum(digits in whole for digits in asked)
            return kept

        return replace(self, cut=max(CUTS, key=fits))

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, start years uniform; see `Task.pairs`."""
        kind, years = choose_corruption(self, corruption), self._drawn()
        return (self._pair(rng, number, kind, years) for number in count())

    def _pair(self, rng: Random, number: int, kind: str, years: tuple[str, ...]) -> Pair:
        noun, century, year = map(rng.choice, (self.nouns, self.centuries, years))
        template = rng.choice(self.templates)
        end = century + year[: self.cut.given]
        answers, wrong = self._sides(year)
        return Pair(
            id=f"greater_than-{number:06d}",
            clean=template.format(noun=noun, XX=century, YY=year, end=end),
            corrupt=template.format(noun=noun, XX=century, YY=CORRUPT_YEAR, end=end),
            answers=answers,
            wrong=wrong,
            kind=kind,
            group=noun,
            meta={"century": century, "year": year},
        )

    def _drawn(self) -> tuple[str, ...]:
        """The start years after which some answer is right and some is wrong."""
        return tuple(year for year in self.years if all(self._sides(year)))

    def _sides(self, year: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What leads to later years only, and what leads to none."""
        given = year[: self.cut.given]
        texts = lexicon.DIGITS if self.cut.asked == 1 else lexicon.TWO_DIGITS
        right = tuple(text for text in texts if (given + text).ljust(2, "0") > year)
        wrong = tuple(text for text in texts if (given + text).ljust(2, "9") <= year)
        return right, wrong
