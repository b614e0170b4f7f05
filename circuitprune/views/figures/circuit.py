"""A circuit as a drawing: layers from bottom to top, edges in the colours of their ports."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from circuitprune.circuits.layout import (
    KIND_COLOURS,
    KIND_NAMES,
    Layout,
    Node,
    Stroke,
    drawn_nodes,
    place,
    strengths,
    strokes,
)
from circuitprune.errors import GraphError
from circuitprune.views.figures.sources import Options, Source, called, read_circuit
from circuitprune.views.figures.style import COLUMN, INK, LINE, SOFT

_CUT, _BAND = "#a3acb7", "#f6f7f9"
_ALL = 8
"""Layers and heads of a model that is drawn whole unless asked otherwise."""
_UNIT = 0.38
"""Inches between two heads at most: few nodes need no large boxes."""
_LEGEND = 0.25
"""Inches for the names of the colours."""


def draw(sources: Sequence[Source], options: Options) -> Figure:
    """A circuit, that of a run, or that of a file."""
    circuit = read_circuit(sources[0], options)
    graph, mask = circuit.graph, circuit.mask
    if not mask.any():
        raise GraphError(f"{called(sources[0])} keeps no edge, so there is nothing to draw")
    kept = drawn_nodes(graph, mask)
    whole = options.nodes == "all" or (
        options.nodes == "auto" and max(graph.n_layers, graph.n_heads) <= _ALL
    )
    layout, width = place(graph, None if whole else kept), options.width or COLUMN
    unit = min(_UNIT, width / layout.width)
    height = layout.height * unit
    figure = Figure(figsize=(width, height + _LEGEND))
    axes = figure.add_axes((0, _LEGEND / (height + _LEGEND), 1, height / (height + _LEGEND)))
    spare = (width / unit - layout.width) / 2
    axes.set(xlim=(-spare, layout.width + spare), ylim=(0, layout.height))
    axes.set_axis_off()
    points = 72 * unit
    _layers(axes, layout, points)
    for stroke in strokes(layout, graph, mask, strengths(circuit.ranking, mask)):
        axes.add_patch(_edge(stroke, points))
    longest = max(len(node.label) for node in layout.nodes.values() if node.kind == "head")
    size = min(7.5, 0.8 * points / (0.66 * max(3, longest)))
    for name, node in layout.nodes.items():
        _node(axes, node, name in kept, size)
    kinds = {graph.reader_kind[reader] for reader in graph.edge_reader[mask].tolist()}
    _legend(figure, [kind for kind in KIND_COLOURS if kind in kinds])
    return figure


def _layers(axes: Axes, layout: Layout, points: float) -> None:
    for number, (layer, y) in enumerate(layout.layers.items()):
        if number % 2 == 0:
            axes.axhspan(y - 0.7, y + 1.2, facecolor=_BAND, linewidth=0)
        size = min(7.5, 0.3 * points)
        axes.text(0.35, y, str(layer), color=SOFT, ha="center", va="center", fontsize=size)


def _edge(stroke: Stroke, points: float) -> PathPatch:
    curve = Path(list(stroke.points), [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    width = (0.02 + 0.08 * stroke.strength) * points
    return PathPatch(
        curve,
        facecolor="none",
        edgecolor=KIND_COLOURS[stroke.kind],
        linewidth=max(0.35, width),
        alpha=0.85,
        capstyle="round",
        gid=stroke.name,
    )


def _node(axes: Axes, node: Node, kept: bool, size: float) -> None:
    left, bottom = node.x - node.width / 2, node.y - node.height / 2
    colour = INK if kept else LINE
    filled = node.kind in ("input", "logits", "kv")
    corner = min(0.1, node.height / 2)
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            node.width,
            node.height,
            boxstyle=f"round,pad=0,rounding_size={corner}",
            facecolor=(SOFT if node.kind == "kv" and kept else colour) if filled else "white",
            edgecolor="none" if node.kind == "kv" else colour,
            linewidth=0.6,
            zorder=2,
        )
    )
    text = "white" if filled else INK if kept else _CUT
    axes.text(
        node.x, node.y, node.label, color=text, ha="center", va="center_baseline", fontsize=size
    )


def _legend(figure: Figure, kinds: Sequence[str]) -> None:
    lines = [Line2D([], [], color=KIND_COLOURS[kind], linewidth=1.8) for kind in kinds]
    figure.legend(
        lines,
        [KIND_NAMES[kind] for kind in kinds],
        loc="lower center",
        ncols=len(kinds),
        handlelength=1.2,
        columnspacing=1.2,
        borderaxespad=0.2,
        fontsize=7,
    )
