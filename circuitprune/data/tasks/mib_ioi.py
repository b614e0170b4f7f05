"""Indirect object identification as MIB has it, with its eight counterfactuals."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.ioi import names_tagged
from circuitprune.data.tasks.lexicon import words
from circuitprune.data.tasks.pair import Pair, choose_corruption
from circuitprune.errors import DataError

TEMPLATES = ("After the lunch, {A} and {B} went to the {place}. {C} gave {article} {object} to",)
PLACES = words("store garden restaurant school hospital office house station")
OBJECTS = words("ring kiss bone basketball computer necklace drink snack")

RANDOM, S1_IO, S2_IO, BOTH = "random_names", "s1_io_flip", "s2_io_flip", "s1_ioi_flip_s2_ioi_flip"
FLIPS = {S1_IO: "s1_ioi_flip", S2_IO: "s2_ioi_flip", BOTH: BOTH}
"""The three flips, and how MIB spells each behind `random_names_`."""
KINDS = (S2_IO, "abc", S1_IO, BOTH, RANDOM, *(f"{RANDOM}_{flip}" for flip in FLIPS.values()))
"""MIB's eight, its default first."""


@dataclass(frozen=True)
class MibIoi:
    """IOI of the MIB benchmark: its template, and what it changes in the corrupt prompt.

    - `abc`: the second mention of the subject is a third name.
    - `s1_io_flip`: the first two names change places.
    - `s2_io_flip`: the second mention of the subject is the indirect object, so the answer turns.
    - `s1_ioi_flip_s2_ioi_flip`: both, so every name stands where the other did.
    - `random_names`: two other names stand for the two; with a flip in its name, flipped besides.

    The wrong answer is the subject. The group is the template. MIB has more templates, and about a
    hundred names of its own: its rows come in by `circuitprune convert`.

    Source: Mueller et al. 2025, "MIB" (arXiv:2504.13151).
    """

    names: tuple[str, ...] = lexicon.FEMALE + lexicon.MALE
    places: tuple[str, ...] = PLACES
    objects: tuple[str, ...] = OBJECTS
    templates: tuple[str, ...] = TEMPLATES

    name = "mib_ioi"
    corruptions = KINDS

    def __post_init__(self) -> None:
        if len(set(self.names)) < 5:
            raise DataError(f"mib_ioi needs at least 5 different names, got {self.names}")

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, alternately ABBA and BABA; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        receiver, subject, third, *others = rng.sample(self.names, 5)
        order = ("ABBA", "BABA")[number % 2]
        first, second = (receiver, subject) if order == "ABBA" else (subject, receiver)
        which, place = rng.randrange(len(self.templates)), rng.choice(self.places)
        item = rng.choice(self.objects)
        article = "an" if item[0] in "aeiou" else "a"

        def fill(names: tuple[str, str, str]) -> str:
            a, b, c = names
            return self.templates[which].format(
                A=a, B=b, C=c, place=place, object=item, article=article
            )

        new = dict(zip((receiver, subject), others, strict=True))
        return Pair(
            id=f"mib_ioi-{number:06d}",
            clean=fill((first, second, subject)),
            corrupt=fill(changed((first, second, subject), kind, third, new)),
            answers=(f" {receiver}",),
            wrong=(f" {subject}",),
            kind=kind,
            group=f"template-{which:02d}",
            meta={"order": order, "io": receiver, "s": subject},
            tags=names_tagged(fill((first, second, subject)), receiver, subject),
        )


def changed(
    names: tuple[str, str, str], kind: str, third: str, new: dict[str, str]
) -> tuple[str, str, str]:
    """The three names of the corrupt prompt.

    Args:
        names: First, second, and the subject again.
        kind: Of `KINDS`.
        third: What `abc` puts in the place of the subject's second mention.
        new: What `random_names` puts in the place of each.
    """
    if kind == "abc":
        return names[0], names[1], third
    first, second, subject = (new[name] for name in names) if kind.startswith(RANDOM) else names
    flip = kind.removeprefix(RANDOM).removeprefix("_")
    receiver = second if subject == first else first
    if flip in (S1_IO, FLIPS[S1_IO], BOTH):
        first, second = second, first
    if flip in (S2_IO, FLIPS[S2_IO], BOTH):
        subject = receiver
    return first, second, subject
