"""Rows of a CSV file of pairs: the fields of JSONL as columns, several answers between bars."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from circuitprune.data.tasks.rows import OPTIONAL, REQUIRED, listed
from circuitprune.errors import DataError
from circuitprune.files.limits import LIMITS, refuse_size
from circuitprune.files.text import counted

BAR = "|"
"""Stands between the answers of one cell. An answer that holds a bar itself needs JSONL."""
COLUMNS = (*REQUIRED, *(name for name in OPTIONAL if name not in ("meta", "tags")))
"""Known columns; any `meta.NAME` besides."""


def csv_rows(text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Line and fields of each row below the header; rows without a word in them are skipped.

    Cells are taken as they stand, leading spaces too. Empty cells of optional columns are no
    values.

    Raises:
        DataError: a column that is unknown, missing or repeated, a row of another number of cells,
            or text that is not CSV; the message begins with the line.
    """
    columns: list[str] | None = None
    for line, cells in csv_cells(lines_of(text, _ANY_END)):
        with on(line):
            if columns is None:
                columns = _header(cells)
                continue
            row = _row(columns, cells)
        yield line, row


def csv_cells(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row of CSV, the header too; those without a word are skipped.

    Raises:
        DataError: text that is not CSV; the message begins with the line.
    """
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        with on(line):
            cells = next(reader, None)
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


LINE_FEED = re.compile(r"[^\n]*\n|[^\n]+")
_ANY_END = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def lines_of(text: str, line: re.Pattern[str] = LINE_FEED) -> Iterator[str]:
    """Each line of a text with its end; only the present one is held.

    Raises:
        DataError: it is longer than a line may be.
    """
    for found in line.finditer(text):
        refuse_size("it", "line", found.end() - found.start(), LIMITS["line"], DataError)
        yield found.group()


@contextmanager
def on(line: int) -> Iterator[None]:
    """Say where the file is wrong."""
    try:
        yield
    except (csv.Error, DataError) as error:
        raise DataError(f"line {line}: {error}") from None


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    missing = [name for name in REQUIRED if name not in names]
    unknown = [n for n in names if n not in COLUMNS and not n.startswith("meta.")]
    if repeated:
        raise DataError(f"column {listed(repeated)} stands there more than once")
    if missing:
        hint = "; columns are parted by commas" if re.search(r"[;\t]", cells[0]) else ""
        raise DataError(
            f"missing column {', '.join(missing)}; the first line names the columns, "
            f"{', '.join(REQUIRED)} at least{hint}"
        )
    if unknown:
        raise DataError(
            f"unknown column {listed(unknown)}; known are {', '.join(COLUMNS)}, and "
            "anything else is called meta.NAME"
        )
    return names


def _row(columns: list[str], cells: list[str]) -> dict[str, object]:
    named = cells_by_name(columns, cells)
    return own_cells({n: cell for n, cell in named.items() if cell or n in REQUIRED})


def cells_by_name(columns: list[str], cells: list[str]) -> dict[str, str]:
    """The cells of a row by their columns.

    Raises:
        DataError: there are more or less of them.
    """
    if len(cells) != len(columns):
        raise DataError(
            f"{counted(len(cells), 'cell')} under {counted(len(columns), 'column')}; a cell with "
            "a comma in it stands "
            'between double quotes, such as "So, the"'
        )
    return dict(zip(columns, cells, strict=True))


def own_cells(filled: Mapping[str, str]) -> dict[str, object]:
    """The row of cells by their columns, as a line of JSON would have it."""
    meta = {n.removeprefix("meta."): c for n, c in filled.items() if n.startswith("meta.")}
    row: dict[str, object] = {n: c for n, c in filled.items() if not n.startswith("meta.")}
    row |= {name: filled[name].split(BAR) for name in ("answers", "wrong")}
    return row | ({"meta": meta} if meta else {})
