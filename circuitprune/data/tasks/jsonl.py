"""Pairs from the user's own file, JSON lines or CSV; the fields are in `docs/data.md`."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from circuitprune.data.tasks.given import GivenPairs
from circuitprune.data.tasks.pair import Pair
from circuitprune.data.tasks.rows import described, pair_of
from circuitprune.data.tasks.spreadsheet import csv_rows, lines_of, on
from circuitprune.errors import DataError
from circuitprune.files.decoding import decode
from circuitprune.files.limits import PAIRS, read_bytes

SUFFIXES = (".jsonl", ".csv")
"""What files of pairs are called; any other name is read as JSON lines."""


class JsonlTask(GivenPairs):
    """The pairs of one JSONL or CSV file; it is read at once, and only once.

    Raises:
        DataError: a file that is missing, empty, not UTF-8, or has a bad line; the message names
            the file and the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        super().__init__(read_pairs(self.path), "jsonl")


def read_pairs(path: str | Path) -> list[Pair]:
    """All pairs of a file, in order; `.csv` is CSV, anything else JSON lines.

    Blank lines are skipped; CRLF and a byte-order mark are accepted.

    Raises:
        DataError: as for `JsonlTask`.
    """
    pairs: list[Pair] = []
    first_line: dict[str, int] = {}
    data = read_bytes(path, "pairs", error=DataError)
    rows = csv_rows if Path(path).suffix.lower() == ".csv" else _lines
    try:
        for line, row in rows(_decoded(data.removeprefix(b"\xef\xbb\xbf"))):
            pairs.append(_pair(row, line, first_line))
            if len(pairs) > PAIRS:
                raise DataError(f"line {line}: more than {PAIRS:,} pairs; make several files of it")
    except DataError as error:
        raise DataError(f"{path}, {error}") from None
    if not pairs:
        raise DataError(f"{path} holds no pairs; write one on each line (docs/data.md)")
    return pairs


def _decoded(data: bytes) -> str:
    if data.startswith(b"PK\x03\x04"):
        raise DataError("line 1: an archive, as spreadsheets are; save it as CSV in UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise DataError(
            f"line {line}: byte {column} of the line is not UTF-8; save the file as UTF-8"
        ) from None


def _lines(text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Line and fields of each JSON object."""
    lines = lines_of(text)
    for line in count(1):
        with on(line):
            raw = next(lines, None)
            row = _parse(raw) if raw and raw.strip() else None
        if raw is None:
            return
        if row is not None:
            yield line, row


_LINES = "each pair is one object on a line of its own"


def _parse(raw: str) -> dict[str, object]:
    try:
        value = decode(raw)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON at column {error.colno}: {error.msg}; {_LINES}") from None
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object, got {described(value)}; {_LINES}")
    return value


def _pair(row: dict[str, object], line: int, first_line: dict[str, int]) -> Pair:
    """The pair of a row; its id is noted, and must be new."""
    try:
        pair = pair_of(row, line)
        if first_line.setdefault(pair.id, line) != line:
            raise DataError(f"id {pair.id!r:.60} was already used on line {first_line[pair.id]}")
    except DataError as error:
        raise DataError(f"line {line}: {error}") from None
    return pair
