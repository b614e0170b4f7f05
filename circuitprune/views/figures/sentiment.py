"""Sentiment: how much of it is put back by the whole stream and along directions, by layer."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuitprune.evidence.bootstrap import Interval
from circuitprune.evidence.sentiment import SentimentDirection
from circuitprune.views.figures.sources import Options, read_study
from circuitprune.views.figures.style import COLOURS, COLUMN, INK, MARKS


def draw(sources: Sequence[Path], options: Options) -> Figure:
    """Effects by layer on the left; on the right what passes through single tokens."""
    found = read_study(sources[0], "sentiment", SentimentDirection, "directed")
    width = options.width or 2 * COLUMN
    figure = Figure(figsize=(width, 0.42 * width), layout="constrained")
    layers, tokens = figure.subplots(1, 2, width_ratios=(3, 2))
    methods = list(dict.fromkeys(one.method for one in found.directed))
    first = [one for one in found.directed if one.method == methods[0]]
    _curve(layers, [o.layer for o in first], [o.full for o in first], "whole stream", -1)
    for i, method in enumerate(methods):
        rows = [one for one in found.directed if one.method == method]
        name = method.replace("_", " ")
        _curve(layers, [o.layer for o in rows], [o.along for o in rows], name, i)
    layers.set_xlabel("in front of layer")
    layers.set_ylabel("normalised patch effect")
    layers.legend()
    names = [one.token for one in found.summarised]
    for shift, label, values in (
        (-0.2, "restored", [one.restored for one in found.summarised]),
        (0.2, "lost", [one.lost for one in found.summarised]),
    ):
        places = [i + shift for i in range(len(names))]
        widths = [one.value or 0.0 for one in values]
        colour = COLOURS[0] if shift < 0 else COLOURS[1]
        tokens.barh(places, widths, 0.36, xerr=_errors(values), color=colour, label=label)
    tokens.set_yticks(range(len(names)), names)
    tokens.invert_yaxis()
    tokens.set_xlabel("share, all layers of a token")
    tokens.legend()
    return figure


def _curve(axes: Axes, layers: list[int], values: list[Interval], name: str, i: int) -> None:
    known = [one.value if one.value is not None else float("nan") for one in values]
    colour, mark = (INK, "*") if i < 0 else (COLOURS[i], MARKS[i])
    axes.errorbar(layers, known, _errors(values), color=colour, marker=mark, label=name)


def _errors(values: list[Interval]) -> list[list[float]]:
    """Lengths below and above each value; none where there is no interval."""
    ends = [
        (0.0, 0.0)
        if one.value is None or one.low is None or one.high is None
        else (max(0.0, one.value - one.low), max(0.0, one.high - one.value))
        for one in values
    ]
    return [[low for low, _ in ends], [high for _, high in ends]]
