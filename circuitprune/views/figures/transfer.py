"""Transfer: the faithfulness of every circuit on the pairs of every run."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from circuitprune.files.text import rounded
from circuitprune.runs.studies import Comparison, TransferCell
from circuitprune.views.figures.sources import Options, names_of, read_study
from circuitprune.views.figures.style import COLUMN, matrix


def draw(sources: Sequence[Path], options: Options) -> Figure:
    """A heat map with the value, its interval and that of random circuits of equal size."""
    found = read_study(sources[0], "compare", Comparison, "transfer")
    assert found.transfer is not None
    rows = [one.name for one in found.circuits]
    columns = [one.name for one in found.transfer.settings if one.n_pairs]
    cells = {(cell.circuit, cell.on): cell for cell in found.transfer.cells}
    values = [[cells[r, c].faithfulness.value for c in columns] for r in rows]
    texts = [[_text(cells[r, c]) for c in columns] for r in rows]
    names = dict(zip(rows, names_of([Path(row) for row in rows], options), strict=True))
    width = options.width or max(COLUMN, 0.9 + 0.85 * len(columns))
    figure = Figure(figsize=(width, 0.75 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    matrix(axes, values, texts, [names[r] for r in rows], [names[c] for c in columns])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("faithfulness on the pairs of")
    axes.set_ylabel("circuit of")
    return figure


def _text(cell: TransferCell) -> str:
    value, random = cell.faithfulness, [one.mean for one in cell.random.values()]
    lines = [_number(value.value)]
    if value.low is not None:
        lines.append(f"[{_number(value.low)}, {_number(value.high)}]")
    known = [mean for mean in random if mean is not None]
    return "\n".join([*lines, f"random {_number(max(known))}"] if known else lines)


def _number(value: float | None) -> str:
    return "\u2013" if value is None else rounded(value, ".2f")
