"""Stories to learn entity tracking from: every box is asked for, and words change places."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, count
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.boxes import (
    CORRUPTIONS,
    HELD_OUT,
    OBJECTS,
    WORDINGS,
    Boxes,
    Wording,
)
from circuitprune.data.tasks.pair import OneToken, Pair, choose_corruption

NAMES = lexicon.FEMALE + lexicon.MALE
WORDS = tuple(
    word
    for word in dict.fromkeys(
        (
            *OBJECTS, *lexicon.OBJECTS, *lexicon.PLACES, *lexicon.EVENTS, *lexicon.ROLES,
            *lexicon.ADJECTIVES, *lexicon.MOODS,
            *(form for forms in (*lexicon.NOUNS, *lexicon.VERBS) for form in forms),
        )
    )
    if word not in HELD_OUT
)  # fmt: skip
"""In the boxes of every other story, labelled with `NAMES`: too much to learn by heart."""


SHORT = tuple(replace(one, query="{label}") for one in WORDINGS)
"""The wordings with the label alone as the question."""
GIFTS = Boxes((*WORDS, *HELD_OUT), wordings=(Wording("{object} is for {label}", "{label}", NAMES),))
"""No boxes, but what is for whom, `HELD_OUT` too: a word that is never an answer in all of a
tuning ends as the likes of every other such word, which nothing could tell apart in a box."""


def called_by_label() -> tuple[Boxes, ...]:
    """Things as in `boxes`; any words in boxes called by any words; gifts. The label alone asks."""
    any_words = tuple(replace(one, labels=WORDS) for one in SHORT)
    return Boxes(wordings=SHORT), Boxes(WORDS, wordings=any_words), GIFTS


def in_whole() -> tuple[Boxes, ...]:
    """Things as in `boxes`, and any words in boxes with people's names; short, and whole; gifts."""
    strange = (
        Boxes(WORDS, wordings=tuple(replace(one, labels=NAMES) for one in wordings))
        for wordings in (SHORT, WORDINGS)
    )
    return Boxes(wordings=SHORT), *strange, Boxes(), GIFTS


@dataclass(frozen=True)
class BoxesLesson:
    """Stories of several kinds in turn; each box of each is asked for.

    The pairs of a story follow each other and are a group, so that a step which sees them together
    (`by_group` of a fine-tuning) learns what the label does, not which thing is likelier. No thing
    of `boxes_held_out` is in a box. Corruptions, answers and wrong answers as in `boxes`.

    Raises:
        DataError: as `Boxes`.
    """

    kinds: tuple[Boxes, ...] = field(default_factory=in_whole)
    name: str = "boxes_lesson"

    corruptions = CORRUPTIONS
    metric = "logit_diff"

    def fitted(self, one_token: OneToken) -> "BoxesLesson":
        """All kinds of story in words of one token."""
        return replace(self, kinds=tuple(one.fitted(one_token) for one in self.kinds))

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, one for each box of a story; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return chain.from_iterable(self._story(rng, number, kind) for number in count())

    def _story(self, rng: Random, number: int, kind: str) -> Iterator[Pair]:
        boxes = self.kinds[number % len(self.kinds)]
        first = boxes.story(rng, 0)
        for index, label in enumerate(first.labels):
            story = replace(first, asked=label)
            corrupt = boxes.corrupted(rng, story, kind)
            pair = boxes.told(number * boxes.n_boxes + index, kind, story, corrupt, story.answer)
            renamed = pair.id.replace(boxes.name, self.name)
            yield replace(pair, id=renamed, group=f"story {number}")
