"""Rows of Edge-Pruning's files: marked answers, IOI sentences, pronouns, years.

Source: Bhaskar et al. 2024 (arXiv:2406.16778), `src/prune/fpt2_{custom,ioi,gp,gt}.py`.
"""

from collections.abc import Sequence

from circuitprune.data.foreign.fields import OwnRow, Row, Wanted, label_in, text_in
from circuitprune.data.tasks.lexicon import TWO_DIGITS
from circuitprune.errors import DataError

START, END = "<predict>", "</predict>"
SENTENCES = ("ioi_sentences", "corr_ioi_sentences")
PREFIXES = ("prefix", "corr_prefix")


def fits(fields: Sequence[str]) -> bool:
    """Whether these are the fields of such a file."""
    have = {*fields}
    marked = {"clean", "corrupted"} <= have
    return marked or {*SENTENCES} <= have or {*PREFIXES} <= have


def pairs_in(row: Row, wanted: Wanted) -> list[OwnRow]:
    """The one pair of a row.

    Raises:
        DataError: a value is missing or of the wrong kind, or one prompt has no answer.
    """
    wanted.kinds(["corrupted"], "corrupted")
    if SENTENCES[0] in row:
        return [_sentences(row)]
    return [_prefixes(row)] if PREFIXES[0] in row else [_marked(row)]


def _marked(row: Row) -> OwnRow:
    """What stands in `<predict>` is the answer; the white space before it is a part of it."""
    (clean, right), (corrupt, wrong) = (_cut(row, name) for name in ("clean", "corrupted"))
    return {"clean": clean, "corrupt": corrupt, "answers": [right], "wrong": [wrong]}


def _cut(row: Row, name: str) -> tuple[str, str]:
    text = text_in(row, name)
    before, start, rest = text.partition(START)
    inside, end, _ = rest.partition(END)
    if not (start and end and inside and before.strip()):
        raise DataError(
            f"{name!r} must hold a prompt and then {START}its answer{END}, got {text!r:.80}"
        )
    prompt = before.rstrip()
    return prompt, before[len(prompt) :] + inside


def _sentences(row: Row) -> OwnRow:
    """Sentences whose last word is the answer; `a` is the right name, `b` the wrong one."""
    clean, corrupt = (text_in(row, name).rpartition(" ")[0] for name in SENTENCES)
    right, wrong = label_in(row, "a"), label_in(row, "b")
    if not text_in(row, SENTENCES[0]).endswith(f" {right}"):
        raise DataError(f"{SENTENCES[0]!r} must end with the name in 'a', {right!r}")
    pair: OwnRow = {"clean": clean, "corrupt": corrupt}
    return pair | {"answers": [f" {right}"], "wrong": [f" {wrong}"]}


def _prefixes(row: Row) -> OwnRow:
    pair: OwnRow = {
        "clean": text_in(row, PREFIXES[0]).rstrip(),
        "corrupt": text_in(row, PREFIXES[1]).rstrip(),
    }
    if "digits" in row:
        year = label_in(row, "digits").zfill(2)
        if year not in TWO_DIGITS[:99]:
            raise DataError(f"'digits' must lie in 00 to 98, got {year!r:.60}")
        later = int(year) + 1
        return pair | {"answers": list(TWO_DIGITS[later:]), "wrong": list(TWO_DIGITS[:later])}
    right, wrong = (label_in(row, name).strip() for name in ("pronoun", "corr_pronoun"))
    return pair | {"answers": [f" {right}"], "wrong": [f" {wrong}"]}
