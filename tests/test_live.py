"""Pictures of a mask against a loop over edge names."""

import math

import pytest
import torch
from torch.testing import assert_close

from circuitprune.graph import Graph
from circuitprune.live import density_image, layer_density

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
