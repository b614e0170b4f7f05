"""Runs whose gates stand on nodes or neurons, from a config to files, evidence and a report."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import pair_rows, quick_config, save_model, save_pairs, tiny_lm, tokenizer

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.cli import main
from circuitprune.config import RunConfig
from circuitprune.data.tasks import Pair
from circuitprune.errors import ConfigError, GraphError, RunError
from circuitprune.files.tensors import taken
from circuitprune.files.whole import read_json, read_tensors
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.part_edges import edges_of_run
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.verify import verify_run
from circuitprune.runs.finished import load_found, run_circuit
from circuitprune.runs.settings import load_config
from circuitprune.views.report.data import report_data


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    save_model(folder / "model", "llama")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def learned(home: Path) -> Path:
    """A finished run of training on neurons."""
    discover(quick_config(home, "level=neuron", "gates.k_min=2"), say=lambda _: None)
    return home / "run"


def test_neurons_are_learned_verified_and_written(learned: Path) -> None:
    found = load_found(learned)
    graph = found.graph
    assert isinstance(graph, PartGraph) and graph.level == "neuron"
    assert graph.n_edges == 1 + 2 * (4 + 48)
    points = json.loads((learned / "frontier.json").read_text())["points"]
    assert [row["n_edges"] for row in points] == [5, 21, 52, 105]
    assert points[-1]["kl"] < 1e-6 < points[0]["kl"]
    for row in points:
        circuit = Circuit.load(learned / row["file"])
        assert circuit.graph.same_edges(graph) and circuit.n_edges == row["n_edges"]
    with (learned / "edges.csv").open() as file:
        assert [row["part"] for row in csv.DictReader(file)] == [*graph.edges]
    assert run_circuit(learned, 0.2).n_edges == 21
    assert "105 parts" in (learned / "summary.md").read_text()


def test_the_evidence_is_of_parts(learned: Path) -> None:
    found = verify_run(
        learned,
        ["n_bootstrap=20", "n_random=4", "n_knockouts=2", "progress=false"],
        circuit=learned / "circuits" / "21.json",
        minimise=True,
        say=lambda _: None,
    )
    sections = dict(found.sections.items())
    assert {row.edge for row in sections["minimality"].edges} == {
        *Circuit.load(learned / "circuits" / "21.json").edges
    }
    assert all("error" not in vars(section) for section in sections.values()), sections
    page = (learned / "verification.md").read_text()
    assert "21 of 105 parts" in page and "Gates stand on parts" in page
    readings = sections["function"].parts
    assert {row.part for row in readings.parts} == {
        name for name in Circuit.load(learned / "circuits" / "21.json").edges if ".n" in name
    }
    left = Circuit.load(learned / "circuits" / "minimal.json")
    assert left.n_edges <= 21 and left.graph.level == "neuron"
    assert "m0.n" in (learned / "report.html").read_text()


def test_edges_between_parts_of_a_run_are_told(learned: Path, tmp_path, capsys) -> None:
    file, out = learned / "circuits" / "21.json", tmp_path / "edges.csv"
    command = ["part-edges", str(learned), "--circuit", str(file), "--steps", "1"]
    assert main([*command, "--threshold", "1e-9", "-o", str(out)]) == 0
    parts = Circuit.load(file).edges
    said, rows = capsys.readouterr().out, [*csv.DictReader(out.open())]
    assert f"{len(rows)} edges of at least 1e-09" in said and "the 21 parts of 21.json" in said
    assert {row["part"] for row in rows} <= {*parts} and {row["into"] for row in rows} <= {
        *parts,
        "logits",
    }
    study = Study.from_config(load_config(learned / "config.yaml"))
    found = study.part_edges(parts, steps=1)
    for row in rows[:5]:
        at = found.readers.index(row["into"]), study.graph.edge_index(row["part"])
        assert float(row["effect"]) == pytest.approx(float(found.values[at]), rel=1e-5)
    assert not (learned / "part_edges.json").exists()  # of another circuit than the chosen one
    assert main(["part-edges", str(learned), "--steps", "1", "-o", str(out)]) == 0
    left = read_json(learned / "part_edges.json", checked=True)
    assert [(e["part"], e["into"]) for e in left["edges"]] == [
        (row["part"], row["into"]) for row in csv.DictReader(out.open())
    ]
    assert report_data([learned]).part_edges == left and left["edges"]
    with pytest.raises(SystemExit):
        main([*command, "--threshold", "-1"])
    edges = quick_config(learned.parent, "train.steps=1", f"output_dir={tmp_path / 'edges'}")
    discover(edges, say=lambda _: None)
    with pytest.raises(ConfigError, match="level=node, neuron or feature"):
        edges_of_run(tmp_path / "edges")


def test_scores_of_parts_are_read_back(home: Path) -> None:
    settings = ["level=neuron", "attribution.method=exact", "task.n_train=8", "task.n_test=8"]
    config = quick_config(home, *settings, f"output_dir={home / 'exact'}")
    attribute(config, say=lambda _: None)
    path = home / "exact" / "scores.safetensors"
    scores = taken(path, read_tensors(path)[0], "scores", (105,))
    study = Study.from_config(config)
    name = "m1.n7"
    index = study.graph.edge_index(name)
    assert scores[index].item() == pytest.approx(study.effect(name), rel=1e-4, abs=1e-7)


def test_features_are_cut_as_the_config_says(home: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(32, 20, generator=draw) / 32**0.5
    one = {
        "W_enc": w,
        "b_enc": torch.zeros(20),
        "W_dec": w.T.contiguous(),
        "b_dec": torch.zeros(32),
    }
    save_file(one, home / "one.safetensors")
    settings = ["level=feature", "attribution.method=eap", f"output_dir={home / 'features'}"]
    settings += [f"features.dictionaries=[m1={home / 'one.safetensors'}]", "verify.sizes=[0.3,1.0]"]
    for errors, n in (("clean", 20), ("corrupt", 20)):
        study = Study.from_config(quick_config(home, *settings, f"features.errors={errors}"), False)
        gated = study.gated
        assert (gated.graph.n_edges, gated.sites[4].errors) == (10 + n, errors)
        gated.release()
    attribute(quick_config(home, *settings), say=lambda _: None)
    found = load_found(home / "features")
    assert found.graph.n_edges == 10 + 21 and {"m1.f19", "m1.error", "m0"} < {*found.graph.edges}
    points = json.loads((home / "features" / "frontier.json").read_text())["points"]
    assert [row["n_edges"] for row in points] == [9, 31] and points[1]["kl"] < 1e-6


def test_features_are_those_of_the_dictionary_that_they_were_found_with(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one of the same size, or other errors: scores and runs are of something else."""
    draw = torch.Generator().manual_seed(1)

    def save() -> None:
        w = torch.randn(32, 20, generator=draw)
        one = {
            "W_enc": w,
            "b_enc": w[0, :20].clone(),
            "W_dec": w.T.contiguous(),
            "b_dec": w[:, 0].clone(),
        }
        save_file(one, home / "mine.safetensors")

    def config(name: str, errors: str = "node") -> RunConfig:
        more = [
            f"features.dictionaries=[m1={home / 'mine.safetensors'}]",
            f"features.errors={errors}",
        ]
        more += ["level=feature", "attribution.method=eap", f"output_dir={home / name}"]
        return quick_config(home, *more)

    save()
    attribute(config("whole"), say=lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr("circuitprune.pipelines.train.train", None)
        with pytest.raises(TypeError):
            discover(config("begun", "clean"), say=lambda _: None)
    auto = replace(config("begun", "corrupt").train, resume="auto")
    with pytest.raises(
        RunError, match=r"another job \(features.errors: 'clean' there, 'corrupt' now"
    ):
        discover(replace(config("begun", "corrupt"), train=auto), say=lambda _: None)
    save()
    with pytest.raises(RunError, match=r"another job \(model_fingerprint"):
        discover(replace(config("begun", "clean"), train=auto), say=lambda _: None)
    with pytest.raises(RunError, match="was of another model"):
        verify_run(home / "whole", ["sections=[mib]"], say=lambda _: None)


def study_of(level: str) -> Study:
    rows = [
        Pair(str(i), row["clean"], row["corrupt"], tuple(row["answers"]), tuple(row["wrong"]))
        for i, row in enumerate(pair_rows())
    ]
    return Study(
        tiny_lm("llama"),
        rows,
        tokenizer=tokenizer(),
        n_train=16,
        n_test=16,
        level=level,
        min_accuracy=0,
        progress=False,
    )


def test_a_study_of_nodes() -> None:
    study = study_of("node")
    assert "11 nodes" in repr(study)
    scores = study.attribute("eap")
    circuit = study.circuit(scores, n_edges=4)
    assert circuit.n_edges == 4 and {*circuit.edges} <= {*study.graph.writers}
    assert study.evaluate(study.graph.edges).kl == pytest.approx(0, abs=1e-6)
    assert study.evaluate(circuit).kl > 0
    effects = study.effect(["m0", "a1.h0"])
    exact = study.attribute("exact").values
    for name, effect in effects.items():
        index = study.graph.edge_index(name)
        assert exact[index].item() == pytest.approx(effect, rel=1e-4, abs=1e-6)
    learned = study.learn(steps=3, start=scores)
    assert torch.equal(learned.ranking.isfinite(), torch.ones(11, dtype=torch.bool))
    with pytest.raises(GraphError, match=r"no part 'm0->logits'"):
        study.effect("m0->logits")
    for search in (lambda: study.acdc(0.1), lambda: study.refine(circuit)):
        with pytest.raises(GraphError, match=r"is of edges, not of nodes; take level=edge"):
            search()
    study.gated.release()


def test_what_is_of_edges_alone_is_refused() -> None:
    for settings in (
        dict(attribution=dict(method="relp")),
        dict(attribution=dict(method="acdc")),
        dict(verify=dict(selection="greedy")),
        dict(ablation="optimal"),
        dict(gates=dict(starts=["eap", "relp"])),
        dict(refine=True),
    ):
        parts = {
            name: _section(name, **value) if isinstance(value, dict) else value
            for name, value in settings.items()
        }
        with pytest.raises(ConfigError, match="level=neuron"):
            RunConfig(level="neuron", **parts)
        RunConfig(**parts)


def _section(name: str, **values: object) -> object:
    return type(getattr(RunConfig(), name))(**values)
