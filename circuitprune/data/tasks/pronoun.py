"""Gendered pronoun: "So Mary is a really great friend, isn't" is followed by " she"."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.pair import Pair, choose_corruption

TEMPLATES = (
    "So {name} is a really {adjective} {role}, isn't",
    "Everyone says that {name} was a very {adjective} {role}, wasn't",
    "My {role} {name} is {mood} today, isn't",
    "I think {name} will visit the {place} today, won't",
    "The {role} {name} is {mood} because",
    "Last week {name} went to the {place} because",
    "At the {place}, {name} looked {mood} because",
    "It was late at the {place}, so {name} said that",
)


@dataclass(frozen=True)
class Pronoun:
    """A first name, then the pronoun that goes with it.

    Female and male names in turn. The corruption `other_gender` replaces the name by one of the
    other gender. The group is the template.

    Source: Mathwin et al. 2023, "Identifying a Preliminary Circuit for Predicting Gendered Pronouns
    in GPT-2 Small"; also a task of Bhaskar et al. 2024, "Finding Transformer Circuits with Edge
    Pruning" (arXiv:2406.16778).
    """

    female: tuple[str, ...] = lexicon.FEMALE
    male: tuple[str, ...] = lexicon.MALE
    places: tuple[str, ...] = lexicon.PLACES
    roles: tuple[str, ...] = lexicon.ROLES
    templates: tuple[str, ...] = TEMPLATES

    name = "pronoun"
    corruptions = ("other_gender",)

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, alternately a female and a male name; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        names = rng.choice(self.female), rng.choice(self.male)
        gender = number % 2
        which = rng.randrange(len(self.templates))
        words = {
            "place": rng.choice(self.places),
            "role": rng.choice(self.roles),
            "adjective": rng.choice(lexicon.ADJECTIVES),
            "mood": rng.choice(lexicon.MOODS),
        }
        template = self.templates[which]
        return Pair(
            id=f"pronoun-{number:06d}",
            clean=template.format(name=names[gender], **words),
            corrupt=template.format(name=names[1 - gender], **words),
            answers=((" she",), (" he",))[gender],
            wrong=((" he",), (" she",))[gender],
            kind=kind,
            group=f"template-{which:02d}",
            meta={"name": names[gender]},
        )
