"""Random circuits beside a comparison: as many as asked for, without the circuit itself."""

import pytest
import torch

from circuitprune.circuits.graph import Graph
from circuitprune.evidence.baselines import AmongRandom, among_random, draw_baselines, flat
from circuitprune.evidence.bootstrap import Interval
from circuitprune.evidence.draws import DRAWS


def exactly(value):
    return Interval(value, value, value)


def test_copies_of_the_circuit_are_left_out_and_the_rest_stays():
    graph = Graph(1, 2, 2)
    mask = graph.mask_of(["input->a0.h0<v>", "a0.h0->logits"])
    baselines = draw_baselines(graph, {"x": mask}, 8)
    generator = torch.Generator().manual_seed(0)
    for family, found in baselines["x"].items():
        drawn = [DRAWS[family](graph, mask, generator) for _ in range(8)]
        others = {i: d for i, d in enumerate(drawn) if not torch.equal(d, mask)}
        assert list(found) == [f"{family} {i} for x" for i in others]
        assert all(map(torch.equal, found.values(), others.values()))
    assert 0 < len(baselines["x"]["relabelled"]) < 8


def test_a_circuit_is_not_held_against_itself():
    graph = Graph(1, 2, 2)
    mask = graph.mask_of(["input->a0.h0<v>", "a0.h0->logits"])
    baselines = draw_baselines(graph, {"x": mask}, 5)
    shares = {name: exactly(0.25) for name in flat(baselines)} | {"x": exactly(1.0)}
    n = len(baselines["x"]["relabelled"])
    place = among_random(shares.__getitem__, "x", baselines)["relabelled"]
    assert (place.n, place.mean, place.beaten) == (n, pytest.approx(0.25), 1.0)


def test_a_circuit_without_other_circuits_has_no_place():
    graph = Graph(1, 1, 1)
    mask = graph.mask_of(["input->m0", "m0->logits"])
    baselines = draw_baselines(graph, {"x": mask}, 3)
    assert baselines["x"]["relabelled"] == {}
    shares = {name: exactly(1.0) for name in [*flat(baselines), "x"]}
    place = among_random(shares.__getitem__, "x", baselines)["relabelled"]
    assert place == AmongRandom(0, None, None)
