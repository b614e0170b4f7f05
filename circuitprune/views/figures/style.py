"""How every figure looks, and how it becomes bytes: the same ones for the same numbers."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuitprune.files.text import line
from circuitprune.views.figures.sources import Options, Source

COLUMN, PAGE = 3.35, 6.9
"""Inches of one and of two columns of a paper."""
INK, SOFT, LINE = "#1b2027", "#59626e", "#d9dde3"
COLOURS = ("#0072b2", "#b86e00", "#00805e", "#b8417f", "#59626e", "#7a4fc2")
MARKS = ("o", "s", "^", "D", "v", "P")
"""Colours of the report, and marks, so that nothing is told by colour alone."""
MAP = "cividis"
"""For matrices: even steps of lightness, also to the colour-blind."""
SETTINGS: dict[str, object] = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "svg.hashsalt": "circuitprune",
    "text.color": INK,
    "xtick.color": SOFT,
    "xtick.labelsize": 7,
    "xtick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.color": SOFT,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.6,
    "ytick.minor.size": 0,
}
"""Fonts are embedded as such (type 42) or left as text (SVG), so that text stays text."""
_NO_DATES: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}

Draw = Callable[[Sequence[Source], Options], Figure]


def drawn(draw: Draw, sources: Sequence[Source], options: Options, form: str) -> bytes:
    """A figure as the bytes of a file, without date or version.

    Raises:
        RunError: the sources are damaged.
    """
    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault)  # no matplotlibrc of the user's
    settings.update(SETTINGS)
    settings.pop("backend")
    with matplotlib.rc_context(settings):
        figure = draw(sources, options)
        content = io.BytesIO()
        figure.savefig(content, format=form, metadata=_NO_DATES[form])
    return content.getvalue()


def plain(text: str) -> str:
    """Text as it is: matplotlib would read what stands between dollars as mathematics."""
    return line(text).replace("$", r"\$")


def matrix(
    axes: Axes,
    values: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """A heat map of values from 0 to 1 with a text in each cell; None is an empty cell."""
    shown = [[float("nan") if v is None else min(1.0, max(0.0, v)) for v in row] for row in values]
    axes.imshow(shown, cmap=MAP, vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(range(len(columns)), [plain(name) for name in columns])
    axes.set_yticks(range(len(rows)), [plain(name) for name in rows])
    axes.tick_params(length=0, colors=INK)
    for edge in range(1, len(columns)):
        axes.axvline(edge - 0.5, color="white", linewidth=1)
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color="white", linewidth=1)
    for i, row in enumerate(shown):
        for j, value in enumerate(row):
            colour = "white" if value < 0.55 else INK
            axes.text(j, i, texts[i][j], color=colour, ha="center", va="center", fontsize=7)
