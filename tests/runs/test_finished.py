"""Circuits of finished runs, cut to the same size: the run's own where it has one."""

from pathlib import Path

import pytest
import torch
from tiny import quick_config

from circuitprune.circuits.graph import Graph
from circuitprune.metrics import Evidence
from circuitprune.runs.finished import Found, load_run
from circuitprune.runs.frontier import Frontier, Point, write_results
from circuitprune.runs.settings import to_yaml

GRAPH = Graph(2, 4, 4, d_model=32)
A = ["input->logits", "input->m0", "m0->logits"]
B = ["input->logits", "input->m1", "m1->logits"]
C = [*B, "input->m0", "m0->m1"]


def circuit(names: list[str]) -> torch.Tensor:
    return GRAPH.mask_of(names)


def run_of(folder: Path, selection: str, thresholds: dict[float, list[str]]) -> Found:
    """A finished run with these circuits, the first one chosen; scored as ACDC scores edges."""
    ranking = torch.zeros(GRAPH.n_edges)
    points = []
    for number, (threshold, names) in enumerate(thresholds.items()):
        kl = 0.01 if not number else 0.5
        evidence = dict.fromkeys(("metric", "accuracy", "exact_match", "faithfulness"), 0.5)
        points.append(Point(threshold, circuit(names), Evidence(kl=kl, n=1, **evidence)))
        ranking[circuit(names)] = ranking[circuit(names)].clamp(min=threshold)
    about = {"selection": selection, "model_fingerprint": "f", "pairs_hash": "p"}
    about |= {"task": "t", "model": "m", "ablation": "patch", "split": "test", "metric": "x"}
    whole = points[0].evidence
    write_results(folder, Frontier(GRAPH, about, whole, whole, points), None, ranking, "")
    (folder / "config.yaml").write_text(to_yaml(quick_config(folder)))
    (folder / "COMPLETE").touch()
    return load_run(folder)


@pytest.mark.parametrize("selection", ["acdc", "top_n_raw", "top_n", "greedy", "threshold"])
def test_a_size_that_a_run_has_is_its_own_circuit(tmp_path, selection):
    """ACDC's circuits are not nested, so no ranking cuts all of them."""
    found = run_of(tmp_path, selection, {0.1: B, 0.5: A, 0.01: C})
    assert torch.equal(found.mask, circuit(B))
    assert torch.equal(found.cut(3), circuit(B))  # the chosen one of two with three edges
    assert torch.equal(found.cut(5), circuit(C))


def test_a_run_of_acdc_is_not_cut_to_edges_that_no_threshold_kept(tmp_path):
    found = run_of(tmp_path, "acdc", {0.1: B, 0.5: A, 0.01: C})
    kept = circuit(A) | circuit(B) | circuit(C)
    for n_edges in range(40):
        mask = found.cut(n_edges)
        assert mask.sum() <= n_edges and not (mask & ~kept).any()
    assert torch.equal(found.cut(40), kept)
    assert found.cut(1).sum() == 1
