"""Circuits of finished runs, cut to the same size: the run's own where it has one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import quick_config

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.selection import select
from circuitprune.files.whole import write_tensors
from circuitprune.metrics import Evidence
from circuitprune.runs.finished import Found, full_ranking, load_found, load_run, run_circuit
from circuitprune.runs.frontier import Frontier, Point, read_results, write_results
from circuitprune.runs.settings import to_yaml

GRAPH = Graph(2, 4, 4, d_model=32)
A = ["input->logits", "input->m0", "m0->logits"]
B = ["input->logits", "input->m1", "m1->logits"]
C = [*B, "input->m0", "m0->m1"]


def circuit(names: list[str]) -> torch.Tensor:
    return GRAPH.mask_of(names)


def run_of(
    folder: Path, selection: str, thresholds: dict[float, list[str]], scores: bool = False
) -> Found:
    """A finished run with these circuits, the first one chosen; scored as ACDC scores edges.

    With the scores in a file of their own, or without, as of a run of another program.
    """
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
    if scores:
        write_tensors(folder / "scores.safetensors", {"scores": -ranking})
    (folder / "COMPLETE").touch()
    return load_run(folder)


@pytest.mark.parametrize("selection", ["acdc", "top_n_raw", "top_n", "greedy", "threshold"])
def test_a_size_that_a_run_has_is_its_own_circuit(tmp_path, selection):
    """ACDC's circuits are not nested, so no ranking cuts all of them."""
    found = run_of(tmp_path, selection, {0.1: B, 0.5: A, 0.01: C})
    assert torch.equal(found.mask, circuit(B))
    assert torch.equal(found.cut(3), circuit(B))  # the chosen one of two with three edges
    assert torch.equal(found.cut(5), circuit(C))


@pytest.mark.parametrize("scores", [True, False])
def test_a_run_of_acdc_is_not_cut_to_edges_that_no_threshold_kept(tmp_path, scores):
    found = run_of(tmp_path, "acdc", {0.1: B, 0.5: A, 0.01: C}, scores)
    kept = circuit(A) | circuit(B) | circuit(C)
    for n_edges in range(40):
        mask = found.cut(n_edges)
        assert mask.sum() <= n_edges and not (mask & ~kept).any()
    assert torch.equal(found.cut(40), kept)
    assert found.cut(1).sum() == 1


@pytest.mark.parametrize("selection", ["top_n", "top_n_raw", "greedy", "acdc"])
def test_a_size_that_a_run_has_not_is_cut_as_the_run_cut_its_own(tmp_path, selection):
    """By live edges, in the run's own order; `top_n_raw` and ACDC count what dangles."""
    run_of(tmp_path, selection, {0.1: B, 0.5: A})
    ranking = torch.rand(GRAPH.n_edges, generator=torch.Generator().manual_seed(0))
    write_tensors(tmp_path / "scores.safetensors", {"scores": -ranking})
    found = load_run(tmp_path)
    method = "greedy" if selection == "greedy" else "top_n"
    for n_edges in (10, 20, 40):
        assert torch.equal(found.cut(n_edges), select(GRAPH, ranking, n_edges, method))
    assert not torch.equal(
        select(GRAPH, ranking, 20, "greedy"), select(GRAPH, ranking, 20, "top_n")
    )


@pytest.mark.parametrize(
    ("size", "n_edges"), [(None, 3), (0.001, 3), (3.9 / 110, 3), (4.1 / 110, 5), (1.0, 5)]
)
def test_a_runs_circuit_is_the_one_nearest_in_size(tmp_path, size, n_edges):
    run_of(tmp_path, "top_n", {0.1: B, 0.01: C}, scores=True)
    found = run_circuit(tmp_path, size)
    assert found.n_edges == n_edges and torch.equal(found.mask, circuit(B if n_edges == 3 else C))
    assert torch.equal(found.ranking, full_ranking(tmp_path, *read_results(tmp_path)))


def test_a_ranking_is_of_every_edge_and_of_the_runs_own_kind(tmp_path):
    run_of(tmp_path, "top_n", {0.1: B, 0.01: C})
    frontier, circuits = read_results(tmp_path)
    kept = circuit(C)
    found = full_ranking(tmp_path, frontier, circuits)
    assert torch.equal(~found.isnan(), kept)
    assert found[circuit(B)].tolist() == pytest.approx([0.1] * 3)
    scores = torch.randn(GRAPH.n_edges, generator=torch.Generator().manual_seed(1))
    write_tensors(tmp_path / "scores.safetensors", {"scores": scores})
    assert torch.equal(full_ranking(tmp_path, frontier, circuits), scores.abs())
    signed = replace(frontier, provenance={**frontier.provenance, "ranking": "signed"})
    assert torch.equal(full_ranking(tmp_path, signed, circuits), -scores)
    write_tensors(tmp_path / "gates.safetensors", {"ranking": scores + 1})
    assert torch.equal(full_ranking(tmp_path, signed, circuits), scores + 1)  # what was learned


def test_a_file_is_cut_within_the_edges_that_it_keeps(tmp_path):
    ranking = torch.rand(GRAPH.n_edges, generator=torch.Generator().manual_seed(0))
    ranking[GRAPH.edge_index("m0->m1")] = torch.nan
    Circuit(GRAPH, circuit(C), ranking=ranking).save(tmp_path / "c.json")
    found = load_found(tmp_path / "c.json")
    assert torch.equal(found.mask, circuit(C)) and torch.equal(found.cut(5), circuit(C))
    known = circuit(C)
    known[GRAPH.edge_index("m0->m1")] = False
    for n_edges in range(5):
        mask = found.cut(n_edges)
        assert mask.sum() <= n_edges and not (mask & ~known).any()
    assert torch.equal(found.ranking > -torch.inf, known)
