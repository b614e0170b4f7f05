"""From a file of another tool to pairs of ours, row by row, with an account of what was wrong."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from circuitprune.data.foreign.fields import Wanted
from circuitprune.data.foreign.formats import FORMATS, Format, format_of
from circuitprune.data.foreign.reading import Read, rows_in
from circuitprune.data.tasks.pair import Pair
from circuitprune.data.tasks.rows import pair_of
from circuitprune.errors import DataError
from circuitprune.files.atomic import streamed
from circuitprune.files.limits import LIMITS, PAIRS
from circuitprune.files.text import counted

SHOWN = 5
"""Wrong lines that are shown."""


@dataclass
class Converted:
    """What became of a file."""

    format: str = ""
    """One of `FORMATS`."""
    n_rows: int = 0
    n_pairs: int = 0
    n_wrong: int = 0
    """Rows that gave no pair."""
    wrong: list[str] = field(default_factory=list)
    """The first of them, each with its line."""
    first: Pair | None = None
    """The first pair, to look at."""

    def add_wrong(self, line: int, error: Exception) -> None:
        """Count a row that gave none."""
        self.n_wrong += 1
        if len(self.wrong) < SHOWN:
            self.wrong.append(f"line {line}: {error}")


def convert_pairs(
    source: str | Path,
    target: str | Path,
    wanted: Wanted | None = None,
    name: str = "auto",
    skip_wrong: bool = False,
) -> Converted:
    """Writes the pairs of a file as our JSON lines; only one row of it is held at a time.

    Args:
        source: The file, in one of `FORMATS`; `.csv` is CSV, any other JSON objects.
        target: Where the pairs go; it is whole or not there.
        wanted: Which counterfactual, and the words of token ids.
        name: Of the format; `auto` looks at the first row.
        skip_wrong: Leave out rows that give no pair, instead of refusing the file.

    Raises:
        DataError: an unknown format, a file that cannot be read, rows that give no pair, or no
            pairs; names the file and its first wrong lines.
        RunError: the target cannot be written.
    """
    source, target, found = Path(source), Path(target), Converted()
    if target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{target} is the file itself; write the pairs to another")
    try:
        with streamed(target) as write:
            for pair in _pairs(source, wanted or Wanted(), name, found):
                write(_line(pair))
            _refuse(found, skip_wrong)
    except DataError as error:
        raise DataError(f"{source}, {error}") from None
    return found


def _pairs(source: Path, wanted: Wanted, name: str, found: Converted) -> Iterator[Pair]:
    """The pairs of all rows, counted; each has an id of its own."""
    lines: dict[str, int] = {}
    form, size = None, 0
    for read in rows_in(source):
        found.n_rows += 1
        try:
            if form is None:
                form = _format(name, read, found)
            for pair in _of_row(form, read, wanted):
                if lines.setdefault(pair.id, read.line) != read.line:
                    raise DataError(f"id {pair.id!r:.60} was already used on line {lines[pair.id]}")
                found.n_pairs, found.first = found.n_pairs + 1, found.first or pair
                size += len(_line(pair))
                _refuse_many(found.n_pairs, size)
                yield pair
        except DataError as error:
            if form is None or found.n_pairs > PAIRS or size > LIMITS["pairs"]:
                raise DataError(f"line {read.line}: {error}") from None
            found.add_wrong(read.line, error)


def _format(name: str, read: Read, found: Converted) -> Format:
    """The format asked for, or that of the first row."""
    if isinstance(read.row, DataError):
        raise read.row
    found.format = format_of([*read.row]) if name == "auto" else name
    form = FORMATS[found.format]
    if not form.fits([*read.row]):
        raise DataError(f"it is not {form.about}: it has the fields {', '.join(read.row):.200}")
    return form


def _of_row(form: Format, read: Read, wanted: Wanted) -> list[Pair]:
    """The pairs of a row, all of them sound."""
    if isinstance(read.row, DataError):
        raise read.row
    rows = form.pairs_in(read.row, wanted)
    several = len(rows) > 1
    return [
        pair_of({"id": f"line-{read.line:06d}-{row['kind']}", **row} if several else row, read.line)
        for row in rows
    ]


def _refuse_many(n_pairs: int, size: int) -> None:
    if n_pairs > PAIRS:
        raise DataError(f"more than {PAIRS:,} pairs; make several files of it")
    if size > LIMITS["pairs"]:
        raise DataError(f"its pairs need more than {LIMITS['pairs']:,} bytes; make several files")


def _line(pair: Pair) -> str:
    """A pair as a line of JSON, without what it does not have."""
    row = {name: value for name, value in asdict(pair).items() if value}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _refuse(found: Converted, skip_wrong: bool) -> None:
    """Nothing, if there are pairs, and no wrong rows beside them that are not to be skipped."""
    if found.n_wrong and not (skip_wrong and found.n_pairs):
        more = found.n_wrong - len(found.wrong)
        lines = [*found.wrong, *([f"and {more:,} more"] if more else [])]
        raise DataError(
            f"{found.n_wrong:,} of {counted(found.n_rows, 'row')} made no pair, so nothing was "
            "written; "
            "mend them, or leave them out with --skip-wrong\n  " + "\n  ".join(lines)
        )
    if not found.n_pairs:
        raise DataError("it holds no rows")
