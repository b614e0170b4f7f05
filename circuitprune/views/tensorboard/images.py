"""Pictures for TensorBoard while a run goes on, as pixel arrays: quick, and no plotting library.

Pillow draws them; TensorBoard needs it for any image. Lines are drawn twice as large and scaled
down, which smooths them.
"""

import math
from collections.abc import Sequence

import numpy
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import (
    KIND_COLOURS,
    KIND_NAMES,
    Layout,
    Node,
    along,
    drawn_nodes,
    place,
    strengths,
    strokes,
)
from circuitprune.metrics import KL_FLOOR, log10_kl

_EMPTY = (247, 249, 252)
_FULL = (8, 48, 107)
_IMPOSSIBLE = (225, 225, 225)

Pixels = UInt8[Tensor, "rgb height width"]
Curve = Sequence[tuple[int, float]]
"""Numbers of kept edges, and the KL in nats of the circuit with so many."""

_SCALE, _SMOOTH = 4, 2
"""Pixels drawn for a point of the layout, in each direction, and for one of the picture's: pictures
are twice as fine as the layout, for screens of today."""
_LARGEST, _UNIT, _MANY = 900, 40, 16
"""Points on the longer side at most, and between two heads; columns or rows that fit there."""
_HEAD = 1.3
"""Margin for two lines of text on top of a circuit, in units of its layout."""
_INK, _SOFT, _LINE, _BAND, _CUT = "#1b2027", "#59626e", "#d9dde3", "#f6f7f9", "#c3c9d1"
_NOW = "#0072b2"


def layer_density(
    graph: Graph, mask: Bool[Tensor, " edge"]
) -> Float[Tensor, "reader_layer writer_layer"]:
    """Fraction of edges kept between layers; NaN where the model has no edge.

    Rows are the readers' layers with the logits last, columns the writers' with the input first.
    """
    rows = graph.reader_layer[graph.edge_reader]
    columns = graph.writer_layer[graph.edge_writer] + 1
    n = graph.n_layers + 1
    cell = rows * n + columns
    total = torch.bincount(cell, minlength=n * n)
    kept = torch.bincount(cell, weights=mask.cpu().double(), minlength=n * n)
    return (kept / total).view(n, n).float()


def density_image(
    graph: Graph, mask: Bool[Tensor, " edge"], cell: int = 48
) -> UInt8[Tensor, "rgb height width"]:
    """`layer_density` as an image, dark where many edges are kept, on a square-root scale.

    The logits are the top row, layer 0 the bottom one; the input is the left column.
    """
    density = layer_density(graph, mask).flip(0)
    shade = density.nan_to_num(0).sqrt().unsqueeze(-1)
    low, high = torch.tensor(_EMPTY).float(), torch.tensor(_FULL).float()
    pixels = low + shade * (high - low)
    pixels[density.isnan()] = torch.tensor(_IMPOSSIBLE).float()
    image = pixels.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    image[::cell], image[:, ::cell] = 255, 255
    return image.permute(2, 0, 1).round().to(torch.uint8)


# ---------------------------------------------------------------- the circuit


def circuit_image(
    graph: Graph,
    mask: Bool[Tensor, " edge"],
    scores: Float[Tensor, " edge"] | None = None,
    title: str = "",
    most: int = 300,
) -> Pixels:
    """The kept edges from the input at the bottom to the logits, every head in its place.

    Colours tell ports apart, width the strength by `scores`; nodes outside the circuit are pale.
    Of a model with more than `_MANY` layers or heads in a layer they are left out. Of a circuit of
    more than `most` edges, the strongest are drawn.
    """
    if int(mask.sum()) > most:
        mask, title = _strongest(mask, scores, most), f"{title} ({most:,} drawn)"
    kept = drawn_nodes(graph, mask)
    layout = place(graph, None if max(graph.n_layers, graph.n_heads) <= _MANY else kept)
    pen = _Pen(layout)
    for n, (layer, y) in enumerate(layout.layers.items()):
        pen.box(layout.width / 2, y + 0.25, layout.width - 0.2, 1.8, _BAND if n % 2 else "#fff")
        pen.text(0.4, y, str(layer), _SOFT)
    for stroke in strokes(layout, graph, mask, strengths(scores, mask)):
        pen.curve(along(stroke.points), KIND_COLOURS[stroke.kind], 0.03 + 0.1 * stroke.strength)
    for name, node in layout.nodes.items():
        pen.node(node, name in kept)
    kinds = {graph.reader_kind[r] for r in graph.edge_reader[mask].tolist()}
    pen.legend([kind for kind in KIND_COLOURS if kind in kinds], title)
    return pen.pixels()


def _strongest(
    mask: Bool[Tensor, " edge"], scores: Float[Tensor, " edge"] | None, most: int
) -> Bool[Tensor, " edge"]:
    """The kept edges of largest score, the graph's first among equals."""
    order = strengths(scores, mask).where(mask, -1).argsort(descending=True, stable=True)
    strongest = torch.zeros_like(mask)
    strongest[order[:most]] = True
    return strongest


class _Pen:
    """Draws in the units of a layout, with y upwards, and hands out the smoothed pixels."""

    def __init__(self, layout: Layout) -> None:
        longer = max(layout.width, layout.height + _HEAD)
        self.unit = _SCALE * max(8, min(_UNIT, int(_LARGEST / longer)))
        self.height = (layout.height + _HEAD) * self.unit
        size = (_even(layout.width * self.unit), _even(self.height))
        self.image = Image.new("RGB", size, "#fff")
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(max(0.3 * self.unit, 8 * _SCALE))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place in pixels."""
        return x * self.unit, self.height - y * self.unit

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, outline: str | None = None
    ) -> None:
        """A rectangle with rounded corners, around its centre."""
        left, top = self.at(x - width / 2, y + height / 2)
        right, bottom = self.at(x + width / 2, y - height / 2)
        corner = min(0.12 * self.unit, (bottom - top) / 2)
        self.draw.rounded_rectangle((left, top, right, bottom), corner, fill, outline, _SCALE)

    def text(self, x: float, y: float, text: str, fill: str = _INK) -> None:
        """Text around its middle."""
        self.draw.text(self.at(x, y), text, fill, self.font, anchor="mm")

    def curve(self, points: Float[Tensor, "n 2"], fill: str, width: float) -> None:
        """A line through points."""
        pixels = [self.at(x, y) for x, y in points.tolist()]
        self.draw.line(pixels, fill, max(_SCALE, round(width * self.unit)), joint="curve")

    def node(self, node: Node, kept: bool) -> None:
        """A node's box and label."""
        if node.kind == "kv":
            self.box(*node[:4], _SOFT if kept else _LINE)
            return
        self.box(*node[:4], "#fff", _INK if kept else _LINE)
        self.text(node.x, node.y, node.label, _INK if kept else _CUT)

    def legend(self, kinds: Sequence[str], title: str) -> None:
        """The title and, below it, the names of the colours, in the margin on top."""
        top, left = self.height / self.unit, 0.2
        self.draw.text(self.at(left, top - 0.35), title, _INK, self.font, anchor="lm")
        for kind in kinds:
            name, place_ = KIND_NAMES[kind], self.at(left, top - 0.85)
            self.draw.text(place_, name, KIND_COLOURS[kind], self.font, anchor="lm")
            left += self.font.getlength(name) / self.unit + 0.3

    def pixels(self) -> Pixels:
        """The picture at its final size."""
        return _pixels(self.image)


def _even(pixels: float) -> int:
    return _SMOOTH * math.ceil(pixels / _SMOOTH)


def _pixels(image: Image.Image) -> Pixels:
    small = image.reduce(_SMOOTH)
    return torch.from_numpy(numpy.array(small)).permute(2, 0, 1).contiguous()


# ---------------------------------------------------------------- the frontier


def frontier_image(now: Curve, earlier: Sequence[Curve] = (), title: str = "") -> Pixels:
    """KL over the number of kept edges, both on logarithmic axes.

    Args:
        now: The curve to look at.
        earlier: Those of earlier validations, oldest first; drawn the paler, the older.
        title: Text on top.
    """
    plot = _Plot([*earlier, now])
    plot.axes(title)
    for age, curve in enumerate(earlier):
        plot.line(curve, _mixed(_CUT, 0.25 + 0.75 * (age + 1) / len(earlier)), 2 * _SCALE)
    plot.line(now, _NOW, 2 * _SCALE)
    for n_edges, kl in now:
        plot.dot(float(n_edges), kl)
    return _pixels(plot.image)


class _Plot:
    """A frame with logarithmic axes around curves."""

    width, height, left, right, top, bottom = 560, 400, 70, 30, 40, 50

    def __init__(self, curves: Sequence[Curve]) -> None:
        counts = [math.log10(max(n, 1)) for curve in curves for n, _ in curve] or [0.0]
        values = [log10_kl(kl) for curve in curves for _, kl in curve] or [0.0]
        self.x_range = (
            math.floor(min(counts)),
            max(math.ceil(max(counts)), math.floor(min(counts)) + 1),
        )
        self.y_range = (
            math.floor(min(values)),
            max(math.ceil(max(values)), math.floor(min(values)) + 1),
        )
        self.image = Image.new("RGB", (self.width * _SCALE, self.height * _SCALE), "#fff")
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(13 * _SCALE)

    def at(self, n_edges: float, kl: float) -> tuple[float, float]:
        """A point of a curve, in pixels."""
        (left, right), (low, high) = self.x_range, self.y_range
        across = (math.log10(max(n_edges, 1)) - left) / (right - left)
        up = (log10_kl(kl) - low) / (high - low)
        x = self.left + across * (self.width - self.left - self.right)
        y = self.height - self.bottom - up * (self.height - self.top - self.bottom)
        return x * _SCALE, y * _SCALE

    def axes(self, title: str) -> None:
        """Grid, ticks at powers of ten, and names."""
        low, high = 10.0 ** self.y_range[0], 10.0 ** self.y_range[1]
        for power in range(self.x_range[0], self.x_range[1] + 1):
            ends = self.at(10.0**power, low), self.at(10.0**power, high)
            self.draw.line(ends, _LINE, _SCALE)
            x, y = ends[0]
            self.draw.text((x, y + 8 * _SCALE), f"{10**power:,}", _SOFT, self.font, anchor="mt")
        for power in range(self.y_range[0], self.y_range[1] + 1):
            left, right = self.x_range
            ends = self.at(10.0**left, 10.0**power), self.at(10.0**right, 10.0**power)
            self.draw.line(ends, _LINE, _SCALE)
            x, y = ends[0]
            text = ("< " if 10.0**power <= KL_FLOOR else "") + f"{10.0**power:g}"
            self.draw.text((x - 6 * _SCALE, y), text, _SOFT, self.font, anchor="rm")
        middle = (self.left + self.width - self.right) / 2 * _SCALE
        names = (self.height - 8) * _SCALE
        self.draw.text((middle, names), "edges kept", _INK, self.font, anchor="ms")
        self.draw.text((10 * _SCALE, 10 * _SCALE), "KL (nats)", _INK, self.font)
        corner = (self.width - self.right) * _SCALE, 10 * _SCALE
        self.draw.text(corner, title, _SOFT, self.font, anchor="ra")

    def line(self, curve: Curve, fill: str, width: int) -> None:
        """One curve, from sparse to dense."""
        points = [self.at(float(n), kl) for n, kl in sorted(curve)]
        if len(points) > 1:
            self.draw.line(points, fill, width, joint="curve")

    def dot(self, n_edges: float, kl: float) -> None:
        """A mark at one circuit."""
        self.draw.circle(self.at(n_edges, kl), 3.5 * _SCALE, _NOW)


def _decades(logarithms: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around some numbers, two at least."""
    low = math.floor(min(logarithms) + 1e-9)
    return low, max(low + 1, math.ceil(max(logarithms) - 1e-9))


def _mixed(colour: str, share: float) -> str:
    """A colour mixed with white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 + share * (part - 255)):02x}" for part in parts)
