"""Subject-verb agreement: "The pilot near the doctors" is followed by a singular verb."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.pair import Pair, choose_corruption

TEMPLATES = (
    "The {subject} near the {other}",
    "The {subject} behind the {other}",
    "The {subject} next to the {other}",
    "The {subject} in front of the {other}",
    "The {subject} that the {other} saw",
    "I know that the {subject} by the {other}",
    "It is clear that the {subject} across from the {other}",
    "We heard that the {subject} with the {other}",
)


@dataclass(frozen=True)
class SubjectVerbAgreement:
    """The verb agrees with the subject, not with the nearer noun.

    Four numbers in turn: subject singular or plural, nearer noun singular or plural, so the nearer
    noun is no help. The corruption `number` flips the subject's number and nothing else. `answers`
    are the verbs of the right number, `wrong` those of the other. The group is the subject's
    singular.

    Source: Newman et al. 2021, "Refining Targeted Syntactic Evaluation" (arXiv:2104.09635).
    """

    nouns: tuple[tuple[str, str], ...] = lexicon.NOUNS
    others: tuple[tuple[str, str], ...] = lexicon.NOUNS
    verbs: tuple[tuple[str, str], ...] = lexicon.VERBS
    templates: tuple[str, ...] = TEMPLATES

    name = "sva"
    corruptions = ("number",)

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, the four combinations of number in turn; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        plural, other_plural = number % 2, number // 2 % 2
        subject = rng.choice(self.nouns)
        other = rng.choice([noun for noun in self.others if noun != subject])[other_plural]
        template = rng.choice(self.templates)
        verbs = [tuple(f" {forms[side]}" for forms in self.verbs) for side in (0, 1)]
        return Pair(
            id=f"sva-{number:06d}",
            clean=template.format(subject=subject[plural], other=other),
            corrupt=template.format(subject=subject[1 - plural], other=other),
            answers=verbs[plural],
            wrong=verbs[1 - plural],
            kind=kind,
            group=subject[0],
            meta={"number": ("singular", "plural")[plural], "other": other},
        )
