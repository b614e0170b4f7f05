"""Export: what other programs get of a run's circuit."""

import csv
import json
from dataclasses import replace

import pytest
import reference_graph
import torch
from report_runs import SMALL, make_run

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.cli import main
from circuitprune.errors import GraphError, RunError
from circuitprune.files.whole import read_tensors
from circuitprune.pipelines.export import export
from circuitprune.runs.finished import run_circuit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    (folder / "COMPLETE").touch()
    return folder


def test_mib_gets_every_edge_with_its_score(run, tmp_path):
    value = json.loads(export(run, tmp_path / "c.json").read_text())
    names = reference_graph.mib_edge_names(SMALL)
    assert list(value["edges"]) == names
    scores = read_tensors(run / "scores.safetensors")[0]["scores"]
    chosen = run_circuit(run)
    for name in names:
        edge = SMALL.edge_index(name)
        assert value["edges"][name] == {
            "score": scores[edge].item(),
            "in_graph": bool(chosen.mask[edge]),
        }
    again = Circuit.load(tmp_path / "c.json")
    assert torch.equal(again.mask, chosen.mask) and torch.equal(again.scores, scores)


def test_a_run_keeps_its_ranking_beside_the_circuits(run):
    small, whole = run_circuit(run, size=0.0), run_circuit(run)
    assert small.n_edges < whole.n_edges and not whole.ranking.isnan().any()
    inside = Circuit.load(run / "circuits" / f"{small.n_edges}.json")
    assert torch.equal(inside.ranking.isnan(), ~inside.mask)
    assert torch.equal(inside.ranking[inside.mask], small.ranking[small.mask])
    assert inside.provenance == small.provenance


@pytest.mark.parametrize("style", ["edge_pruning", "edge_pruning_gpt2"])
def test_edge_pruning_gets_names(run, tmp_path, style):
    export(run, tmp_path / "c.json", style)
    again = Circuit.load(tmp_path / "c.json", SMALL, n_kv_heads=SMALL.n_heads)
    assert again.edges == run_circuit(run).edges


def test_a_file_by_query_head_is_no_list_of_kv_heads_unless_it_says_so(tmp_path):
    """MIB's files count by query head and do not say whether the model has as many KV heads."""
    circuit = Circuit.from_names(Graph(1, 4, 4), ["input->a0.h3<k>", "a0.h3->logits"])
    circuit.save(tmp_path / "mib.json", format="mib")
    with pytest.raises(GraphError, match=r"does not say .*model\.kv_readers=kv_head"):
        export(tmp_path / "mib.json", tmp_path / "c.json", "edge_pruning")
    export(tmp_path / "mib.json", tmp_path / "gpt2.json", "edge_pruning_gpt2")
    replace(circuit, provenance={"kv_readers": "kv_head"}).save(tmp_path / "own.json")
    export(tmp_path / "own.json", tmp_path / "c.json", "edge_pruning")
    assert json.loads((tmp_path / "c.json").read_text())[0] == ["embeds", "a0.h3.k"]


def test_tables_and_drawings(run, tmp_path):
    rows = list(csv.DictReader(export(run, tmp_path / "c.csv", "csv").open()))
    assert len(rows) == run_circuit(run).n_edges and {"score", "ranking"} <= rows[0].keys()
    assert export(run, tmp_path / "c.dot", "dot").read_text().startswith("digraph")


def test_a_file_is_exported_as_it_is(run, tmp_path):
    path = next((run / "circuits").glob("*.json"))
    export(path, tmp_path / "c.json", "circuitprune")
    assert (tmp_path / "c.json").read_bytes() == path.read_bytes()


def test_the_command_writes_and_refuses(run, tmp_path, capsys):
    path = tmp_path / "c.json"
    assert main(["export", str(run), "-o", str(path)]) == 0
    assert str(path) in capsys.readouterr().out and path.exists()
    assert main(["export", str(tmp_path), "-o", str(path)]) == RunError.exit_code
    assert "not a finished run" in capsys.readouterr().err
    with pytest.raises(GraphError, match="choose one of mib"):
        export(run, path, "pickle")
