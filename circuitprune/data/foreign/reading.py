"""Rows of a file one after the other, with their lines: CSV or JSON objects, never all at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from circuitprune.data.foreign.fields import Row
from circuitprune.data.tasks.rows import described, listed
from circuitprune.data.tasks.spreadsheet import cells_by_name, csv_cells, on
from circuitprune.errors import DataError
from circuitprune.files.decoding import decode
from circuitprune.files.limits import LIMITS, refuse_size

_BOM = b"\xef\xbb\xbf"


class Read(NamedTuple):
    """One row, or why there is none."""

    line: int
    row: Row | DataError


def rows_in(path: Path) -> Iterator[Read]:
    """The rows of a file, `.csv` as CSV, any other as JSON objects, which may span lines.

    CRLF, a byte-order mark and blank lines are accepted. After a row that is wrong, reading goes on
    with the next.

    Raises:
        DataError: no such file, not UTF-8, a line that is too long, or CSV that cannot be parted
            into rows; the message begins with the line, if there is one.
    """
    try:
        with path.open("rb") as file:
            lines = _lines(file)
            yield from _csv(lines) if path.suffix.lower() == ".csv" else _objects(lines)
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror or error}") from error


def _lines(file: BinaryIO) -> Iterator[str]:
    """Each line with its end; the first without a byte-order mark."""
    number, longest = 0, LIMITS["line"]
    while raw := file.readline(longest + 1):
        number += 1
        refuse_size(f"line {number}: it", "line", len(raw), longest, DataError)
        try:
            yield (raw.removeprefix(_BOM) if number == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"line {number}: byte {error.start + 1} of the line is not UTF-8; save the file as "
                "UTF-8"
            ) from None


def _csv(lines: Iterator[str]) -> Iterator[Read]:
    columns: list[str] | None = None
    for line, cells in csv_cells(lines):
        if columns is None:
            columns = [cell.strip() for cell in cells]
            twice = [name for name in columns if columns.count(name) > 1]
            if twice:
                raise DataError(f"line {line}: column {listed(twice[:1])} stands there twice")
            continue
        try:
            cells_of = cells_by_name(columns, cells)
        except DataError as error:
            yield Read(line, error)
        else:  # pandas writes its row numbers under a column without a name
            yield Read(line, {name: cell for name, cell in cells_of.items() if name})


def _objects(lines: Iterator[str]) -> Iterator[Read]:
    """Objects that each begin with a brace at the start of a line."""
    begun, text = 0, ""
    for number, raw in enumerate(lines, start=1):
        if text and raw.startswith("{"):  # the last one was never closed
            yield Read(begun, _parsed(text))
            text = ""
        if not text:
            begun = number
        text += raw
        if text.strip() and (not text.lstrip().startswith("{") or raw.rstrip().endswith("}")):
            value = _parsed(text)
            if isinstance(value, DataError) and _may_go_on(text, raw):
                continue
            yield Read(begun, value)
            text = ""
        elif not text.strip():
            text = ""
        with on(begun):
            refuse_size("it", "line", len(text), LIMITS["line"], DataError)
    if text:
        yield Read(begun, _parsed(text))


def _may_go_on(text: str, raw: str) -> bool:
    """Whether a text that is no JSON yet may become one: an object over several lines."""
    return text != raw and text.lstrip().startswith("{")


def _parsed(text: str) -> Row | DataError:
    try:
        value = decode(text.strip())
    except json.JSONDecodeError as error:
        return DataError(f"not valid JSON at column {error.colno}: {error.msg}")
    except ValueError as error:
        return DataError(f"not valid JSON: {error}")
    if not isinstance(value, dict):
        return DataError(f"expected a JSON object, got {described(value)}")
    return value
