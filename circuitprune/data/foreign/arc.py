"""Rows of ARC as AI2 and `datasets` publish them, in MIB's form of a question.

Source: Clark et al. 2018 (arXiv:1803.05457); the form and the counterfactual are those of MIB
(arXiv:2504.13151), `arc_easy` and `arc_challenge`.
"""

from collections.abc import Sequence

from circuitprune.data.foreign.fields import (
    OwnRow,
    Row,
    Wanted,
    label_in,
    labels_in,
    object_in,
    text_in,
)
from circuitprune.data.tasks.mcqa import SYMBOL, question
from circuitprune.data.tasks.pair import CHOICES
from circuitprune.data.tasks.rows import described
from circuitprune.errors import DataError
from circuitprune.files.text import counted


def fits(fields: Sequence[str]) -> bool:
    """Whether these are the fields of such a file."""
    return {"question", "answerKey"} <= {*fields} and "prompt" not in fields


def pairs_in(row: Row, wanted: Wanted) -> list[OwnRow]:
    """The one pair of a row: letters in the prompt, numbers in the corrupt one.

    Questions that have numbers already get letters. The right letter is the answer, the right
    number the wrong one, without a space, as MIB tokenises them.

    Raises:
        DataError: a value is missing or of the wrong kind, or no choice has the label of the
            answer.
    """
    wanted.kinds([SYMBOL], SYMBOL)
    asked, labels, texts = _parts(row)
    key = label_in(row, "answerKey").strip()
    if key not in labels or len(labels) != len(texts) or not 2 <= len(texts) <= 9:
        raise DataError(
            f"answerKey is {key!r:.20}, and the choices are {described(labels)} of "
            f"{counted(len(texts), 'text')}; it takes 2 to 9 choices, one of them with that label"
        )
    place = labels.index(key)
    letters = [chr(ord("A") + i) for i in range(len(texts))]
    numbers = [str(i + 1) for i in range(len(texts))]
    pair: OwnRow = {
        "clean": question(asked, letters, texts),
        "corrupt": question(asked, numbers, texts),
        "answers": [letters[place]],
        "wrong": [numbers[place]],
        "kind": SYMBOL,
        "meta": {CHOICES: "|".join(letters)},
    }
    return [pair | ({"id": str(row["id"])} if row.get("id") else {})]


def _parts(row: Row) -> tuple[str, list[str], list[str]]:
    """The question, the labels and the texts of its choices, in either form."""
    if isinstance(row.get("question"), dict):
        inside = object_in(row, "question")
        choices = inside.get("choices")
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise DataError(f"'choices' must be a list of objects, got {described(choices)}")
        labels = [label_in(one, "label") for one in choices]
        return text_in(inside, "stem"), labels, [label_in(one, "text") for one in choices]
    choices = object_in(row, "choices")
    return text_in(row, "question"), labels_in(choices, "label"), labels_in(choices, "text")
