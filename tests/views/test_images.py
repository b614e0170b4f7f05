"""Pictures of a mask against a loop over edge names."""

import math

import pytest
import torch
from torch.testing import assert_close

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import KIND_COLOURS, along, place, strokes
from circuitprune.views.tensorboard.images import (
    KL_FLOOR,
    circuit_image,
    density_image,
    frontier_image,
    layer_density,
)

GRAPHS = {
    "sequential": Graph(3, 4, 4),
    "parallel": Graph(3, 4, 4, parallel=True),
    "grouped": Graph(2, 4, 2),
    "one_layer": Graph(1, 1, 1),
}
EMPTY, FULL, IMPOSSIBLE, LINE = (247, 249, 252), (8, 48, 107), (225, 225, 225), (255, 255, 255)


@pytest.fixture(params=GRAPHS)
def graph(request) -> Graph:
    return GRAPHS[request.param]


def random_mask(graph, seed=0, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(graph.n_edges, generator=generator) < share


def layer_of(node, n_layers):
    """`a2.h3<q>` and `m2` are in layer 2, `logits` behind all and `input` before all."""
    if node in ("input", "logits"):
        return -1 if node == "input" else n_layers
    return int(node[1:].split(".")[0])


def slow_density(graph, mask):
    n = graph.n_layers + 1
    kept, total = torch.zeros(2, n, n)
    for edge, keep in zip(graph.edges, mask.tolist(), strict=True):
        writer, reader = edge.split("->")
        row, column = layer_of(reader, graph.n_layers), layer_of(writer, graph.n_layers) + 1
        kept[row, column] += keep
        total[row, column] += 1
    return kept / total


@pytest.mark.parametrize("seed", range(2))
def test_density_is_the_slow_loop(graph, seed):
    mask = random_mask(graph, seed)
    assert_close(layer_density(graph, mask), slow_density(graph, mask), equal_nan=True)


def test_cells_without_an_edge_are_nan(graph):
    """A layer is read by later ones, by its own MLP unless blocks are parallel, and by logits."""
    density = layer_density(graph, torch.ones(graph.n_edges, dtype=torch.bool))
    for reader in range(graph.n_layers + 1):
        for writer in range(-1, graph.n_layers):
            within = writer == reader and not graph.parallel
            expected = 1.0 if writer < reader or within else math.nan
            assert_close(density[reader, writer + 1].item(), expected, equal_nan=True)


def pixel(image, row, column, cell):
    """A pixel inside a cell; row 0 is the top."""
    return tuple(image[:, row * cell + cell // 2, column * cell + cell // 2].tolist())


@pytest.mark.parametrize("cell", [3, 24])
def test_image_is_one_square_of_pixels_per_cell(graph, cell):
    image = density_image(graph, random_mask(graph), cell)
    side = (graph.n_layers + 1) * cell
    assert image.shape == (3, side, side) and image.dtype == torch.uint8
    for at in range(0, side, cell):
        assert (image[:, at] == 255).all() and (image[:, :, at] == 255).all()


def test_colours_from_top_to_bottom(graph):
    """Logits on top, layer 0 at the bottom, the input on the left."""
    empty = torch.zeros(graph.n_edges, dtype=torch.bool)
    cell, n = 8, graph.n_layers + 1
    images = density_image(graph, empty, cell), density_image(graph, ~empty, cell)
    possible = layer_density(graph, empty).isfinite()
    for row in range(n):
        for column in range(n):
            shown = tuple(pixel(image, row, column, cell) for image in images)
            exists = possible[n - 1 - row, column]
            assert shown == ((EMPTY, FULL) if exists else (IMPOSSIBLE, IMPOSSIBLE))
    assert all(possible[-1])
    assert possible.all() == (graph.n_layers == 1 and not graph.parallel)


def test_one_kept_edge_darkens_its_own_cell():
    graph = GRAPHS["sequential"]
    mask = torch.zeros(graph.n_edges, dtype=torch.bool)
    mask[graph.edge_index("m0->m2")] = True
    image = density_image(graph, mask, 8)
    shade = math.sqrt(1 / (5 * 13))  # writers of layer 0 times readers of layer 2
    expected = tuple(
        round(low + shade * (high - low)) for low, high in zip(EMPTY, FULL, strict=True)
    )
    assert pixel(image, 1, 1, 8) == expected
    assert pixel(image, 0, 1, 8) == pixel(image, 2, 1, 8) == EMPTY


# ---------------------------------------------------------------- the circuit


def colour(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def pixel_of(image, layout, x, y):
    """The pixel at a place of the layout; the header is on top."""
    width, height = image.shape[2], image.shape[1]
    across, down = x / layout.width * width, (1 - y / (layout.height + 1.3)) * height
    return tuple(image[:, int(down), int(across)].tolist())


def test_circuit_is_an_image_of_moderate_size(graph):
    image = circuit_image(graph, random_mask(graph), None, "a title")
    assert image.dtype == torch.uint8 and image.shape[0] == 3 and max(image.shape) <= 1800
    assert tuple(image[:, 0, 0].tolist()) == (255, 255, 255)


@pytest.mark.parametrize(
    "edge", ["input->a2.h3<k>", "a0.h2->m1", "m0->a2.h0<v>", "input->logits", "m1->a2.h2<q>"]
)
def test_a_kept_edge_is_drawn_in_the_colour_of_its_port(edge):
    """All along the curve, but not where boxes lie on it."""
    graph = GRAPHS["sequential"]
    mask, layout = graph.mask_of([edge]), place(graph)
    image, empty = circuit_image(graph, mask), circuit_image(graph, mask & False)
    (stroke,) = strokes(layout, graph, mask, torch.ones(graph.n_edges))
    points = along(stroke.points, 40)[2:-2].tolist()
    clear = [
        (x, y)
        for x, y in points
        if not any(
            abs(x - n.x) < n.width / 2 + 0.1 and abs(y - n.y) < n.height / 2 + 0.1
            for n in layout.nodes.values()
        )
    ]
    assert len(clear) > 8
    for x, y in clear:
        assert pixel_of(image, layout, x, y) == colour(KIND_COLOURS[stroke.kind])
        assert pixel_of(empty, layout, x, y) != colour(KIND_COLOURS[stroke.kind])


def inked(image, kind):
    """Pixels below the header in exactly the colour of a kind."""
    wanted = torch.tensor(colour(KIND_COLOURS[kind]))[:, None, None]
    return int((image == wanted).all(dim=0)[60:].sum())


def test_only_the_kinds_of_kept_edges_are_inked_and_the_stronger_more():
    graph = GRAPHS["sequential"]
    mask = graph.mask_of(["input->a1.h1<q>", "input->a1.h2<v>"])
    scores = torch.zeros(graph.n_edges)
    scores[graph.edge_index("input->a1.h1<q>")] = 5.0
    image = circuit_image(graph, mask, scores)
    assert inked(image, "q") > 2 * inked(image, "v") > 0
    assert inked(image, "k") == inked(image, "mlp") == 0
    other = circuit_image(graph, graph.mask_of(["input->a1.h1<q>"]))
    assert inked(image, "logits") == inked(
        other, "logits"
    )  # the numbers of layers have that colour


def test_boxes_of_kept_nodes_are_dark_and_of_others_pale():
    graph = GRAPHS["grouped"]
    layout, mask = place(graph), graph.mask_of(["input->a1.kv0<k>", "a1.h0->logits"])
    image = circuit_image(graph, mask)

    def darkest(name):
        node = layout.nodes[name]
        spots = [node.x - node.width / 2 + shift for shift in (-0.02, 0.0, 0.02, 0.04)]
        return min(sum(pixel_of(image, layout, x, node.y)) for x in spots)

    assert darkest("a1.h0") < darkest("a1.h3") - 200
    kv = [layout.nodes[f"a1.kv{group}"] for group in (0, 1)]
    shades = [sum(pixel_of(image, layout, node.x - node.width / 4, node.y)) for node in kv]
    assert shades[0] < shades[1]


def test_a_large_model_is_drawn_without_the_nodes_that_are_cut():
    graph = Graph(30, 32, 8)
    mask = graph.mask_of(["input->a3.h30<q>", "a3.h30->m20", "m20->logits"])
    image = circuit_image(graph, mask)
    assert image.shape[1] < 1000  # three rows, not thirty-two


def test_of_a_huge_circuit_the_strongest_edges_are_drawn():
    graph = GRAPHS["sequential"]
    scores = torch.where(torch.tensor([k == "q" for k in graph.reader_kind]), 1.0, 2.0)
    scores = scores[graph.edge_reader]
    everything = torch.ones(graph.n_edges, dtype=torch.bool)
    n_others = int((scores == 2).sum())
    full = circuit_image(graph, everything, scores)
    few = circuit_image(graph, everything, scores, most=n_others)
    assert inked(full, "q") > 0 == inked(few, "q") and inked(few, "k") > 0


# ---------------------------------------------------------------- the frontier

NOW = [(1, 1.0), (10, 0.1), (100, 0.01)]
BLUE = (0, 114, 178)


def find(image, wanted):
    rows, columns = (image == torch.tensor(wanted)[:, None, None]).all(dim=0).nonzero(as_tuple=True)
    return rows, columns


def test_frontier_falls_on_a_straight_line_on_logarithmic_axes():
    image = frontier_image(NOW)
    assert image.shape == (3, 800, 1120) and image.dtype == torch.uint8
    rows, columns = find(image, BLUE)
    slope = (rows.max() - rows.min()) / (columns.max() - columns.min())
    ends = rows[columns == columns.min()].float().mean(), rows[columns == columns.max()]
    assert ends[0] < ends[1].float().mean()
    inside = (400 - 40 - 50) / (560 - 70 - 30)
    assert slope.item() == pytest.approx(inside, rel=0.05)
    middle = rows[(columns - 600).abs() <= 1].float().mean().item()
    assert middle == pytest.approx(2 * (40 + inside * (300 - 70)), abs=5)


def test_earlier_frontiers_are_paler():
    image = frontier_image(NOW, [[(1, 0.1), (100, 0.001)]])
    assert len(find(image, (0xC3, 0xC9, 0xD1))[0]) > 100
    assert len(find(frontier_image(NOW), (0xC3, 0xC9, 0xD1))[0]) == 0


def test_what_a_logarithm_cannot_show_is_drawn_at_the_floor():
    """The whole model has a KL of 0, or a rounding error below."""
    zero = frontier_image([(1, 1.0), (1000, 0.0)])
    for kl in (-1e-9, KL_FLOOR / 100, math.nan):
        assert torch.equal(frontier_image([(1, 1.0), (1000, kl)]), zero)
    assert torch.equal(frontier_image([]), frontier_image([], [[]]))
