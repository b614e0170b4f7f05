"""Rows of EAP-IG's CSV files: answers as token ids, years or numbers of a subject.

Source: hannamw/EAP-IG-faithfulness, `dataset.py` and the CSV files of its tasks.
"""

import re
from collections.abc import Sequence

from circuitprune.data.foreign.fields import OwnRow, Row, Wanted, number_in, text_in
from circuitprune.data.tasks.lexicon import TWO_DIGITS, VERBS
from circuitprune.errors import DataError

TOKENS = (
    ("correct_idx", "incorrect_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("country_idx", "corrupted_country_idx"),
    ("answers_idx", "corrupted_answers_idx"),
)
"""Columns of right and wrong tokens: IOI and coloured objects, gender bias, facts, hypernymy."""
YEAR, NUMBER = "correct_idx", "plural"
"""Columns of greater-than and of agreement, which name no wrong tokens."""


def fits(fields: Sequence[str]) -> bool:
    """Whether these are the columns of such a file."""
    right = {columns[0] for columns in TOKENS} | {YEAR, NUMBER}
    return {"clean", "corrupted"} <= {*fields} and bool(right & {*fields})


def pairs_in(row: Row, wanted: Wanted) -> list[OwnRow]:
    """A pair for each corrupt prompt that is wanted: `corrupted`, or also `corrupted_hard`.

    Raises:
        DataError: a value is missing or of the wrong kind, or the answer is not what the prompt
            asks for.
    """
    answers, wrong = _answers(row, wanted)
    offered = [name for name in ("corrupted", "corrupted_hard") if row.get(name)]
    common: OwnRow = {"clean": text_in(row, "clean"), "answers": answers, "wrong": wrong}
    kinds = wanted.kinds(offered, "corrupted")
    return [{**common, "corrupt": text_in(row, kind), "kind": kind} for kind in kinds]


def _answers(row: Row, wanted: Wanted) -> tuple[list[str], list[str]]:
    for right, wrong in TOKENS:
        if right in row and wrong in row:
            found = _words(row, right, wanted), _words(row, wrong, wanted)
            if right == YEAR:
                _refuse_strange(*found, text_in(row, "clean"))
            return found
    return _later(row) if YEAR in row else _verbs(row)


def _words(row: Row, name: str, wanted: Wanted) -> list[str]:
    """The words of one id, or of a list such as `[12, 34]`."""
    said = str(row.get(name, ""))
    listed = re.fullmatch(r"\s*\[([\d\s,]+)\]\s*", said)
    if listed is None:
        return [wanted.word(number_in(row, name))]
    found = [part for part in re.split(r"[\s,]+", listed[1]) if part]
    return [wanted.word(number_in({name: part}, name)) for part in found]


def _refuse_strange(answers: list[str], wrong: list[str], clean: str) -> None:
    """Nothing, if the prompt has one of the words, as those of IOI and of coloured objects have."""
    words = [*answers, *wrong]
    if not any(word.strip().lower() in clean.lower() for word in words):
        raise DataError(
            f"the tokens of its answers are {' and '.join(map(repr, words))}, neither of which is "
            f"in {clean!r:.80}; name the model that the file was made for, with --model"
        )


def _later(row: Row) -> tuple[list[str], list[str]]:
    """Greater-than: years of two digits after the one given, and the others."""
    year, clean = number_in(row, YEAR), text_in(row, "clean")
    if f"{year:02d}" not in re.findall(r"\d\d(\d\d)(?!\d)", clean):
        raise DataError(
            f"{YEAR!r} is {year}, the last two digits of a year, but no year of {clean!r:.80} ends "
            "so; a file of another task also needs its column of wrong tokens"
        )
    if not 0 <= year < 99:
        raise DataError(f"{YEAR!r} must lie in 0 to 98, got {year}: no year of two digits is later")
    return list(TWO_DIGITS[year + 1 :]), list(TWO_DIGITS[: year + 1])


def _verbs(row: Row) -> tuple[list[str], list[str]]:
    """Agreement: verbs of the right number and of the other."""
    plural = number_in(row, NUMBER)
    if plural > 1:
        raise DataError(f"{NUMBER!r} must be 0 or 1, got {plural}")
    sides = [[f" {forms[side]}" for forms in VERBS] for side in (0, 1)]
    return sides[plural], sides[1 - plural]
