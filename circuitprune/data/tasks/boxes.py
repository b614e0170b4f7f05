"""Entity tracking: "The cup is in Box A, the key is in Box B. Box B contains the", then " key"."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from circuitprune.data.tasks.lexicon import words
from circuitprune.data.tasks.pair import OneToken, Pair, choose_corruption
from circuitprune.errors import DataError
from circuitprune.files.text import counted

OBJECTS = words(
    """ring bone basketball necklace drink book ball map key gift camera hat flower coin cup bag pen
    card chair guitar cake shirt car table clock machine plane boat train star tree door window
    truck apple bell brick bread brush coat cream crown cross desk dress drum egg engine fan file
    fish game glass jacket leaf magazine medicine milk mirror newspaper note painting paper pipe
    plant plate pot radio rock rope rose shell shoe suit tea television tie tube wheel wine"""
)
"""Common things, one token of most tokenizers after a space."""

HELD_OUT = words("computer snack letter ticket phone watch lamp knife bottle picture ship")
"""Things that are in no prompt of `boxes`: the ones of `boxes_held_out`."""

CORRUPTIONS = ("query", "objects", "labels", "random")
DESIDERATA = ("position", "object", "label")
"""What an answer may follow from another prompt, in the order in which the paper names them."""


@dataclass(frozen=True)
class Wording:
    """How a story is told, and what boxes are called in it."""

    segment: str
    """One box; the first stands behind "The", the others behind "the"."""
    query: str
    labels: tuple[str, ...]

    def text(self, story: "Story") -> str:
        """The story as a prompt."""
        segments = [
            self.segment.format(object=thing, label=label)
            for thing, label in zip(story.objects, story.labels, strict=True)
        ]
        return f"The {', the '.join(segments)}. {self.query.format(label=story.asked)}"

    def tags(self, story: "Story") -> dict[str, tuple[int, int]]:
        """Where that prompt names `object_1`, `label_1`, `object_2` and so on, and the question."""
        found, start = {}, len("The ")
        for number, (thing, label) in enumerate(zip(story.objects, story.labels, strict=True), 1):
            told = {"object": thing, "label": label}
            for part, word in told.items():
                at = start + len(self.segment.partition(f"{{{part}}}")[0].format(**told))
                found[f"{part}_{number}"] = (at, at + len(word))
            start += len(self.segment.format(**told)) + len(", the ")
        end = len(self.text(story))
        return {**found, "question": (end - len(self.query.format(label=story.asked)), end)}


WORDINGS = (
    Wording("{object} is in Box {label}", "Box {label} contains the", words("A B C D E F G H I J K "
    "L M N O P Q R S T U V W X Y Z")),
    Wording("{object} is in box {label}", "The box {label} has the", words("10 11 12 13 14 15 16 "
    "17 18 19 20")),
)  # fmt: skip
"""The paper's, and one for the tokenizer of the shipped models, which knows few words."""


@dataclass(frozen=True)
class Story:
    """Which thing is in which box, and which box is asked for."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]
    asked: str
    """A label: one of the boxes, or of none."""

    @property
    def index(self) -> int:
        """Position of the box that is asked for."""
        return self.labels.index(self.asked)

    @property
    def answer(self) -> str:
        """What is in it."""
        return self.objects[self.index]


@dataclass(frozen=True)
class Boxes:
    """Things in labelled boxes, and one box is asked for: its thing is the answer.

    - `query`: another of the boxes is asked for.
    - `objects`: each thing moves on to the next box, the last to the first.
    - `labels`: each label moves on so; the same label then is of another thing.
    - `random`: another story altogether, in which a box is asked for that is none of its own, as
      the paper corrupts for path patching.

    `wrong` are the things in the other boxes. The group is the answer.

    Raises:
        DataError: too few things or labels for the boxes.

    Source: Kim and Schuster 2023, "Entity Tracking in Language Models" (arXiv 2305.02363), in the
    form of Prakash et al. 2024 (arXiv 2402.14811), there of seven boxes.
    """

    objects: tuple[str, ...] = OBJECTS
    n_boxes: int = 3
    wordings: tuple[Wording, ...] = WORDINGS
    """The first whose labels the tokenizer knows is taken."""
    name: str = "boxes"

    corruptions = CORRUPTIONS
    metric = "logit_diff"

    def __post_init__(self) -> None:
        if self.n_boxes < 2:
            raise DataError(f"n_boxes must be at least 2, got {self.n_boxes}")
        if len({*self.objects}) < self.n_boxes:
            found = ", ".join(self.objects) or "none"
            raise DataError(
                f"{self.name} puts {counted(self.n_boxes, 'different thing')} into boxes and has "
                f"{found}; it uses words that the tokenizer keeps whole, so this tokenizer needs "
                "words of its own, or fewer boxes"
            )
        if not self.wordings or len(self.wordings[0].labels) <= self.n_boxes:
            raise DataError(
                f"{self.name} needs more labels than its {counted(self.n_boxes, 'box', 'boxes')} "
                "that are one token"
            )

    def fitted(self, one_token: OneToken) -> "Boxes":
        """The first wording with enough labels of one token, and the things of one token."""

        def whole(before: str, candidates: Sequence[str]) -> tuple[str, ...]:
            kept = one_token(before, [f" {word}" for word in candidates])
            return tuple(word for word in candidates if f" {word}" in kept)

        told = [
            replace(one, labels=whole(one.segment.partition(" {label}")[0], one.labels))
            for one in self.wordings
        ]
        enough = [one for one in told if len(one.labels) > self.n_boxes]
        things = whole("The", self.objects)
        return replace(self, objects=things, wordings=tuple(enough))

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, the boxes asked for in turn; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        story = self.story(rng, number % self.n_boxes)
        return self.told(number, kind, story, self.corrupted(rng, story, kind), story.answer)

    def story(self, rng: Random, index: int) -> Story:
        """A story of random things that asks for the box at a position."""
        objects = tuple(rng.sample(self.objects, self.n_boxes))
        free = [label for label in self.wordings[0].labels if label not in objects]
        labels = tuple(rng.sample(free, self.n_boxes))
        return Story(objects, labels, labels[index])

    def corrupted(self, rng: Random, story: Story, kind: str) -> Story:
        """Another story, by a kind of corruption."""
        if kind == "query":
            others = [label for label in story.labels if label != story.asked]
            return replace(story, asked=rng.choice(others))
        if kind == "objects":
            return replace(story, objects=story.objects[-1:] + story.objects[:-1])
        if kind == "labels":
            return replace(story, labels=story.labels[-1:] + story.labels[:-1])
        other = self.story(rng, story.index)
        return replace(other, asked=rng.choice(self._labels_without(other.labels)))

    def _labels_without(self, some: Collection[str]) -> list[str]:
        return [label for label in self.wordings[0].labels if label not in some]

    def desiderata(self, rng: Random, what: str) -> Iterator[Pair]:
        """Endless pairs whose answer is what the clean prompt's becomes if one thing is changed.

        Clean and corrupt prompt are two stories that ask for boxes at different positions. If what
        is taken from the corrupt one is

        - `position`: the answer is the clean story's thing at the corrupt one's position;
        - `object`: the corrupt story's own answer;
        - `label`: the clean story's thing in the box of the corrupt one's label, which stands at a
          third position there, so that this is not `position`.

        `wrong` are all other things of both stories.

        Raises:
            DataError: another name, two boxes, or too few things for two stories.

        Source: Prakash et al. 2024 (arXiv 2402.14811), the three desiderata of its DCM.
        """
        if what not in DESIDERATA:
            raise DataError(f"no desideratum {what!r}; there are {', '.join(DESIDERATA)}")
        if self.n_boxes < 3 or len(self.objects) < 2 * self.n_boxes:
            raise DataError(
                "desiderata tell three positions apart, and two stories by their things; there are "
                f"{counted(self.n_boxes, 'box', 'boxes')} and {counted(len(self.objects), 'thing')}"
            )
        return (self._desired(rng, number, what) for number in count())

    def _desired(self, rng: Random, number: int, what: str) -> Pair:
        here, there, third = rng.sample(range(self.n_boxes), 3)
        clean = self.story(rng, here)
        asked = rng.choice(self._labels_without(clean.labels))
        if what == "label":
            asked = clean.labels[third]
        labels = rng.sample(self._labels_without([asked]), self.n_boxes)
        labels[there] = asked
        others = [thing for thing in self.objects if thing not in clean.objects]
        corrupt = Story(tuple(rng.sample(others, self.n_boxes)), tuple(labels), asked)
        answers = {"position": clean.objects[there], "label": clean.objects[third]}
        answer = answers.get(what, corrupt.answer)
        return self.told(number, what, clean, corrupt, answer, *corrupt.objects)

    def told(
        self, number: int, kind: str, clean: Story, corrupt: Story, answer: str, *more: str
    ) -> Pair:
        """A pair of prompts that tell two stories; `more` are wrong answers too."""
        wrong = dict.fromkeys((*clean.objects, *more))
        return Pair(
            id=f"{self.name}-{number:06d}",
            clean=self.wordings[0].text(clean),
            corrupt=self.wordings[0].text(corrupt),
            answers=(f" {answer}",),
            wrong=tuple(f" {thing}" for thing in wrong if thing != answer),
            kind=kind,
            group=answer,
            meta={
                "asked": clean.asked,
                "index": str(clean.index),
                "objects": " ".join(clean.objects),
                "labels": " ".join(clean.labels),
            },
            tags=self.wordings[0].tags(clean),
        )
