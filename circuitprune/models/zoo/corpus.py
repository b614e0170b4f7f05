"""What `zoo/small` reads: prompts of the four tasks with answers, and sentences around them.

Some names, years and nouns never occur in the training prompts of a task. The model meets them
only in the other tasks and in the sentences below, which say who is a girl, which year comes next
and how many dogs there are, and it has to work out the task for them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import TypeVar

from circuitprune.data.tasks import TASKS, Pair, Task, lexicon
from circuitprune.data.tasks.greater_than import GreaterThan
from circuitprune.data.tasks.ioi import Ioi
from circuitprune.data.tasks.pronoun import Pronoun
from circuitprune.data.tasks.sva import SubjectVerbAgreement

Item = TypeVar("Item")


@dataclass(frozen=True)
class Row:
    """One training text: `prompt + answer + rest`."""

    prompt: str
    answer: str = ""
    """The word that counts extra in the loss; empty in a plain sentence."""
    rest: str = ""
    repeats: bool = field(default=False, kw_only=True)
    """Whether every word that was said before counts extra, too."""

    @property
    def text(self) -> str:
        """The whole row."""
        return self.prompt + self.answer + self.rest


# -------------------------------------------------------------------- entities

MORE_FEMALE = lexicon.words(
    """Lily Sue Mia Ava Ella Chloe Zoe Abigail Isabella Evelyn Amelia Madison Naomi Irene Beth
    Betty Judy Brenda Pamela Denise Tina Rita Paula Janet Monica Wendy Valerie Melanie"""
)
MORE_MALE = lexicon.words(
    """Tom Tim Bob Bill Jim Ben Sam Dan Max Leo Liam Logan Lucas Elijah Isaac Caleb Owen Evan
    Alan Louis Victor Martin Todd Craig Derek Marcus Juan Carlos"""
)
"""Names that `TASKS` does not use; the model learns them for the user's own pairs."""

FEMALE = lexicon.FEMALE + MORE_FEMALE
MALE = lexicon.MALE + MORE_MALE

HELD_OUT_IOI = lexicon.FEMALE[5::8] + lexicon.MALE[5::8]
HELD_OUT_FEMALE = lexicon.FEMALE[2::8]
HELD_OUT_MALE = lexicon.MALE[2::8]
HELD_OUT_EVENTS = lexicon.EVENTS[3::5]
HELD_OUT_CENTURIES = ("15",)
HELD_OUT_YEARS = lexicon.TWO_DIGITS[6:99:8]
HELD_OUT_NOUNS = lexicon.NOUNS[4::6]


def _without(words: Sequence[Item], held_out: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(word for word in words if word not in held_out)


HELD_OUT: dict[str, Task] = {
    "ioi": Ioi(names=HELD_OUT_IOI),
    "greater_than": GreaterThan(
        nouns=HELD_OUT_EVENTS, centuries=HELD_OUT_CENTURIES, years=HELD_OUT_YEARS
    ),
    "sva": SubjectVerbAgreement(nouns=HELD_OUT_NOUNS, others=HELD_OUT_NOUNS),
    "pronoun": Pronoun(female=HELD_OUT_FEMALE, male=HELD_OUT_MALE),
}
"""The four tasks on entities that their training prompts never mention."""

ALL: dict[str, Task] = {name: TASKS[name] for name in HELD_OUT}
"""The four tasks on all their entities; of others, such as sentiment, it knows not the words."""

SEEN_NAMES = _without(FEMALE + MALE, HELD_OUT_IOI)
"""Names in the prompts of IOI that training sees."""

SEEN: dict[str, Task] = {
    "ioi": Ioi(names=SEEN_NAMES),
    "greater_than": GreaterThan(
        nouns=_without(lexicon.EVENTS, HELD_OUT_EVENTS),
        centuries=_without(lexicon.CENTURIES, HELD_OUT_CENTURIES),
        years=_without(lexicon.TWO_DIGITS[2:99], HELD_OUT_YEARS),
    ),
    "sva": SubjectVerbAgreement(
        nouns=_without(lexicon.NOUNS, HELD_OUT_NOUNS),
        others=_without(lexicon.NOUNS, HELD_OUT_NOUNS),
    ),
    "pronoun": Pronoun(
        female=_without(FEMALE, HELD_OUT_FEMALE), male=_without(MALE, HELD_OUT_MALE)
    ),
}
"""The four tasks as training sees them."""

# -------------------------------------------------------------------- rows

SHARES: Mapping[str, float] = {"ioi": 0.3, "greater_than": 0.12, "sva": 0.12, "pronoun": 0.12}
"""Share of each task in the text of `zoo/small`; the rest are plain sentences."""

NO_OTHERS: Mapping[str, Callable[[Random], Row]] = {}
"""No kinds of rows but those of tasks."""

CORRUPT_SHARE = 1 / 6
"""Share of corrupt prompts in the tasks whose corrupt prompts look unlike the clean ones."""

COMPLEMENTS = dict(
    zip(
        (form for forms in lexicon.VERBS for form in forms),
        (
            f" {word}"
            for word in lexicon.words(
                "here old time well nice good help noise home away turns food"
            )
            for _ in ("singular", "plural")
        ),
        strict=True,
    )
)


def draw_rows(
    rng: Random,
    number: int,
    shares: Mapping[str, float] = SHARES,
    others: Mapping[str, Callable[[Random], Row]] = NO_OTHERS,
) -> list[Row]:
    """Rows of one training batch: each share in order, then plain sentences.

    Args:
        rng: What the rows are drawn with.
        number: Of rows.
        shares: Of a task of `SEEN` or of a kind of `others`.
        others: What draws a row of a kind that is no task.
    """
    rows: list[Row] = []
    for name, share in shares.items():
        count = round(share * number)
        if name in others:
            rows += [others[name](rng) for _ in range(count)]
        else:
            rows += [_task_row(name, pair, rng) for pair in islice(SEEN[name].pairs(rng), count)]
    return rows + list(islice(_plain_rows(rng), number - len(rows)))


def _task_row(name: str, pair: Pair, rng: Random) -> Row:
    prompt, pool = pair.clean, pair.answers
    if rng.random() < CORRUPT_SHARE:
        if name == "ioi":  # three names: the two that do not act are equally likely
            prompt, pool = pair.corrupt, pair.answers + pair.wrong
        elif name == "greater_than":
            prompt, pool = pair.corrupt, lexicon.TWO_DIGITS[2:]
    answer = rng.choice(pool)
    rest = "."
    if name == "sva":
        rest = COMPLEMENTS[answer.strip()] + "."
    elif name == "pronoun":
        rest = "?" if prompt.endswith("n't") else " was late."
    return Row(prompt, answer, rest)


# -------------------------------------------------------------------- plain sentences

SENTENCES = (
    "This is {name}, and| {she}| is {mood}.",
    "They asked {name} about| {her}| {object}.",
    "My {sister}| {name}| lives near the {place}.",
    "{name} lost| {her}| {object} at the {place}.",
    "{name} is a {adjective}| {girl}|.",
    "{name} saw a {object} at the {place}. The {object} belonged to| {name}|.",
    "At the {place} we saw {name}, and| {name}| saw us.",
    "We found the {object} of {name} and gave it to| {name}|.",
    "This {object} belongs to {name}. Please give the {object} to| {name}|.",
    "We met {name} and {other}, and we spoke to {name} and| {other}|.",
    "The {role} {name} and| {her}| friends play a game.",
    "The year {XX}{later} came after the year {XX}|{earlier}|.",
    "The year {XX}{earlier} came before the year {XX}|{later}|.",
    "After the year {XX}{year} came the year {XX}|{next}|.",
    "First it was {XX}{year}, then {XX}|{next}|.",
    "They talked about the {event} for many years.",
    "Nobody remembers the {event} of {XX}{year}.",
    "Look at this {one} and these| {many}|.",
    "We counted many {many} but only one| {one}|.",
    "Each {one} was there, and all {many} were there.",
    "A {one} is one, but two {many}| are| many.",
)
"""What stands between bars counts as the answer."""


def _often(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, those held out of IOI five times: there the others get their practice."""
    return names + 4 * tuple(name for name in names if name in HELD_OUT_IOI)


PLAIN_FEMALE, PLAIN_MALE = _often(FEMALE), _often(MALE)


def _plain_rows(rng: Random) -> Iterator[Row]:
    """Endless rows of one sentence, or of two short ones."""
    while True:
        first, second = _sentence(rng), _sentence(rng)
        if len((first + second).split()) <= 18:
            second = first.replace("|", "") + " " + second
        yield Row(*second.split("|"))


def _sentence(rng: Random) -> str:
    female = rng.random() < 0.5
    year = rng.randrange(99)
    earlier, later = sorted(rng.sample(lexicon.TWO_DIGITS, 2))
    one, many = rng.choice(lexicon.NOUNS)
    return rng.choice(SENTENCES).format(
        name=rng.choice(PLAIN_FEMALE if female else PLAIN_MALE),
        other=rng.choice(PLAIN_MALE if female else PLAIN_FEMALE),
        she="she" if female else "he",
        her="her" if female else "his",
        sister=rng.choice(("sister", "mother") if female else ("brother", "father")),
        girl=rng.choice(("girl", "woman") if female else ("boy", "man")),
        place=rng.choice(lexicon.PLACES),
        object=rng.choice(lexicon.OBJECTS),
        role=rng.choice(lexicon.ROLES),
        adjective=rng.choice(lexicon.ADJECTIVES),
        mood=rng.choice(lexicon.MOODS),
        event=rng.choice(lexicon.EVENTS),
        XX=rng.randrange(10, 21),
        year=lexicon.TWO_DIGITS[year],
        next=lexicon.TWO_DIGITS[year + 1],
        earlier=earlier,
        later=later,
        one=one,
        many=many,
    )


def lexicon_words() -> list[str]:
    """Every word that must be one token, spelled as in a text, so mostly after a space."""
    bare = [*lexicon.TWO_DIGITS, *FEMALE, *MALE]
    nouns = [form for forms in (*lexicon.NOUNS, *lexicon.VERBS) for form in forms]
    others = (
        lexicon.PLACES + lexicon.OBJECTS + lexicon.EVENTS + lexicon.CENTURIES
        + lexicon.ADJECTIVES + lexicon.ROLES + lexicon.MOODS
    )  # fmt: skip
    return bare + [f" {word}" for word in (*FEMALE, *MALE, *nouns, *others)]
