"""Refined circuits as runs: the same from both commands, after a stop, and to every reader."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny import quick_config, save_model, save_pairs
from torch.testing import assert_close

from circuitprune.cli import main
from circuitprune.engine.evaluation import evaluate
from circuitprune.errors import ConfigError, RunError
from circuitprune.pipelines import refining
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.refine import refine_run
from circuitprune.pipelines.refining import nested
from circuitprune.pipelines.setup import make_setup
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.verify import verify_run
from circuitprune.runs.finished import load_found, read_frontier
from circuitprune.runs.settings import load_config
from pipelines.test_train import contents

pytestmark = pytest.mark.filterwarnings("ignore")
FEW = ("refinement.tries=4", "refinement.most_rounds=2", "refinement.max_size=0.3")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def plain(home) -> Path:
    """A run as `train` leaves it."""
    config = quick_config(home, f"output_dir={home / 'plain'}")
    discover(config, say=str)
    return home / "plain"


@pytest.fixture(scope="module")
def refined(plain) -> Path:
    """The same, refined."""
    return refine_run(plain, FEW, say=str)


def record(folder: Path) -> dict:
    return json.loads((folder / "refinement.json").read_text())


def test_no_circuit_gets_worse_on_the_training_pairs_and_what_is_told_is_true(plain, refined):
    setup = make_setup(load_config(plain / "config.yaml"))
    before, after = read_frontier(plain)[0], read_frontier(refined)[0]
    found = {one["size"]: one for one in record(refined)["circuits"]}
    assert [*found] == [0.05, 0.2]  # the larger ones are beyond `max_size`
    assert any(len(one["rounds"]) > 1 for one in found.values())
    batches = setup.data.batches("train", 8)
    for old, new in zip(before.points, after.points, strict=True):
        if new.size not in found:
            assert torch.equal(old.mask, new.mask) and old.evidence == new.evidence
            continue
        one = found[new.size]
        values = [step["kl"] for step in one["rounds"]]
        assert all(later < earlier for earlier, later in pairwise(values))
        ends = {"old": old.mask, "new": new.mask}
        measured = evaluate(setup.references, ends, batches, setup.task_metric)
        assert min(abs(measured["new"].kl - value) for value in values) < 1e-6
        assert values[0] <= measured["old"].kl + 1e-6
        assert new.mask.sum() <= old.mask.sum() == one["n_edges_before"]
        assert (one["kl_before"], one["kl"]) == (old.evidence.kl, new.evidence.kl)


def test_the_circuit_is_the_one_that_the_validation_pairs_choose(refined):
    frontier = read_frontier(refined)[0]
    for one in record(refined)["circuits"]:
        point = next(point for point in frontier.points if point.size == one["size"])
        lowest = min(step["validation_kl"] for step in one["rounds"])
        assert_close(point.validation.kl, lowest, rtol=1e-5, atol=1e-7)


def test_training_with_refine_leaves_the_same_circuits(home, refined):
    config = quick_config(home, *FEW, "refine=true", f"output_dir={home / 'at_once'}")
    discover(config, say=str)
    ours, theirs = contents(home / "at_once"), contents(refined)
    names = [name for name in ours if name.startswith("circuits/")]
    for name in ("frontier.json", "refinement.json", "refined.safetensors", *names):
        assert ours[name] == theirs[name], name
    page = (refined / "summary.md").read_text()
    assert "Refined by exact runs on 24 training pairs" in page
    assert "Again: `circuitprune refine " in page


def test_a_search_that_was_stopped_goes_on_to_the_same_bytes(plain, refined, monkeypatch):
    keep, calls = refining.keep, []

    def stop(*arguments):
        keep(*arguments)
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(refining, "keep", stop)
    output = plain.with_name("stopped")
    with pytest.raises(KeyboardInterrupt):
        refine_run(plain, FEW, output, say=str)
    assert list((output / "refining").iterdir()) and not (output / "COMPLETE").exists()
    with pytest.raises(RunError, match=r"refinement\.tries: 4 there, 7 now"):
        refine_run(plain, [*FEW[1:], "refinement.tries=7"], output, say=str)
    calls += [None] * 3
    refine_run(plain, FEW, output, say=str)
    ours, theirs = contents(output), contents(refined)
    assert not (output / "refining").exists()
    for name in ("frontier.json", "refinement.json", "refined.safetensors"):
        assert ours[name] == theirs[name]


def test_everything_reads_a_refined_run(refined):
    frontier, ranking = read_frontier(refined)
    found = load_found(refined)
    for point in frontier.points:
        assert torch.equal(found.cut(int(point.mask.sum())), point.mask)
    smallest = min(frontier.points, key=lambda point: int(point.mask.sum())).mask
    assert ranking[smallest].min() > ranking[~smallest].max()
    whole = verify_run(refined, ["sections=[faithfulness]", "progress=false"], say=str)
    assert whole.run["refined"] is True
    assert whole.sections.faithfulness.circuit.n_edges == int(frontier.chosen().mask.sum())


def test_an_attribution_is_refined_too(home, capsys):
    config = quick_config(home, *FEW, f"output_dir={home / 'scored'}", "attribution.method=eap")
    attribute(config, say=str)
    assert main(["refine", str(home / "scored"), *FEW, "train.progress=false"]) == 0
    assert "Refined by exact runs" in capsys.readouterr().out
    assert record(home / "scored_refined")["circuits"]


def test_what_would_be_another_run_is_refused(plain):
    with pytest.raises(ConfigError, match=r"task\.seed is a setting of the run"):
        refine_run(plain, ["task.seed=3"], say=str)
    with pytest.raises(RunError, match="holds a finished run"):
        refine_run(plain, FEW, plain, say=str)


def test_a_study_refines_a_circuit(home):
    study = Study(home / "model", home / "pairs.jsonl", n_train=24, n_test=20, min_accuracy=0)
    circuit = study.circuit(study.attribute("eap"), n_edges=8)
    better = study.refine(circuit, tries=8, most_rounds=3)
    assert better.n_edges <= 8 and better.provenance["refined"] is True
    batches = study.setup.data.batches("train", 16)
    masks = {"before": circuit.mask, "after": better.mask}
    found = evaluate(study.references, masks, batches, study.setup.task_metric)
    assert found["after"].kl < found["before"].kl


def test_a_nested_ranking_has_the_smallest_circuit_first():
    masks = [torch.tensor([False, True, False, False, False]), torch.zeros(5).bool()]
    masks[1][[1, 3, 4]] = True
    ranking = nested(masks, torch.tensor([9.0, 1.0, 5.0, 2.0, torch.nan]))
    assert ranking.argsort(descending=True).tolist() == [1, 3, 4, 0, 2]
    assert ranking[[0, 2]].max() <= 0 < ranking[[1, 3, 4]].min()
