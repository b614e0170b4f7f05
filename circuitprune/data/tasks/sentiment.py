"""Sentiment: "I thought this movie was awful, I hated it. ... This movie is", then " terrible"."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from circuitprune.data.tasks.lexicon import words
from circuitprune.data.tasks.pair import OneToken, Pair, choose_corruption
from circuitprune.errors import DataError

TEMPLATE = "I thought this movie was {adjective}, I {verb} it. \nConclusion: This movie is"

ADJECTIVES = (
    words(
        """amazing awesome beautiful brilliant exceptional extraordinary fabulous fantastic good
        great incredible lovely marvelous outstanding perfect remarkable spectacular superb terrific
        wonderful"""
    ),
    words(
        """awful bad disappointing disgusting dreadful horrendous horrible mediocre miserable
        offensive terrible unpleasant wretched"""
    ),
)
"""Positive ones, negative ones."""

VERBS = (
    words(
        """adored admired appreciated applauded approved cherished commended congratulated embraced
        endorsed enjoyed exalted favored glorified liked loved praised relished respected savored
        treasured valued welcomed"""
    ),
    words(
        """abhorred abominated condemned criticized denounced detested disdained disliked disparaged
        disrespected execrated hated loathed reviled scorned shunned spurned vilified"""
    ),
)
"""Positive ones, negative ones."""

CONCLUSIONS = (
    ("great", "terrible"),
    ("amazing", "awful"),
    ("awesome", "bad"),
    ("good", "horrible"),
    ("perfect", "disgusting"),
)
"""(positive, negative): their logits are compared in pairs."""

Sides = tuple[tuple[str, ...], tuple[str, ...]]
"""Positive words, negative words."""


@dataclass(frozen=True)
class Sentiment:
    """A review of an adjective and a verb, both good or both bad: so is the conclusion.

    ToyMovieReview. Positive and negative reviews in turn. The corruption `opposite` takes an
    adjective and a verb of the other sentiment. `answers` are the conclusions of the review's own
    sentiment, `wrong` those of the other. The metric is the paper's, the mean over pairs of
    conclusions of the right one's logit minus the wrong one's. The group is the adjective.

    Raises:
        DataError: no word of one kind.

    Source: Tigges et al. 2023, "Linear Representations of Sentiment in Large Language Models"
    (arXiv:2310.15154).
    """

    adjectives: Sides = ADJECTIVES
    verbs: Sides = VERBS
    conclusions: tuple[tuple[str, str], ...] = CONCLUSIONS
    template: str = TEMPLATE

    name = "sentiment"
    corruptions = ("opposite",)
    metric = "logit_diff"

    def __post_init__(self) -> None:
        needed = {
            "positive adjective": self.adjectives[0],
            "negative adjective": self.adjectives[1],
            "positive verb": self.verbs[0],
            "negative verb": self.verbs[1],
            "pair of conclusions": self.conclusions,
        }
        absent = [kind for kind, found in needed.items() if not found]
        if absent:
            raise DataError(
                f"sentiment has no {' and no '.join(absent)}; it uses words that the tokenizer "
                "keeps whole, so this tokenizer needs words of its own"
            )

    def fitted(self, one_token: OneToken) -> "Sentiment":
        """The words of one token, as in the paper: then all prompts align, word by word."""

        def whole(before: str, candidates: tuple[str, ...]) -> tuple[str, ...]:
            kept = one_token(before, [f" {word}" for word in candidates])
            return tuple(word for word in candidates if f" {word}" in kept)

        def both(slot: str, sides: Sides) -> Sides:
            before = self.template.partition(f" {{{slot}}}")[0]
            return whole(before, sides[0]), whole(before, sides[1])

        ends = whole(self.template, tuple(word for pair in self.conclusions for word in pair))
        return replace(
            self,
            adjectives=both("adjective", self.adjectives),
            verbs=both("verb", self.verbs),
            conclusions=tuple(pair for pair in self.conclusions if {*pair} <= {*ends}),
        )

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Endless pairs, alternately a positive and a negative review; see `Task.pairs`."""
        kind = choose_corruption(self, corruption)
        return (self._pair(rng, number, kind) for number in count())

    def _pair(self, rng: Random, number: int, kind: str) -> Pair:
        adjectives = [rng.choice(side) for side in self.adjectives]
        verbs = [rng.choice(side) for side in self.verbs]
        reviews = [
            self.template.format(adjective=adjective, verb=verb)
            for adjective, verb in zip(adjectives, verbs, strict=True)
        ]
        conclusions = [tuple(f" {pair[side]}" for pair in self.conclusions) for side in (0, 1)]
        side = number % 2
        return Pair(
            id=f"sentiment-{number:06d}",
            clean=reviews[side],
            corrupt=reviews[1 - side],
            answers=conclusions[side],
            wrong=conclusions[1 - side],
            kind=kind,
            group=adjectives[side],
            meta={
                "sentiment": ("positive", "negative")[side],
                "adjective": adjectives[side],
                "verb": verbs[side],
            },
        )
