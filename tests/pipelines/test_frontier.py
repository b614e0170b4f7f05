"""Circuits cut from a ranking: which edges they may hold, and which pairs they are judged by."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import quick_config, save_model, save_pairs

from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import select_sizes
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.errors import DataError
from circuitprune.pipelines.frontier import cut, ranked_frontier
from circuitprune.pipelines.setup import Setup, make_setup

SIZES = (0.05, 0.2, 0.5, 1.0)
RANKING = torch.randn(110, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def setup(home) -> Setup:
    return make_setup(quick_config(home))


def numbers(evidence):
    return [getattr(evidence, name) for name in ("kl", "metric", "accuracy", "exact_match", "n")]


def test_circuits_are_verified_on_test_pairs_and_chosen_by_validation_pairs(setup):
    found = ranked_frontier(setup, RANKING)
    masks = select_sizes(setup.gated.graph, RANKING, SIZES)
    assert found.provenance["split"] == "test"
    for split, n in (("test", 20), ("val", 8)):
        batches = setup.data.batches(split, 64)
        masked = {str(size): mask for size, mask in masks.items()}
        masked["empty"] = setup.gated.graph.no_edges()
        expected = evaluate(setup.references, masked, batches, setup.task_metric)
        full = evaluate_full(setup.references, batches, setup.task_metric)
        for point in found.points:
            seen = point.evidence if split == "test" else point.validation
            wanted = expected[str(point.size)].against(full, expected["empty"])
            assert torch.equal(point.mask, masks[point.size])
            assert numbers(seen) == pytest.approx(numbers(wanted)) and seen.n == n
            assert seen.faithfulness == pytest.approx(wanted.faithfulness)
            assert point.judged is point.validation
    good = replace(found.points[1].validation, kl=0.0, faithfulness=1.0)
    points = [replace(p, validation=replace(p.validation, kl=9.0)) for p in found.points]
    points[1] = replace(points[1], validation=good)
    assert replace(found, points=points).chosen() is points[1]


@pytest.mark.parametrize(
    ("sides", "split"),
    [
        (["task.n_val=0"], "test"),
        (["task.n_test=0"], "val"),
        (["task.n_val=0", "task.n_test=0"], "train"),
    ],
)
def test_without_pairs_to_choose_by_a_circuit_is_chosen_by_those_it_is_verified_on(
    home, sides, split
):
    found = ranked_frontier(make_setup(quick_config(home, *sides)), RANKING)
    assert found.provenance["split"] == split
    assert all(point.validation is None for point in found.points)


def test_an_edge_without_a_rank_is_in_no_circuit(setup):
    some = RANKING.clone()
    some[::3] = torch.nan
    graph, known = setup.gated.graph, ~some.isnan()
    whole = select_sizes(graph, some.nan_to_num(-torch.inf), SIZES)
    for size, mask in cut(setup, some).items():
        assert not (mask & ~known).any() and torch.equal(mask, live_edges(graph, mask))
        assert torch.equal(mask, live_edges(graph, whole[size] & known))
    assert cut(setup, some)[1.0].sum() > 30


def test_thresholds_cut_where_sizes_would(home, setup):
    config = quick_config(home, "verify.selection=threshold", "verify.thresholds=[0.3, -0.2]")
    found = cut(replace(setup, config=config), RANKING)
    assert list(found) == [0.3, -0.2]
    for threshold, mask in found.items():
        assert torch.equal(mask, live_edges(setup.gated.graph, RANKING.ge(threshold)))


def test_a_model_just_good_enough_may_go_on(home, setup):
    accuracy = setup.full.accuracy
    assert 0 < accuracy < 1
    exact = make_setup(quick_config(home, f"task.min_accuracy={accuracy}"))
    assert exact.full.accuracy == accuracy
    with pytest.raises(DataError, match="cannot do this task"):
        make_setup(quick_config(home, f"task.min_accuracy={accuracy + 1e-6}"))
