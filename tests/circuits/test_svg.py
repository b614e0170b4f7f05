"""The drawing of a circuit: every kept edge once, in the colour of its reader, nothing active."""

import re
from xml.etree import ElementTree

import pytest
import torch

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import KIND_COLOURS
from circuitprune.circuits.svg import MOST, circuit_svg

SVG = "{http://www.w3.org/2000/svg}"


def lines(svg):
    """(edge name, colour, width) of every drawn line, in drawing order."""
    found = ElementTree.fromstring(svg).findall(f"{SVG}path[{SVG}title]")
    return [(p[0].text, p.get("stroke"), float(p.get("stroke-width"))) for p in found]


def boxes(svg):
    """Each node, and whether its box is drawn as kept."""
    groups = ElementTree.fromstring(svg).findall(f"{SVG}g[@data-node]")
    return {g.get("data-node"): g.find(f"{SVG}rect").get("stroke") == "#1b2027" for g in groups}


def test_every_kept_edge_is_drawn_in_its_readers_colour():
    graph = Graph(2, 2, 2)
    names = ["input->a0.h1<q>", "input->m0", "a0.h1->a1.h0<k>", "m0->a1.h0<v>", "a1.h0->logits"]
    circuit = Circuit.from_names(graph, names)
    drawn = lines(circuit_svg(graph, circuit.mask))
    kinds = dict(zip(names, ("q", "mlp", "k", "v", "logits"), strict=True))
    assert {name: colour for name, colour, _ in drawn} == {n: KIND_COLOURS[kinds[n]] for n in names}
    assert len(drawn) == len(names)
    assert len({width for *_, width in drawn}) == 1  # no scores: all alike


def test_stronger_edges_are_wider_and_drawn_last():
    graph = Graph(1, 1, 1)
    mask = graph.mask_of(["input->m0", "m0->logits", "input->logits"])
    scores = torch.zeros(graph.n_edges)
    for name, score in (("input->m0", 3.0), ("m0->logits", 2.0), ("input->logits", -1.0)):
        scores[graph.edge_index(name)] = score
    drawn = lines(circuit_svg(graph, mask, scores))
    assert [name for name, *_ in drawn] == ["input->logits", "m0->logits", "input->m0"]
    widths = [width for *_, width in drawn]
    assert widths == sorted(widths) and len(set(widths)) == 3


def test_nodes_without_an_edge_are_faint():
    graph = Graph(1, 2, 2)
    shown = boxes(circuit_svg(graph, graph.mask_of(["input->a0.h1<v>", "a0.h1->logits"])))
    assert set(shown) == {*graph.writers, "logits"}
    assert {name for name, kept in shown.items() if kept} == {"input", "a0.h1", "logits"}


def test_a_shared_reader_is_drawn_once_for_its_group():
    graph = Graph(1, 4, 2)
    svg = circuit_svg(graph, graph.mask_of(["input->a0.kv1<v>", "a0.h3->logits"]))
    assert [name for name, *_ in lines(svg)].count("input->a0.kv1<v>") == 1
    shown = boxes(svg)
    assert {name for name, kept in shown.items() if kept} == {
        *("input", "a0.kv1", "a0.h3", "logits")
    }


def test_a_large_circuit_shows_its_strongest_edges_and_says_so():
    graph = Graph(4, 4, 4)
    scores = torch.arange(graph.n_edges, dtype=torch.float32)
    svg = circuit_svg(graph, torch.ones(graph.n_edges, dtype=torch.bool), scores)
    assert {name for name, *_ in lines(svg)} == set(graph.edges[-MOST:])
    assert f"{graph.n_edges:,} of {graph.n_edges:,} edges, the {MOST} strongest drawn" in svg


@pytest.mark.parametrize("graph", [Graph(1, 1, 1), Graph(3, 8, 2), Graph(2, 3, 3, parallel=True)])
def test_boxes_stay_inside(graph):
    svg = ElementTree.fromstring(circuit_svg(graph, torch.zeros(graph.n_edges, dtype=torch.bool)))
    _, _, width, height = map(float, svg.get("viewBox").split())
    for box in svg.findall(f"{SVG}g/{SVG}rect"):
        x, y, w, h = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height - 20  # the key is below


def test_the_notebook_view_is_inert_and_holds_the_drawing():
    graph = Graph(1, 1, 1)
    hostile = {"task": "</svg><script>alert(1)</script>", "model": '"><img src=x onerror=y>'}
    page = Circuit(graph, graph.mask_of(["input->m0"]), None, hostile)._repr_html_()
    assert page.startswith("<svg") and "input-&gt;m0" in page
    assert not re.search(r"<(script|img|iframe|a)\b|url\(|javascript:", page)
    assert "&lt;script&gt;" in page
