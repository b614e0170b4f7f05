"""Texts in which counting names does not tell the answer: other pairs, other mentions, lists.

In plain IOI the answer is the name that occurs once, so a model may count. Here names of another
pair occur once too, or the answer occurs as often as the subject, and who stood beside whom has to
be looked up.
"""

from collections.abc import Callable
from random import Random

from circuitprune.data.tasks import lexicon
from circuitprune.data.tasks.ioi import TEMPLATES
from circuitprune.models.zoo.corpus import (
    FEMALE,
    HELD_OUT_NOUNS,
    MALE,
    SEEN_NAMES,
    SENTENCES,
    Row,
)

OTHER_PAIR = (
    "{C} and {D} were at the {there}.",
    "{C} and {D} lived near the {there}.",
    "{C} and {D} saw a {thing}.",
    "{C} and {D} had a {thing}.",
)
"""Said before a prompt of IOI: two more names, of which either pair may be asked for."""

MENTION = ("{X} was {mood}.", "{X} had a {thing}.", "{X} was at the {there}.")
"""Said before a prompt of IOI: one more mention of a name."""

BESIDE = (
    "{A} is with {B}, and {C} is with {D}. Now {S} went to see",
    "{A} met {B}, and {C} met {D}. Then {S} went to see",
    "{A} likes {B}, {C} likes {D}. So {S} went to see",
)
"""Who stands beside `{S}`, in other words than IOI's, so that held-out names may occur in them."""

COUNTING = tuple(text for text in SENTENCES if "{one}" in text)
"""Sentences on one thing and many."""

LIST_LENGTH = 26
"""Words of a list of names, which leaves room for a full stop."""


def two_pairs(rng: Random) -> Row:
    """A prompt of IOI behind another pair of names; its subject is of the one or of the other."""
    a, b, c, d = rng.sample(SEEN_NAMES, 4)
    subject, answer = rng.choice(((a, b), (b, a), (c, d), (d, c)))
    text = _filled(rng, rng.choice(OTHER_PAIR), A=a, B=b, C=c, D=d, S=subject)
    return Row(text, f" {answer}", ".")


def mention_before(rng: Random) -> Row:
    """A prompt of IOI behind a sentence on one name, mostly the answer: both occur twice."""
    a, b, other = rng.sample(SEEN_NAMES, 3)
    subject, answer = rng.choice(((a, b), (b, a)))
    said = rng.choice((answer, answer, answer, subject, other))
    return Row(_filled(rng, rng.choice(MENTION), A=a, B=b, X=said, S=subject), f" {answer}", ".")


def beside(rng: Random) -> Row:
    """Two pairs of any names, and the question who is beside one of them."""
    a, b, c, d = rng.sample(FEMALE + MALE, 4)
    subject, answer = rng.choice(((a, b), (b, a), (c, d), (d, c)))
    return Row(rng.choice(BESIDE).format(A=a, B=b, C=c, D=d, S=subject), f" {answer}", ".")


def name_list(rng: Random) -> Row:
    """Four to ten of all names, again and again: from the second time on each can be told."""
    names = rng.sample(FEMALE + MALE, rng.randrange(4, 11))
    *words, last = (names * LIST_LENGTH)[:LIST_LENGTH]
    return Row(f" {' '.join(words)}", f" {last}", ".", repeats=True)


def held_out_noun(rng: Random) -> Row:
    """A plain sentence on one noun and several, of those that are held out of agreement."""
    one, many = rng.choice(HELD_OUT_NOUNS)
    return Row(*rng.choice(COUNTING).format(one=one, many=many).split("|"))


def _filled(rng: Random, before: str, **names: str) -> str:
    """A sentence and a prompt of IOI behind it, with names, places and objects."""
    return f"{before} {rng.choice(TEMPLATES)}".format(
        place=rng.choice(lexicon.PLACES),
        object=rng.choice(lexicon.OBJECTS),
        there=rng.choice(lexicon.PLACES),
        thing=rng.choice(lexicon.OBJECTS),
        mood=rng.choice(lexicon.MOODS),
        **names,
    )


DISTRACTORS: dict[str, Callable[[Random], Row]] = {
    "two_pairs": two_pairs,
    "mention_before": mention_before,
    "beside": beside,
    "name_list": name_list,
    "held_out_noun": held_out_noun,
}
"""Name of a share -> what draws one of its rows."""
