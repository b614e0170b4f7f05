"""Coloured objects: "I see a red pen, a blue cup, ... What color is the cup?", then " Blue"."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from circuitprune.data.tasks.lexicon import words
from circuitprune.data.tasks.pair import CHOICES, Pair, choose_corruption
from circuitprune.errors import DataError

SHOT = (
    "Q: On the table, I see an orange textbook, a red puzzle, and a purple cup. What color is the "
    "textbook?\nA: Orange\n"
)
TEMPLATE = "Q: On the {place}, {seen} {0}, {1}, and {2}. What color is the {asked}?\nA:"
PLACES = words("table desk floor")
SEEN = ("there is", "you see", "I see")
OBJECTS = words(
    """pencil notebook pen cup plate jug mug puzzle textbook leash necklace bracelet bottle ball
    envelope lighter bowl"""
)
COLORS = words("red orange yellow green blue purple brown black")


@dataclass(frozen=True)
class ColoredObjects:
    """Three objects with their colours, behind one worked example: the colour of one is asked for.

    - `other_object`: another of the three is asked for, and its colour is the wrong answer.
    - `other_colors`: the object asked for and another change colours.

    The metric is the paper's, the logit of the right colour minus that of the corrupt prompt's;
    accuracy is counted among the three colours. The group is the object asked for.

    Source: Merullo et al. 2024, "Circuit Component Reuse Across Tasks in Transformer Language
    Models" (arXiv:2310.08744); the prompt follows BIG-bench.
    """

    objects: tuple[str, ...] = OBJECTS
    colors: tuple[str, ...] = COLORS
    places: tuple[str, ...] = PLACES
    shot: str = SHOT
    """The worked example; may be empty."""

    name = "colored_objects"
    corruptions = ("other_object", "other_colors")
    metric = "logit_diff"

    def __post_init__(self) -> None:
        if len({*self.objects}) < 3 or len({*self.colors}) < 3:
            raise DataError("colored_objects needs at least 3 objects and 3 colours")

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, each place asked for in turn; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        objects, colors = rng.sample(self.objects, 3), rng.sample(self.colors, 3)
        asked = number % 3
        other = rng.choice([i for i in range(3) if i != asked])
        about = {"place": rng.choice(self.places), "seen": rng.choice(SEEN)}

        def prompt(colors: list[str], asked: int) -> str:
            things = [f"{_article(c)} {c} {o}" for c, o in zip(colors, objects, strict=True)]
            return self.shot + TEMPLATE.format(*things, asked=objects[asked], **about)

        changed = list(colors)
        changed[asked], changed[other] = colors[other], colors[asked]
        answers = [f" {color.capitalize()}" for color in colors]
        return Pair(
            id=f"colored_objects-{number:06d}",
            clean=prompt(colors, asked),
            corrupt=prompt(colors, other) if kind == "other_object" else prompt(changed, asked),
            answers=(answers[asked],),
            wrong=(answers[other],),
            kind=kind,
            group=objects[asked],
            meta={"object": objects[asked], CHOICES: "|".join(answers)},
        )


def _article(color: str) -> str:
    return "an" if color[0] in "aeiou" else "a"
