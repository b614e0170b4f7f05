"""Rows of MIB's data sets, as `datasets` writes them to JSON lines: IOI, MCQA, arithmetic, ARC.

Source: Mueller et al. 2025, "MIB" (arXiv:2504.13151), `dataset.py` of its circuit track.
"""

from collections.abc import Sequence

from circuitprune.data.foreign.fields import (
    OwnRow,
    Row,
    Wanted,
    label_in,
    labels_in,
    number_in,
    object_in,
    text_in,
)
from circuitprune.data.tasks.pair import CHOICES
from circuitprune.errors import DataError

SUFFIX = "_counterfactual"
DEFAULTS = ("s2_io_flip", "symbol", "random")
"""The counterfactual that MIB's circuit track takes, by task."""


def fits(fields: Sequence[str]) -> bool:
    """Whether these are the fields of such a file."""
    return "prompt" in fields and any(name.endswith(SUFFIX) for name in fields)


def pairs_in(row: Row, wanted: Wanted) -> list[OwnRow]:
    """A pair for each counterfactual that is wanted, answers spelled as MIB tokenises them.

    That is names after a space, letters and sums without one. The wrong answer of IOI is the other
    name of the prompt itself; of all other tasks, what is right after the counterfactual.

    Raises:
        DataError: a value is missing or of the wrong kind.
    """
    offered = [name.removesuffix(SUFFIX) for name in row if name.endswith(SUFFIX) and row[name]]
    default = next((kind for kind in DEFAULTS if kind in offered), DEFAULTS[0])
    return [_pair(row, kind) for kind in wanted.kinds(offered, default)]


def _pair(row: Row, kind: str) -> OwnRow:
    other = object_in(row, kind + SUFFIX)
    names = _names(row)
    right, wrong = names or (_answer(row), _answer(other))
    if right == wrong:
        raise DataError(f"the prompt and its counterfactual {kind!r} have one answer, {right!r}")
    pair: OwnRow = {"clean": text_in(row, "prompt"), "corrupt": text_in(other, "prompt")}
    pair |= {"answers": [right], "wrong": [wrong], "kind": kind}
    if isinstance(row.get("choices"), dict):
        letters = labels_in(object_in(row, "choices"), "label")
        pair["meta"] = {CHOICES: "|".join(letters)}
    return pair | ({"group": str(row["template"])} if row.get("template") else {})


def _names(row: Row) -> tuple[str, str] | None:
    """Of IOI, whose choices are two names: the one asked for and the other."""
    if not isinstance(row.get("choices"), list):
        return None
    choices, key = labels_in(row, "choices"), number_in(row, "answerKey")
    if len(choices) != 2 or key > 1:
        raise DataError(f"IOI has two choices and an answerKey of 0 or 1, got {choices} and {key}")
    return f" {choices[key]}", f" {choices[1 - key]}"


def _answer(row: Row) -> str:
    """The letter of the right choice, or the result of a sum."""
    if "choices" not in row:
        return label_in(row, "label")
    letters, key = labels_in(object_in(row, "choices"), "label"), number_in(row, "answerKey")
    if key >= len(letters):
        raise DataError(f"answerKey is {key}, but its choices are 0 to {len(letters) - 1}")
    return letters[key]
