"""Minimality: by how much the KL rises when one edge is taken from the circuit."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from circuitprune.evidence.minimality import EdgeRemoved, Minimality
from circuitprune.views.figures.sources import Options, read_section
from circuitprune.views.figures.style import COLOURS, COLUMN, SOFT, plain

NAMED = 40
"""Edges up to which each has its name; beyond, they are a curve."""


def draw(sources: Sequence[Path], options: Options) -> Figure:
    """Each kept edge with its interval, the most needed first; the band is the tolerance."""
    section, width = read_section(sources[0], "minimality", Minimality), options.width or COLUMN
    edges = sorted(section.edges, key=lambda edge: -edge.kl.value)
    named = len(edges) <= NAMED
    height = 0.65 + 0.135 * len(edges) if named else 0.7 * width
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    (_bars if named else _curve)(axes, edges, section.tolerance)
    return figure


def _colours(edges: Sequence[EdgeRemoved], tolerance: float) -> list[str]:
    """Blue for what is surely needed, grey for the rest."""
    return [COLOURS[0] if edge.kl.exceeds(tolerance) else COLOURS[4] for edge in edges]


def _bars(axes: Axes, edges: Sequence[EdgeRemoved], tolerance: float) -> None:
    rows = range(len(edges))
    for row, edge, colour in zip(rows, edges, _colours(edges, tolerance), strict=True):
        kl = edge.kl
        axes.plot([kl.low, kl.high], [row, row], color=colour, linewidth=1)
        axes.plot(kl.value, row, "o" if colour == COLOURS[0] else "D", color=colour)
    names = [plain(edge.edge.replace("->", " \u2192 ")) for edge in edges]
    axes.set_yticks(list(rows), names)
    axes.set_ylim(len(edges) - 0.4, -0.6)
    axes.axvspan(-tolerance, tolerance, color="#e3e6ea", linewidth=0)
    axes.set_xscale("symlog", linthresh=tolerance)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("rise of KL without the edge (nats)")


def _curve(axes: Axes, edges: Sequence[EdgeRemoved], tolerance: float) -> None:
    ranks = list(range(1, len(edges) + 1))
    low, high = [edge.kl.low for edge in edges], [edge.kl.high for edge in edges]
    axes.fill_between(ranks, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(ranks, [edge.kl.value for edge in edges], color=COLOURS[0])
    axes.axhspan(-tolerance, tolerance, color="#e3e6ea", linewidth=0, zorder=0)
    axes.axhline(0, color=SOFT, linewidth=0.6)
    axes.set_yscale("symlog", linthresh=tolerance)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_xlim(0.5, len(edges) + 0.5)
    axes.set_xlabel("edges, the most needed first")
    axes.set_ylabel("rise of KL without it (nats)")
