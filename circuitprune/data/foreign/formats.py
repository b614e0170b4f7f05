"""The formats by name, and which of them a file is in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from circuitprune.data.foreign import arc, eap_ig, edge_pruning, mib
from circuitprune.data.foreign.fields import OwnRow, Row, Wanted
from circuitprune.data.tasks.rows import OPTIONAL, REQUIRED, listed
from circuitprune.data.tasks.spreadsheet import own_cells
from circuitprune.errors import DataError

__all__ = ["FORMATS", "Format", "Wanted", "format_of"]


@dataclass(frozen=True)
class Format:
    """What a tool writes."""

    about: str
    """Whose it is, and what marks it."""
    fits: Callable[[Sequence[str]], bool]
    """Whether a file with these fields is one."""
    pairs_in: Callable[[Row, Wanted], list[OwnRow]]
    """The pairs of one row."""


def _own(row: Row, wanted: Wanted) -> list[OwnRow]:
    """A row of our own; in CSV, several answers of a cell between bars."""
    wanted.kinds(["corrupt"], "corrupt")
    texts = {n: value for n, value in row.items() if isinstance(value, str) and value}
    from_csv = isinstance(row["answers"], str) and isinstance(row["wrong"], str)
    return [own_cells(texts) if from_csv and {*REQUIRED} <= {*texts} else dict(row)]


FORMATS: dict[str, Format] = {
    "own": Format(
        "clean, corrupt, answers, wrong, as docs/data.md says",
        lambda fields: {*REQUIRED} <= {*fields},
        _own,
    ),
    "eap-ig": Format("CSV of EAP-IG: clean, corrupted and token ids", eap_ig.fits, eap_ig.pairs_in),
    "mib": Format("JSON lines of MIB: prompt and counterfactuals", mib.fits, mib.pairs_in),
    "arc": Format("JSON lines of ARC: question, choices, answerKey", arc.fits, arc.pairs_in),
    "edge-pruning": Format(
        "Edge-Pruning: clean, corrupted with <predict>, sentences or prefixes",
        edge_pruning.fits,
        edge_pruning.pairs_in,
    ),
}
"""A row goes to the first that fits."""


def format_of(fields: Sequence[str]) -> str:
    """The name of the first format that has such fields.

    Raises:
        DataError: none; says what each needs.
    """
    for name, form in FORMATS.items():
        if form.fits(fields):
            return name
    needs = "; ".join(f"{name}: {form.about}" for name, form in FORMATS.items())
    near = [name for name in (*REQUIRED, *OPTIONAL) if name in fields]
    missing = f", missing {listed([n for n in REQUIRED if n not in fields])}" if near else ""
    raise DataError(f"no known format has the fields {listed(fields)}{missing}. Known are {needs}")
