"""Where nodes stand and how edges run: nothing overlaps, nothing is lost, layers rise."""

from itertools import combinations

import pytest
import torch
from torch.testing import assert_close

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import (
    Node,
    along,
    curve,
    drawn_nodes,
    place,
    port,
    strengths,
    strokes,
)
from circuitprune.circuits.selection import select

GRAPHS = {
    "sequential": Graph(3, 4, 4),
    "parallel": Graph(3, 4, 4, parallel=True),
    "grouped": Graph(4, 8, 2),
    "one_layer": Graph(1, 1, 1),
    "large": Graph(20, 32, 8),
}


@pytest.fixture(params=GRAPHS)
def graph(request) -> Graph:
    return GRAPHS[request.param]


def some_mask(graph, share=0.2):
    scores = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(1))
    return select(graph, scores, max(1, min(100, int(share * graph.n_edges))))


def overlap(a, b):
    beside = abs(a.x - b.x) < (a.width + b.width) / 2
    return beside and abs(a.y - b.y) < (a.height + b.height) / 2


def assert_in_place(layout):
    for a, b in combinations(layout.nodes.values(), 2):
        assert not overlap(a, b), (a, b)
    for node in layout.nodes.values():
        assert node.width / 2 <= node.x <= layout.width - node.width / 2
        assert node.height / 2 <= node.y <= layout.height - node.height / 2


def test_every_node_has_a_place_of_its_own(graph):
    layout = place(graph)
    groups = {f"a{n}.kv{i}" for n in range(graph.n_layers) for i in range(graph.n_kv_readers)}
    shared = groups if graph.n_kv_readers < graph.n_heads else set()
    assert set(layout.nodes) == {*graph.writers, "logits"} | shared
    assert_in_place(layout)


def test_nodes_rise_with_their_layers_and_heads_stand_in_columns(graph):
    layout, last = place(graph), 0.0
    for layer in range(graph.n_layers):
        heads = [layout.nodes[f"a{layer}.h{head}"] for head in range(graph.n_heads)]
        assert {node.y for node in heads} == {layout.layers[layer]}
        assert [node.x for node in heads] == sorted({node.x for node in heads})
        assert [n.x for n in heads] == [layout.nodes[f"a0.h{i}"].x for i in range(graph.n_heads)]
        mlp = layout.nodes[f"m{layer}"]
        assert (mlp.y == heads[0].y) if graph.parallel else (mlp.y > heads[0].y)
        assert last < heads[0].y
        last = mlp.y
    assert layout.nodes["input"].y < layout.layers[0] and last < layout.nodes["logits"].y


@pytest.mark.parametrize("kept", [False, True])
def test_a_shared_key_and_value_stands_under_its_heads(kept):
    graph = GRAPHS["grouped"]
    layout = place(graph, {*graph.writers, "a1.kv0", "a1.kv1"} if kept else None)
    for group in range(2):
        bar = layout.nodes[f"a1.kv{group}"]
        heads = [layout.nodes[f"a1.h{head}"] for head in range(4 * group, 4 * group + 4)]
        left, right = heads[0], heads[-1]
        assert bar.x == pytest.approx((left.x + right.x) / 2)
        assert bar.x - bar.width / 2 == pytest.approx(left.x - left.width / 2)
        assert bar.x + bar.width / 2 == pytest.approx(right.x + right.width / 2)
        assert bar.y + bar.height / 2 < left.y - left.height / 2
    assert {node.label for node in layout.nodes.values() if node.kind == "head"} >= {"0.0", "3.7"}


def test_only_kept_nodes_are_placed_if_asked(graph):
    mask = some_mask(graph)
    kept = drawn_nodes(graph, mask)
    layout = place(graph, kept)
    assert set(layout.nodes) == kept | {"input", "logits"}
    assert_in_place(layout)
    layers = {int(name[1:].split(".")[0]) for name in kept - {"input", "logits"}}
    assert set(layout.layers) == layers
    assert len(strokes(layout, graph, mask, torch.ones(graph.n_edges))) == int(mask.sum())


def test_drawn_nodes_are_the_ends_of_kept_edges(graph):
    mask = some_mask(graph)
    names = [edge for edge, kept in zip(graph.edges, mask.tolist(), strict=True) if kept]
    ends = {end.partition("<")[0] for name in names for end in name.split("->")}
    assert drawn_nodes(graph, mask) == ends


def test_each_kept_edge_runs_up_from_its_writer_to_its_port(graph):
    mask, layout = some_mask(graph), place(graph)
    drawn = strokes(layout, graph, mask, torch.ones(graph.n_edges))
    kept = {edge for edge, keep in zip(graph.edges, mask.tolist(), strict=True) if keep}
    assert {stroke.name for stroke in drawn} == kept
    for stroke in drawn:
        writer, _, reader = stroke.name.partition("->")
        start, end = layout.nodes[writer], layout.nodes[reader.partition("<")[0]]
        assert stroke.kind == graph.reader_kind[graph.reader_index(reader)]
        assert stroke.points[0] == (start.x, start.y + start.height / 2)
        assert stroke.points[3] == port(end, stroke.kind)
        assert stroke.points[3][1] > stroke.points[0][1]


def test_ports_stand_from_left_to_right():
    node = place(Graph(1, 1, 1)).nodes["a0.h0"]
    q, k, v = (port(node, kind) for kind in "qkv")
    assert q[0] < k[0] == node.x < v[0]
    assert {y for _, y in (q, k, v)} == {node.y - node.height / 2}
    shared = place(Graph(1, 2, 1)).nodes["a0.kv0"]
    assert port(shared, "k")[0] < shared.x < port(shared, "v")[0]


def test_strength_is_the_root_of_the_place_between_weakest_and_strongest():
    mask = torch.tensor([True, True, True, False, True])
    scores = torch.tensor([1.0, 5.0, 2.0, 99.0, torch.nan])
    assert_close(strengths(scores, mask)[mask], torch.tensor([0.0, 1.0, 0.5, 0.0]))
    alike = torch.full((5,), 0.6)
    assert_close(strengths(None, mask), alike)
    assert_close(strengths(torch.ones(5), mask), alike)
    assert_close(strengths(scores, torch.zeros(5, dtype=torch.bool)), alike)


def test_the_strongest_edge_is_drawn_last():
    graph = GRAPHS["sequential"]
    mask, strength = some_mask(graph), torch.rand(graph.n_edges)
    drawn = [stroke.strength for stroke in strokes(place(graph), graph, mask, strength)]
    assert drawn == sorted(drawn) and drawn[-1] == strength[mask].max().item()


def test_a_curve_leaves_upwards_by_some_of_the_way_and_by_no_less_than_a_little():
    low = Node(0.0, 0.0, 1.0, 0.4, "input", "input")
    for rise, pull in ((0.3, 0.25), (2.0, 0.9)):
        high = Node(3.0, rise + low.height, 1.0, 0.4, "logits", "logits")
        start, leaves, arrives, end = curve(low, high, "logits")
        assert end[1] - start[1] == pytest.approx(rise)
        assert leaves == pytest.approx((start[0], start[1] + pull))
        assert arrives == pytest.approx((end[0], end[1] - pull))


def test_a_curve_has_its_ends_and_its_middle():
    points = (0.0, 0.0), (0.0, 1.0), (2.0, 1.0), (2.0, 2.0)
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert_close(along(points, 3), expected)
