"""How close circuits come to the model, over their number of edges, for one or more runs."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuitprune.views.figures.sources import Dot, Options, Series, names_of, read_series
from circuitprune.views.figures.style import COLOURS, COLUMN, MARKS, SOFT, plain

_SIDE_BY_SIDE = 5.0
"""Inches from which both panels stand in one row."""
_FLOOR = 1e-5
"""The least KL that is told from 0, in nats."""


def draw(sources: Sequence[Path], options: Options) -> Figure:
    """Two panels: KL on logarithmic axes, and faithfulness; bars are 95 % intervals."""
    runs = [read_series(path) for path in sources]
    names, width = names_of(sources, options), options.width or COLUMN
    wide = width >= _SIDE_BY_SIDE
    size = (width, 0.4 * width) if wide else (width, 1.3 * width)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 2) if wide else figure.subplots(2, 1, sharex=True)
    for panel, measure in zip(panels, ("kl", "faithfulness"), strict=True):
        for number, run in reversed(list(enumerate(runs))):  # the first on top
            _curve(panel, run, measure, names[number], number)
        panel.set_xscale("log")
    _finish(panels[0], panels[1], [dot for run in runs for dot in run.points])
    for panel in panels if wide else panels[1:]:
        panel.set_xlabel("edges kept")
    if len(runs) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        panels[0].legend(handles[::-1], labels[::-1])
    return figure


def _curve(axes: Axes, run: Series, measure: str, name: str, number: int) -> None:
    colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    plot = partial(axes.plot, color=colour, zorder=3 + 1 / (1 + number))
    dots = [dot for dot in run.points if getattr(dot.evidence, measure) is not None]
    edges = [dot.n_edges for dot in dots]
    values = [_shown(getattr(dot.evidence, measure), measure) for dot in dots]
    plot(edges, values, mark, linestyle="-", label=plain(name))
    for dot in dots:
        found = dot.intervals.get(measure)
        if found and found.low is not None and found.high is not None:
            ends = [_shown(found.low, measure), _shown(found.high, measure)]
            plot([dot.n_edges] * 2, ends, "-", linewidth=0.8)
    chosen = getattr(run.chosen.evidence, measure)
    if chosen is not None:  # faithfulness can be undefined
        at = run.chosen.n_edges, _shown(chosen, measure)
        plot(*at, "o", markersize=8, markerfacecolor="none", markeredgewidth=0.8)


def _finish(kl: Axes, faithfulness: Axes, dots: Sequence[Dot]) -> None:
    """Names of the axes, and the model's own place."""
    kl.set_yscale("log")
    kl.set_ylabel("KL from the model (nats)")
    if any(dot.evidence.kl <= _FLOOR for dot in dots):
        ticks = [10.0**power for power in range(-5, 3)]
        low, high = kl.get_ylim()
        shown = [tick for tick in ticks if low <= tick <= high]
        kl.set_yticks(shown, [_power(tick) for tick in shown])
    faithfulness.set_ylabel("faithfulness")
    faithfulness.axhline(1, color=SOFT, linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)


def _power(tick: float) -> str:
    sign = r"\leq " if tick <= _FLOOR else ""
    return f"${sign}10^{{{round(math.log10(tick))}}}$"


def _shown(value: float, measure: str) -> float:
    return max(value, _FLOOR) if measure == "kl" else value
