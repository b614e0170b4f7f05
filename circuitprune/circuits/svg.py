"""A circuit as one inert SVG: what a notebook shows, without a script and without a server."""

from collections.abc import Iterator
from html import escape

from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import (
    KIND_COLOURS,
    KIND_NAMES,
    Layout,
    Point,
    Stroke,
    drawn_nodes,
    place,
    strengths,
    strokes,
)
from circuitprune.files.text import counted

MOST = 400
"""Edges drawn of one circuit: beyond, nobody can follow a line."""
_UNIT, _FOOT, _KEY = 46, 34, 570
"""Pixels between two heads, below the drawing for the key, and the width of the key."""
_INK, _SOFT, _LINE, _BANDS = "#1b2027", "#59626e", "#d9dde3", ("#f6f7f9", "#eef0f3")


def circuit_svg(
    graph: Graph, mask: Bool[Tensor, " edge"], scores: Float[Tensor, " edge"] | None = None
) -> str:
    """The kept edges drawn from `input` below to `logits` above, every node in its place.

    Colour says what reads, width is the score from the weakest to the strongest kept edge. Of more
    than `MOST` edges those of largest score are drawn, and a line says so.

    Args:
        graph: The graph of the mask.
        mask: True for a kept edge.
        scores: A ranking, higher is stronger; None draws all edges alike.
    """
    layout, strength = place(graph), strengths(scores, mask)
    lines = strokes(layout, graph, mask, strength)
    title = f"{len(lines):,} of {counted(graph.n_edges, 'edge')}"
    if len(lines) > MOST:
        title += f", the {MOST} strongest drawn"
    width, height = max(_UNIT * layout.width, _KEY), _UNIT * layout.height + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img" style="max-width:100%;height:auto;background:#fff" '
        f'font-family="sans-serif" font-size="11"><title>{escape(title)}</title>',
        *_bands(layout),
        *(_line(layout, stroke, len(lines)) for stroke in lines[-MOST:]),
        *_boxes(layout, drawn_nodes(graph, mask)),
        *_key(height, title),
        "</svg>",
    ]
    return "".join(parts)


def _at(layout: Layout, point: Point) -> str:
    """Pixels, which count from the top, of a place of the layout, which counts from the bottom."""
    return f"{_UNIT * point[0]:.1f} {_UNIT * (layout.height - point[1]):.1f}"


def _bands(layout: Layout) -> Iterator[str]:
    for layer, low in layout.layers.items():
        y = _UNIT * (layout.height - low - 1.25)
        size = f'width="{_UNIT * layout.width - 8:.1f}" height="{_UNIT * 1.8:.1f}"'
        yield f'<rect x="4" y="{y:.1f}" {size} rx="6" fill="{_BANDS[layer % 2]}"/>'
        yield f'<text x="14" y="{y + 0.9 * _UNIT:.1f}" fill="{_SOFT}">{layer}</text>'


def _line(layout: Layout, stroke: Stroke, n_lines: int) -> str:
    start, *rest = (_at(layout, point) for point in stroke.points)
    return (
        f'<path d="M{start}C{" ".join(rest)}" fill="none" stroke="{KIND_COLOURS[stroke.kind]}" '
        f'stroke-width="{1 + 3 * stroke.strength:.2f}" '
        f'stroke-opacity="{0.85 if n_lines <= 100 else 0.5}"><title>{escape(stroke.name)}</title>'
        "</path>"
    )


def _boxes(layout: Layout, kept: set[str]) -> Iterator[str]:
    """Every node: what the circuit keeps in black, the rest faint."""
    for name, node in layout.nodes.items():
        x, y = _UNIT * node.x, _UNIT * (layout.height - node.y)
        wide, tall = _UNIT * node.width, _UNIT * node.height
        ink, rim = (_INK, _INK) if name in kept else ("#a3acb7", _LINE)
        yield (
            f'<g data-node="{escape(name)}"><title>{escape(name)}</title><rect '
            f'x="{x - wide / 2:.1f}" y="{y - tall / 2:.1f}" width="{wide:.1f}" '
            f'height="{tall:.1f}" rx="3" fill="#fff" stroke="{rim}"/><text x="{x:.1f}" '
            f'y="{y + 4:.1f}" fill="{ink}" text-anchor="middle">{escape(node.label)}</text></g>'
        )


def _key(height: float, title: str) -> Iterator[str]:
    """The colours by name, and how many edges there are, below the drawing."""
    y = height - 14
    for i, (kind, colour) in enumerate(KIND_COLOURS.items()):
        x = 12 + 62 * i
        yield f'<path d="M{x} {y:.1f}h14" stroke="{colour}" stroke-width="3"/>'
        yield f'<text x="{x + 19}" y="{y + 4:.1f}" fill="{_INK}">{KIND_NAMES[kind]}</text>'
    yield f'<text x="326" y="{y + 4:.1f}" fill="{_SOFT}">{escape(title)}</text>'
