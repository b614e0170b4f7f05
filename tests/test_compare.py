"""Comparing scores: against scipy and by hand, across files and conventions; and refusals."""

import json
import re
from dataclasses import asdict

import pytest
import torch
from scipy.stats import spearmanr

from circuitprune.circuit import Circuit
from circuitprune.compare import Scores, align, comparison, load_scores
from circuitprune.errors import GraphError, MetricError, RunError
from circuitprune.files import write_tensors
from circuitprune.graph import Graph

GROUPED = Graph(2, 4, 2, d_model=8)
WHOLE = GROUPED.ungrouped()


def random_scores(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def save(path, scores, graph=None):
    path.parent.mkdir(exist_ok=True)
    notes = {} if graph is None else {"graph": json.dumps(asdict(graph))}
    write_tensors(path, {"scores": scores}, notes)
    return path


def numbers(text: str) -> list[float]:
    return [float(line.split()[-1]) for line in text.splitlines()[1:]]


def test_two_files_by_hand(tmp_path):
    a = torch.tensor([3.0, -2.0, 1.0, 0.5, torch.nan])
    b = torch.tensor([2.0, 3.0, 1.0, -0.5, 7.0])
    text = comparison(
        [save(tmp_path / "a.safetensors", a), save(tmp_path / "b.safetensors", b)], 0.5
    )
    assert text.splitlines()[0].split("compared")[1].split() == ["4", "of", "5"]
    signed, magnitude, top, sign = numbers(text)
    assert signed == pytest.approx(spearmanr(a[:4], b[:4]).statistic, abs=1e-4)
    assert magnitude == pytest.approx(spearmanr(a[:4].abs(), b[:4].abs()).statistic, abs=1e-4)
    assert top == 1  # 3 and -2 against 2 and 3
    assert sign == 0.5
    assert "50.0%" in text


def test_a_run_folder_its_file_and_a_circuit_are_the_same_scores(tmp_path):
    scores = random_scores(GROUPED.n_edges, 0)
    file = save(tmp_path / "run" / "scores.safetensors", scores, GROUPED)
    Circuit(GROUPED, scores > 0, scores).save(tmp_path / "circuit.json")
    for path in (tmp_path / "run", file, tmp_path / "circuit.json"):
        found = load_scores(path)
        assert torch.equal(found.values, scores) and found.graph == GROUPED
    assert numbers(comparison([tmp_path / "run", tmp_path / "circuit.json"])) == [1, 1, 1, 1]


def test_query_heads_are_summed_to_their_kv_head():
    by_head, ours = random_scores(WHOLE.n_edges, 1), random_scores(GROUPED.n_edges, 2)
    expected = [0.0] * GROUPED.n_edges
    for name, score in zip(WHOLE.edges, by_head.tolist(), strict=True):
        expected[GROUPED.edge_index(name)] += score
    a = Scores("a", by_head, WHOLE)
    b = Scores("b", ours, GROUPED)
    x, y = align(a, b)
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(y, ours)
    y, x = align(b, a)
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(y, ours)


def test_a_file_of_mib_is_read(tmp_path):
    """By query head, without our own key."""
    scores = random_scores(WHOLE.n_edges, 3)
    Circuit(WHOLE, scores > 0, scores).save(tmp_path / "mib.json")
    assert "circuitprune" not in json.loads((tmp_path / "mib.json").read_text())
    save(tmp_path / "ours.safetensors", random_scores(GROUPED.n_edges, 4), GROUPED)
    text = comparison([tmp_path / "mib.json", tmp_path / "ours.safetensors"])
    assert f"{GROUPED.n_edges} of {GROUPED.n_edges}" in text


def test_three_files_make_matrices(tmp_path):
    scores = [random_scores(GROUPED.n_edges, seed) for seed in range(3)]
    paths = [save(tmp_path / f"{i}.safetensors", s, GROUPED) for i, s in enumerate(scores)]
    text = comparison(paths, 0.1)
    assert all(str(path) in text for path in paths)
    signed = next(part for part in text.split("\n\n") if part.startswith("Spearman, signed"))
    rows = [list(map(float, re.findall(r"-?\d\.\d+", row))) for row in signed.splitlines()[2:]]
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            expected = spearmanr(scores[i], scores[j]).statistic
            assert value == pytest.approx(expected, abs=1e-4)
    assert len(text.split("\n\n")) == 5


def test_what_is_undefined_is_a_dash(tmp_path):
    a = save(tmp_path / "a.safetensors", torch.ones(6))
    b = save(tmp_path / "b.safetensors", torch.arange(6.0))
    lines = comparison([a, b]).splitlines()
    assert lines[1].endswith(" -") and lines[2].endswith(" -") and lines[4].endswith("1.0000")


@pytest.mark.parametrize("with_graph", [True, False])
def test_different_graphs_are_refused(tmp_path, with_graph):
    other = Graph(3, 4, 4)
    a = save(tmp_path / "a.safetensors", random_scores(GROUPED.n_edges, 0), GROUPED)
    b = save(
        tmp_path / "b.safetensors", random_scores(other.n_edges, 1), other if with_graph else None
    )
    with pytest.raises(GraphError) as caught:
        comparison([a, b])
    assert str(a) in str(caught.value) and str(b) in str(caught.value)
    assert "82 edges" in str(caught.value) and f"{other.n_edges} edges" in str(caught.value)


def test_files_without_scores_are_refused(tmp_path):
    Circuit.from_names(GROUPED, ["input->m0"]).save(tmp_path / "bare.json")
    with pytest.raises(GraphError, match="without scores"):
        load_scores(tmp_path / "bare.json")
    write_tensors(tmp_path / "gates.safetensors", {"ranking": torch.zeros(3)})
    with pytest.raises(RunError, match="no `scores`, only ranking"):
        load_scores(tmp_path / "gates.safetensors")
    write_tensors(tmp_path / "odd.safetensors", {"scores": torch.zeros(3)}, {"graph": "[1]"})
    with pytest.raises(RunError, match="damaged metadata"):
        load_scores(tmp_path / "odd.safetensors")
    with pytest.raises(RunError, match="absent"):
        load_scores(tmp_path / "absent")


@pytest.mark.parametrize("top", [0.0, 1.5, -1.0])
def test_a_bad_fraction_is_refused(tmp_path, top):
    a = save(tmp_path / "a.safetensors", torch.arange(6.0))
    with pytest.raises(MetricError, match="fraction"):
        comparison([a, a], top)


def test_one_file_is_not_enough(tmp_path):
    with pytest.raises(MetricError, match="two or more"):
        comparison([tmp_path / "a.safetensors"])
