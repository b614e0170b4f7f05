"""Where nodes stand, how edges run and in what colour: for TensorBoard, figures and DOT alike.

One unit is the distance between two heads; x runs to the right, y upwards from the input. Layers
are rows, heads columns, MLPs stand to the right: above the heads that they read, beside them in
parallel blocks.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph

KIND_COLOURS = {
    "q": "#b8417f",
    "k": "#00805e",
    "v": "#0072b2",
    "mlp": "#b86e00",
    "logits": "#59626e",
}
"""Edge colours by port, those of the report: EAP-IG's magenta, green and blue, told apart by the
colour-blind too and dark enough for white paper."""
KIND_NAMES = {"q": "query", "k": "key", "v": "value", "mlp": "MLP", "logits": "logits"}

STEP = 1.9
"""From one layer to the next."""
_LEFT, _BOX, _MLP = 0.9, 0.5, 1.15
_LIFT = 0.85
"""An MLP's place above its layer's heads."""

Point = tuple[float, float]


class Node(NamedTuple):
    """A box: its centre, its size and what is written in it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """`input`, `head`, `kv` (a group's keys and values), `mlp` or `logits`."""
    label: str


class Stroke(NamedTuple):
    """A kept edge as a cubic Bezier curve."""

    name: str
    kind: str
    """`q`, `k`, `v`, `mlp` or `logits`."""
    strength: float
    """From 0, the weakest kept edge, to 1, the strongest."""
    points: tuple[Point, Point, Point, Point]


@dataclass(frozen=True)
class Layout:
    """Places of the nodes, by name: `input`, `a0.h1`, `a0.kv0`, `m0`, `logits`."""

    width: float
    height: float
    nodes: dict[str, Node]
    layers: dict[int, float]
    """Height of each layer's heads."""


# ---------------------------------------------------------------- nodes


def place(graph: Graph, only: Collection[str] | None = None) -> Layout:
    """All nodes of a graph, each in its own place.

    Args:
        graph: The graph.
        only: Names of nodes, as of `kept_nodes` and of shared key/value readers (`a0.kv1`). Others
            get no place: rows close up around the middle, layers without a node are left out.
    """
    rows = {layer: list(_row(graph, layer, only)) for layer in range(graph.n_layers)}
    if only is not None:
        rows = {n: row for n, row in rows.items() if row or f"m{n}" in only}
    widest = max([2, *(len(row) for row in rows.values())])
    middle, right, height = _LEFT + widest / 2, _LEFT + widest, STEP * len(rows) + 1.6
    nodes, layers = {"input": Node(middle, 0.4, 1.4, _BOX, "input", "input")}, {}
    for number, (layer, row) in enumerate(rows.items()):
        layers[layer] = y = 1.6 + STEP * number
        apart = min(1.0 if only is None else 1.8, widest / max(1, len(row)))
        columns = {name: middle + apart * (i - (len(row) - 1) / 2) for i, name in enumerate(row)}
        nodes |= _heads(graph, layer, columns, y, only)
        if only is None or f"m{layer}" in only:
            up = 0.0 if graph.parallel else _LIFT
            nodes[f"m{layer}"] = Node(right + 0.75, y + up, _MLP, _BOX, "mlp", f"MLP {layer}")
    nodes["logits"] = Node(middle, height - 0.4, 1.4, _BOX, "logits", "logits")
    has_mlps = any(node.kind == "mlp" for node in nodes.values())
    return Layout(right + (2.0 if has_mlps else 0.3), height, nodes, layers)


def _row(graph: Graph, layer: int, only: Collection[str] | None) -> Iterator[str]:
    """The heads of a layer, and a group in place of its heads where none of them is kept."""
    size = graph.n_heads // graph.n_kv_readers
    for group in range(graph.n_kv_readers):
        heads = [f"a{layer}.h{head}" for head in range(group * size, (group + 1) * size)]
        kept = heads if only is None else [name for name in heads if name in only]
        yield from kept
        if not kept and f"a{layer}.kv{group}" in (only or ()):
            yield f"a{layer}.kv{group}"


def _heads(
    graph: Graph, layer: int, row: dict[str, float], y: float, only: Collection[str] | None
) -> dict[str, Node]:
    nodes = {
        name: Node(x, y, 0.8, _BOX, "head", f"{layer}.{name.partition('.h')[2]}")
        for name, x in row.items()
        if ".h" in name
    }
    if graph.n_kv_readers == graph.n_heads:
        return nodes
    size = graph.n_heads // graph.n_kv_readers
    for group in range(graph.n_kv_readers):
        name = f"a{layer}.kv{group}"
        heads = {f"a{layer}.h{head}" for head in range(group * size, (group + 1) * size)}
        under = [x for member, x in row.items() if member in heads or member == name]
        if under and (only is None or name in only):
            width, middle = under[-1] - under[0] + 0.8, (under[0] + under[-1]) / 2
            nodes[name] = Node(middle, y - 0.45, width, 0.14, "kv", "")
    return nodes


def drawn_nodes(graph: Graph, mask: Bool[Tensor, " edge"]) -> set[str]:
    """Names of the nodes that a kept edge leaves or enters, shared key/value readers among them."""
    writers = graph.edge_writer[mask].unique().tolist()
    readers = graph.edge_reader[mask].unique().tolist()
    names = {graph.writers[writer] for writer in writers}
    return names | {graph.readers[reader].partition("<")[0] for reader in readers}


# ---------------------------------------------------------------- edges


def strengths(
    scores: Float[Tensor, " edge"] | None, mask: Bool[Tensor, " edge"]
) -> Float[Tensor, " edge"]:
    """For each kept edge its place between the weakest and the strongest, on a square-root scale.

    From 0 to 1; 0.6 where all kept edges are alike or have no scores, 0 for an edge of score NaN.
    """
    values = torch.full(mask.shape, torch.nan) if scores is None else scores.detach().cpu().float()
    kept = values[mask & values.isfinite()]
    if len(kept) == 0 or kept.min() == kept.max():
        return torch.full(mask.shape, 0.6)
    share = (values - kept.min()) / (kept.max() - kept.min())
    return share.nan_to_num(0, 1, 0).clamp(0, 1).sqrt()


def strokes(
    layout: Layout, graph: Graph, mask: Bool[Tensor, " edge"], strength: Float[Tensor, " edge"]
) -> list[Stroke]:
    """The kept edges, the strongest last so that it is drawn on top."""
    found = []
    for edge in mask.nonzero().flatten().tolist():
        writer = graph.writers[int(graph.edge_writer[edge])]
        reader = int(graph.edge_reader[edge])
        kind, name = graph.reader_kind[reader], graph.readers[reader]
        start, end = layout.nodes[writer], layout.nodes[name.partition("<")[0]]
        points = curve(start, end, kind)
        found.append(Stroke(f"{writer}->{name}", kind, float(strength[edge]), points))
    return sorted(found, key=lambda stroke: stroke.strength)


def port(node: Node, kind: str) -> Point:
    """Where edges of a kind enter a node: q, k, v from left to right."""
    if node.kind == "kv":
        shift = -0.12 if kind == "k" else 0.12
    else:
        shift = {"q": -0.26, "k": 0.0, "v": 0.26}.get(kind, 0.0)
    return node.x + shift, node.y - node.height / 2


def curve(start: Node, end: Node, kind: str) -> tuple[Point, Point, Point, Point]:
    """From the top of a writer to a port; nodes in one column are joined around those between."""
    x, y = start.x, start.y + start.height / 2
    to_x, to_y = port(end, kind)
    rise = to_y - y
    pull = max(0.25, 0.45 * rise)
    around = abs(to_x - x) < 0.5 and rise > STEP
    bow = min(0.45 + 0.12 * rise, 1.5) if around else 0.0
    return (x, y), (x + bow, y + pull), (to_x + bow, to_y - pull), (to_x, to_y)


def along(points: tuple[Point, Point, Point, Point], n: int = 16) -> Float[Tensor, "n 2"]:
    """`n` points of a cubic Bezier curve, both ends among them."""
    t = torch.linspace(0, 1, n)
    weights = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    return weights @ torch.tensor(points)
