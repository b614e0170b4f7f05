"""Indirect object identification: "When Mary and John went to the store, John gave a drink to"."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.errors import DataError

TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} gave a {object} to",
    "After {A} and {B} went to the {place}, {S} handed a {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "While {A} and {B} were commuting to the {place}, {S} passed a {object} to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give it to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give the {object} to",
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Then, {A} and {B} were thinking about going to the {place}. {S} wanted to give a {object} to",
    "Then, {A} and {B} had a long argument, and afterwards {S} said to",
    "Then in the morning, {A} and {B} went to the {place}. {S} gave a {object} to",
    "The {place} {A} and {B} went to had a {object}. {S} gave it to",
    "Friends {A} and {B} found a {object} at the {place}. {S} gave it to",
    "After the lunch, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Afterwards, {A} and {B} went to the {place}. {S} sold a {object} to",
    "Yesterday {A} and {B} met at the {place}, and {S} showed a {object} to",
)
"""`{A}` and `{B}` are the two names in order, `{S}` is the one that acts (the subject)."""


@dataclass(frozen=True)
class Ioi:
    """Two names, one of them acts: the other one receives.

    Half of the pairs name the indirect object first (`ABBA`), half the subject (`BABA`).

    - `abc`: the second mention of the subject becomes a third name, so no name occurs twice and
      neither of the first two is preferred.
    - `s2_io_flip`: the second mention of the subject becomes the indirect object, so the roles and
      the answer swap.

    The group is the template. Source: Wang et al. 2022, "Interpretability in the Wild"
    (arXiv:2211.00593).
    """

    names: tuple[str, ...] = lexicon.FEMALE + lexicon.MALE
    places: tuple[str, ...] = lexicon.PLACES
    objects: tuple[str, ...] = lexicon.OBJECTS
    templates: tuple[str, ...] = TEMPLATES

    name = "ioi"
    corruptions = ("abc", "s2_io_flip")

    def __post_init__(self) -> None:
        if len(set(self.names)) < 3:
            raise DataError(f"ioi needs at least 3 different names, got {self.names}")

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, alternately ABBA and BABA; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        receiver, subject, third = rng.sample(self.names, 3)
        order = ("ABBA", "BABA")[number % 2]
        first, second = (receiver, subject) if order == "ABBA" else (subject, receiver)
        which = rng.randrange(len(self.templates))
        place, item = rng.choice(self.places), rng.choice(self.objects)
        fill = partial(self.templates[which].format, A=first, B=second, place=place, object=item)
        return Pair(
            id=f"ioi-{number:06d}",
            clean=fill(S=subject),
            corrupt=fill(S=third if kind == "abc" else receiver),
            answers=(f" {receiver}",),
            wrong=(f" {subject}",),
            kind=kind,
            group=f"template-{which:02d}",
            meta={"order": order, "io": receiver, "s": subject},
            tags=names_tagged(fill(S=subject), receiver, subject),
        )


def names_tagged(prompt: str, receiver: str, subject: str) -> dict[str, tuple[int, int]]:
    """Where the indirect object (`IO`) and the two mentions of the subject (`S1`, `S2`) stand."""

    def places(name: str) -> list[tuple[int, int]]:
        return [found.span() for found in re.finditer(rf"\b{re.escape(name)}\b", prompt)]

    first, *_, last = places(subject)
    return {"IO": places(receiver)[0], "S1": first, "S2": last}
