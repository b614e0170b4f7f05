"""Random circuits beside a comparison: as many as asked for, without the circuit itself."""

import pytest
import torch

from circuitprune.circuits.graph import Graph
from circuitprune.evidence.controls import against, draw_controls, flat
from circuitprune.evidence.random_circuits import DRAWS


def test_copies_of_the_circuit_are_left_out_and_the_rest_stays():
    graph = Graph(1, 2, 2)
    mask = graph.mask_of(["input->a0.h0<v>", "a0.h0->logits"])
    controls = draw_controls(graph, {"x": mask}, 8)
    generator = torch.Generator().manual_seed(0)
    for family, found in controls["x"].items():
        drawn = [DRAWS[family](graph, mask, generator) for _ in range(8)]
        others = {i: d for i, d in enumerate(drawn) if not torch.equal(d, mask)}
        assert list(found) == [f"{family} {i} for x" for i in others]
        assert all(map(torch.equal, found.values(), others.values()))
    assert 0 < len(controls["x"]["relabelled"]) < 8


def test_a_circuit_is_not_held_against_itself():
    graph = Graph(1, 2, 2)
    mask = graph.mask_of(["input->a0.h0<v>", "a0.h0->logits"])
    controls = draw_controls(graph, {"x": mask}, 5)
    shares = {name: {"value": 0.25} for name in flat(controls)} | {"x": {"value": 1.0}}
    n = len(controls["x"]["relabelled"])
    assert against(shares.__getitem__, "x", controls)["relabelled"] == {
        "n": n,
        "mean": pytest.approx(0.25),
        "beaten": 1.0,
    }


def test_a_circuit_without_other_circuits_has_no_place():
    graph = Graph(1, 1, 1)
    mask = graph.mask_of(["input->m0", "m0->logits"])
    controls = draw_controls(graph, {"x": mask}, 3)
    assert controls["x"]["relabelled"] == {}
    shares = {name: {"value": 1.0} for name in [*flat(controls), "x"]}
    place = against(shares.__getitem__, "x", controls)["relabelled"]
    assert place == {"n": 0, "mean": None, "beaten": None}
