"""Completeness: what circuit and model still do when both lose the same nodes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuitprune.evidence.completeness import Completeness
from circuitprune.evidence.gaps import KnockOutGap
from circuitprune.views.figures.sources import Options, read_section
from circuitprune.views.figures.style import COLOURS, COLUMN, INK, SOFT

FAMILIES = {
    "none": ("nothing", "D", INK),
    "class": ("a class of nodes", "o", COLOURS[0]),
    "random": ("random nodes", "^", COLOURS[1]),
    "greedy": ("greedy search", "s", COLOURS[3]),
}
"""Families of knock-outs: name, mark and colour, those of the report."""


def draw(sources: Sequence[Path], options: Options) -> Figure:
    """A point for each knock-out; on the diagonal, circuit and model lose alike.

    Knock-outs that leave neither side anything tell nothing, and are drawn hollow.
    """
    section, width = read_section(sources[0], "completeness", Completeness), options.width or COLUMN
    figure = Figure(figsize=(width, width), layout="constrained")
    axes = figure.subplots()
    points = section.points
    values = [side for point in points for side in (point.model, point.circuit)]
    pad = 0.06 * (max(values) - min(values) or 1)
    ends = [min(values) - pad, max(values) + pad]
    reach = section.tolerance * section.span
    axes.fill_between(ends, [e - reach for e in ends], [e + reach for e in ends], color="#eef0f3")
    axes.plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    for family, (name, mark, colour) in FAMILIES.items():
        _family([p for p in points if p.family == family], name, mark, colour, axes)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel("model without the nodes (task metric)")
    axes.set_ylabel("circuit without them")
    axes.legend(loc="upper left", title="knocked out", alignment="left", handletextpad=0.3)
    return figure


def _family(points: Sequence[KnockOutGap], name: str, mark: str, colour: str, axes: Axes) -> None:
    if not points:
        return
    x, y = [point.model for point in points], [point.circuit for point in points]
    faces = [colour if point.telling else "white" for point in points]
    axes.scatter(x, y, s=22, marker=mark, c=faces, edgecolors=colour, linewidths=0.8, zorder=3)
    axes.scatter([], [], s=22, marker=mark, c=colour, label=name)
    for point in points:
        ends = [point.model + point.gap.low, point.model + point.gap.high]
        axes.plot([point.model] * 2, ends, color=colour, linewidth=0.6, alpha=0.6)
