"""Multiple choice as MIB's copycolors: the question says the answer, the letter is asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from string import ascii_uppercase

from circuitprune.data.tasks.lexicon import words
from circuitprune.data.tasks.pair import CHOICES, Pair, choose_corruption
from circuitprune.errors import DataError

COLORS = words("red orange yellow green blue purple brown black white gray pink")
OBJECTS = words(
    """apples bananas carrots coconuts lemons grapes cherries tomatoes peppers strawberries limes
    oranges peaches pumpkins radishes beets eggplants cucumbers olives walnuts acorns pebbles
    crayons candles curtains blankets pillows ribbons buttons scarves gloves socks boots umbrellas
    bicycles kites balloons marbles bricks tiles bottles baskets notebooks envelopes lanterns"""
)
"""Plurals; the question gives them their colour."""

SYMBOL, POSITION, LETTER = "symbol", "answer_position", "random_letter"
KINDS = (SYMBOL, POSITION, LETTER, f"{POSITION}_{LETTER}")


def question(asked: str, labels: Sequence[str], texts: Sequence[str]) -> str:
    """MIB's form of a question with choices; the next token is a label."""
    lines = (f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
    return "\n".join((f"Question: {asked}", *lines, "Answer:"))


@dataclass(frozen=True)
class Mcqa:
    """After "Question: Limes are green. What color are limes? A. red ... Answer:", a letter.

    - `symbol`: numbers 1 to 4 in the place of letters, and the right number as the wrong answer.
    - `answer_position`: the right colour changes places with another.
    - `random_letter`: other letters.
    - `answer_position_random_letter`: both.

    `answers` is the right letter, spelled as MIB tokenises it, without a space. `wrong` is what is
    right in the corrupt prompt. Since nobody takes a number for a letter, accuracy is counted among
    all choices of the prompt (`meta`). The group is the colour.

    Source: Mueller et al. 2025, "MIB" (arXiv:2504.13151), `copycolors_mcqa`.
    """

    objects: tuple[str, ...] = OBJECTS
    colors: tuple[str, ...] = COLORS
    n_choices: int = 4
    before: str = ""
    """What stands in front of an answer, such as a space."""

    name = "mib_mcqa"
    corruptions = KINDS

    def __post_init__(self) -> None:
        if not 2 <= self.n_choices <= min(9, len(set(self.colors))):
            raise DataError(
                f"mib_mcqa needs 2 to 9 choices and as many colours, got {self.n_choices} and "
                f"{len(set(self.colors))}"
            )

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, the right answer at each place in turn; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        item, texts = rng.choice(self.objects), rng.sample(self.colors, self.n_choices)
        place = number % self.n_choices
        asked = f"{item.capitalize()} are {texts[place]}. What color are {item}?"
        letters = list(ascii_uppercase[: self.n_choices])
        labels, others, moved = letters, list(texts), place
        if kind == SYMBOL:
            labels = [str(i + 1) for i in range(self.n_choices)]
        if LETTER in kind:
            labels = sorted(rng.sample(ascii_uppercase[self.n_choices :], self.n_choices))
        if POSITION in kind:
            moved = rng.choice([i for i in range(self.n_choices) if i != place])
            others[place], others[moved] = texts[moved], texts[place]
        return Pair(
            id=f"mib_mcqa-{number:06d}",
            clean=question(asked, letters, texts),
            corrupt=question(asked, labels, others),
            answers=(self.before + letters[place],),
            wrong=(self.before + labels[moved],),
            kind=kind,
            group=texts[place],
            meta={"item": item, CHOICES: "|".join(self.before + letter for letter in letters)},
        )
