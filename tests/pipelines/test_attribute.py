"""The pipeline without training: the same folder, going on after a kill, several processes."""

import csv
import gc
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import quick_config, save_model, save_pairs, settings
from torch.testing import assert_close

from circuitprune.attribution import METHODS
from circuitprune.attribution.base import single_examples
from circuitprune.attribution.nodes import lift
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.recovery import auroc
from circuitprune.circuits.selection import ranking_of, select_sizes
from circuitprune.errors import ConfigError, GraphError, RunError
from circuitprune.files.whole import read_tensors, write_tensors
from circuitprune.metrics import kl_divergence, log10_kl
from circuitprune.patching import acdc
from circuitprune.patching import effects as patching
from circuitprune.pipelines import scoring
from circuitprune.pipelines import train as run
from circuitprune.pipelines.attribute import attribute, dry_run_attribute
from circuitprune.pipelines.describe import memory_text
from circuitprune.pipelines.metric import attribution_metric
from circuitprune.pipelines.setup import make_setup
from circuitprune.runs.settings import load_config
from circuitprune.views import progress
from pipelines.test_train import EVIDENCE, contents, strict

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # TensorBoard's and transformers' advice
PROMISED = {
    "config.yaml",
    "versions.json",
    "scores.safetensors",
    "frontier.json",
    "circuits",
    "edges.csv",
    "summary.md",
    "command.json",
    "hparams.yaml",
    "pairs.json",
    "report.html",
    "COMPLETE",
}
GRAPH = Graph(2, 4, 4, d_model=32)
SIZES = [0.05, 0.2, 0.5, 1.0]
SMALL = ["attribution.shard_edges=10"]
"""Eleven shards."""
ACDC = ["attribution.method=acdc", "attribution.acdc_thresholds=[0.2,0.02]", "task.n_train=8"]
LONG = {"exact": ["attribution.method=exact", *SMALL], "acdc": ACDC}
"""Work that is kept in shards, by method."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    (folder / "run.yaml").write_text("# all settings come from the command line\n")
    return folder


@pytest.fixture(scope="module")
def make(home):
    """`make(name, *overrides)` -> the folder `home/name` of a run, made once."""

    def make(name: str, *overrides: str) -> Path:
        folder = home / name
        if not (folder / "COMPLETE").exists():
            go(home, folder, *overrides)
        return folder

    return make


def go(home: Path, folder: Path, *overrides: str) -> list[str]:
    said: list[str] = []
    attribute(quick_config(home, *overrides, f"output_dir={folder}"), said.append)
    return said


def scores_in(folder: Path) -> torch.Tensor:
    return read_tensors(folder / "scores.safetensors")[0]["scores"]


def results(folder: Path) -> dict[str, bytes]:
    """What must be the same to the byte.

    Everything but the config, which holds the folder's name, the summary and the report, which hold
    the command, the hashes of these, and what has the time of day in it.
    """
    other = (
        "COMPLETE",
        "config.yaml",
        "hparams.yaml",
        "summary.md",
        "command.json",
        "report.html",
        "events.out",
    )
    return {name: data for name, data in contents(folder).items() if not name.startswith(other)}


# ---------------------------------------------------------------- what a run leaves


def test_the_folder_holds_what_is_promised(make):
    names = {path.name for path in make("eap", "attribution.method=eap").iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert names - events == PROMISED and len(events) == 1


def test_a_sharded_run_leaves_no_shards(make):
    folder = make("exact", "attribution.method=exact", *SMALL)
    assert {path.name for path in folder.iterdir() if "events" not in path.name} == PROMISED


def test_the_scores_are_the_methods(make, home):
    setup = make_setup(quick_config(home, "attribution.method=eap"))
    batches = scoring.training_batches(setup)
    expected = METHODS["eap"].score(setup.references, batches, attribution_metric(setup))
    assert torch.equal(scores_in(make("eap", "attribution.method=eap")), expected)


def test_the_file_says_method_metric_and_graph(make):
    notes = read_tensors(make("eap", "attribution.method=eap") / "scores.safetensors")[1]
    assert notes["method"] == "eap" and notes["metric"] == "logit_diff" and notes["steps"] == "2"
    assert Graph(**json.loads(notes["graph"])) == GRAPH


def test_circuits_are_cut_by_magnitude_and_carry_the_ranking(make):
    folder = make("eap", "attribution.method=eap")
    scores = scores_in(folder)
    masks = select_sizes(GRAPH, scores.abs(), SIZES)
    for size, mask in masks.items():
        circuit = Circuit.load(folder / "circuits" / f"{int(mask.sum())}.json")
        assert torch.equal(circuit.mask, mask) and circuit.method == "eap"
        assert_close(circuit.scores, scores.where(mask, torch.nan), equal_nan=True)
        assert_close(circuit.ranking, circuit.scores.abs(), equal_nan=True)
        assert circuit.provenance["init"] == "eap" and circuit.provenance["learner"] is None
        assert circuit.provenance["size"] == size


def test_the_same_numbers_as_training_for_no_steps(make, home):
    """Training for no steps cuts by |score| too, so frontier and circuits are the same."""
    folder, trained = make("gate_ig"), home / "trained"
    run.discover(quick_config(home, "train.steps=0", f"output_dir={trained}"), say=lambda _: None)
    ours, theirs = strict(folder / "frontier.json"), strict(trained / "frontier.json")
    for name in ("full", "empty", "points", "n_edges_total", "model_fingerprint", "task", "init"):
        assert ours[name] == theirs[name]
    assert set(theirs) <= set(ours)
    files = [sorted(p.name for p in (f / "circuits").iterdir()) for f in (folder, trained)]
    assert files[0] == files[1]
    a, b = (folder / "scores.safetensors", trained / "scores.safetensors")
    assert a.read_bytes() == b.read_bytes()


def test_edges_csv_has_signed_scores_and_the_ranking(make):
    folder = make("eap", "attribution.method=eap")
    with (folder / "edges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = scores_in(folder)
    assert len(rows) == 110 and bool((scores < 0).any()) and bool((scores > 0).any())
    for row, score in zip(rows, scores.tolist(), strict=True):
        assert float(row["initial_score"]) == pytest.approx(score)
        assert float(row["final_score"]) == pytest.approx(abs(score))


def test_complete_comes_last(make):
    folder = make("exact", "attribution.method=exact", *SMALL)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert max(written.values()) == written[folder / "COMPLETE"]


def test_tensorboard_draws_the_frontier_over_edges(make):
    folder = make("eap", "attribution.method=eap")
    events = EventAccumulator(str(folder))
    events.Reload()
    points = strict(folder / "frontier.json")["points"]
    for name in EVIDENCE:
        tag, shown_as = ("KL_log10", log10_kl) if name == "kl" else (name, float)
        drawn = {event.step: event.value for event in events.Scalars(f"frontier/{tag}")}
        expected = {p["n_edges"]: shown_as(p[name]) for p in points}
        assert drawn == pytest.approx(expected, abs=1e-6)
        assert events.Scalars(f"final/{name}")
    for text, word in (("config", "method: eap"), ("pairs", "clean")):
        shown = events.Tensors(f"{text}/text_summary")[0].tensor_proto.string_val[0].decode()
        assert word in shown
    assert any("session_start_info" in tag for tag in events.PluginTagToContent("hparams"))


def test_scores_are_compared_with_a_reference(home):
    known, folder = home / "known.json", home / "compared"
    Circuit.from_names(GRAPH, ["input->a0.h1<v>", "a0.h1->logits"]).save(known)
    options = "attribution.method=eap", f"verify.reference={known}", f"output_dir={folder}"
    attribute(quick_config(home, *options), lambda _: None)
    events = EventAccumulator(str(folder))
    events.Reload()
    scores = read_tensors(folder / "scores.safetensors")[0]["scores"]
    (drawn,) = events.Scalars("reference/auroc")
    expected = auroc(scores.abs(), Circuit.load(known).mask)
    assert (drawn.step, drawn.value) == (0, pytest.approx(expected))
    assert {"circuit/chosen", "frontier/verified"} == set(events.Tags()["images"])


def test_training_draws_the_same_curves(make, home):
    folder = home / "short"
    run.discover(quick_config(home, "train.steps=1", f"output_dir={folder}"), lambda _: None)
    found = []
    for one in (make("eap", "attribution.method=eap"), folder):
        events = EventAccumulator(str(one))
        events.Reload()
        tags = events.Tags()["scalars"]
        found.append({tag for tag in tags if tag.startswith(("frontier/", "final/"))})
    assert found[0] == found[1] and len(found[0]) == 2 * len(EVIDENCE) + 2  # n, n_edges


# ---------------------------------------------------------------- options


def test_a_signed_ranking_takes_what_helps_first(home, tmp_path):
    go(home, tmp_path, "attribution.method=eap", "verify.ranking=signed")
    scores = scores_in(tmp_path)
    masks = select_sizes(GRAPH, -scores, SIZES)
    for mask in masks.values():
        circuit = Circuit.load(tmp_path / "circuits" / f"{int(mask.sum())}.json")
        assert torch.equal(circuit.mask, mask)
        assert_close(circuit.ranking, -scores.where(mask, torch.nan), equal_nan=True)
        assert_close(circuit.scores, -circuit.ranking, equal_nan=True)
    assert strict(tmp_path / "frontier.json")["ranking"] == "signed"


def test_the_ranking_is_higher_for_what_is_kept_first():
    scores = torch.tensor([-3.0, 1.0, 2.0])
    assert ranking_of(scores, load_config(None).verify.ranking).tolist() == [3, 1, 2]
    assert ranking_of(scores, "signed").tolist() == [3, -1, -2]


@pytest.mark.parametrize("method", ["eap", "exact"])
def test_only_the_edges_of_a_circuit_are_scored(make, home, tmp_path, method):
    whole = make(method, f"attribution.method={method}", *SMALL)
    path = whole / "circuits" / "55.json"
    given = Circuit.load(path).mask
    chosen = [f"attribution.method={method}", f"attribution.edges={path}", *SMALL]
    said = go(home, tmp_path, *chosen)
    scores = scores_in(tmp_path)
    assert torch.equal(~scores.isnan(), given)
    torch.testing.assert_close(scores[given], scores_in(whole)[given], rtol=1e-4, atol=1e-6)
    for file in (tmp_path / "circuits").iterdir():
        circuit = Circuit.load(file)
        assert not (circuit.mask & ~given).any() and circuit.trim() == circuit
    assert max(int(f.stem) for f in (tmp_path / "circuits").iterdir()) == 55
    assert any("55 edges of `attribution.edges`" in line for line in said)
    assert "55 edges of `attribution.edges`" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("method", ["eap", "exact"])
def test_scores_of_each_pair_average_to_the_scores(make, home, tmp_path, method):
    go(home, tmp_path, f"attribution.method={method}", "attribution.per_example=true", *SMALL)
    tensors = read_tensors(tmp_path / "scores.safetensors")[0]
    assert tensors["per_example"].shape == (24, 110)
    assert tensors["per_example"].std(dim=0).max() > 1e-3
    mean = tensors["per_example"].mean(dim=0)
    torch.testing.assert_close(mean, tensors["scores"], rtol=1e-4, atol=1e-6)
    whole = scores_in(make(method, f"attribution.method={method}", *SMALL))
    torch.testing.assert_close(tensors["scores"], whole, rtol=1e-4, atol=1e-6)


def test_the_strongest_edges_are_patched_exactly(make, home):
    top = ["attribution.method=eap", "attribution.verify_top=30", "attribution.shard_edges=8"]
    folder, setup = make("top", *top), make_setup(quick_config(home, *top))
    tensors, notes = read_tensors(folder / "verified_top.safetensors")
    scores, edges = scores_in(folder), tensors["edges"]
    assert edges.tolist() == scores.abs().argsort(descending=True, stable=True)[:30].tolist()
    batches, metric = scoring.training_batches(setup), attribution_metric(setup)
    expected = patching.edge_effects(setup.references, batches, metric, edges)
    assert_close(tensors["exact"], expected)
    assert notes["metric"] == "logit_diff" and torch.equal(tensors["scores"], scores[edges])
    rho = spearmanr(scores[edges].abs(), expected.abs()).statistic
    theirs, right = (set(x.abs().argsort()[15:].tolist()) for x in (scores[edges], expected))
    said = (folder / "summary.md").read_text()
    assert f"rank correlation of {rho:.3f}" in said
    assert f"the scores have {len(right - theirs)} not among their own 15" in said
    assert not (folder / "verified_top").exists()


def test_convergence_is_said_written_and_drawn(make, home, tmp_path):
    chosen = [
        "attribution.method=gate_ig",
        "attribution.convergence=true",
        "attribution.doublings=2",
    ]
    said = "\n".join(go(home, tmp_path, *chosen))
    rows = read_tensors(tmp_path / "scores.safetensors")[0]["agreement"].tolist()
    assert [(m, double) for m, double, _ in rows] == [(2, 4), (4, 8)]
    four = make("gate_ig_4", "attribution.method=gate_ig", "attribution.steps=4")
    expected = spearmanr(scores_in(tmp_path).abs(), scores_in(four).abs()).statistic
    assert rows[0][2] == pytest.approx(expected, abs=1e-9)
    for text in (said, (tmp_path / "summary.md").read_text()):
        for m, double, rho in rows:
            assert f"From {m:.0f} to {double:.0f} steps" in text and f"{rho:.4f}" in text
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    drawn = {e.step: e.value for e in events.Scalars("attribution/spearman_m_2m")}
    assert drawn == pytest.approx({m: rho for m, _, rho in rows}, abs=1e-6)


# ---------------------------------------------------------------- exact and ACDC


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_scores_are_those_of_patching(home, tmp_path, direction):
    chosen = ["attribution.method=exact", f"attribution.direction={direction}", *SMALL]
    setup = make_setup(quick_config(home, *chosen))
    batches, metric = scoring.training_batches(setup), attribution_metric(setup)
    expected = patching.edge_effects(setup.references, batches, metric, direction=direction)
    go(home, tmp_path, *chosen)
    sign = 1 if direction == "noising" else -1  # negative: the edge helps
    torch.testing.assert_close(scores_in(tmp_path), sign * expected, rtol=1e-4, atol=1e-6)


def test_whole_nodes_may_be_restored_instead(home, tmp_path):
    """A writer that helps scores negative either way, and the lifted edges follow."""
    chosen = ["attribution.method=exact_nodes", "attribution.direction=denoising"]
    setup = make_setup(quick_config(home, *chosen))
    batches, metric = scoring.training_batches(setup), attribution_metric(setup)
    nodes = -patching.node_effects(setup.references, batches, metric, direction="denoising")
    go(home, tmp_path, *chosen, "attribution.per_example=true")
    tensors = read_tensors(tmp_path / "scores.safetensors")[0]
    torch.testing.assert_close(tensors["nodes"], nodes, rtol=1e-4, atol=1e-6)
    assert torch.equal(tensors["scores"], lift(GRAPH, tensors["nodes"]))
    (single, *_) = single_examples(batches[0])
    alone = -patching.node_effects(setup.references, [single], metric, direction="denoising")
    torch.testing.assert_close(tensors["per_example"][0], lift(GRAPH, alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["magnitude", "ifr", "random"])
def test_methods_without_a_metric_name_none(home, tmp_path, method):
    said = go(home, tmp_path, f"attribution.method={method}", "attribution.metric=kl")
    assert f"Scored by {method} on 24 training pairs." in said
    assert read_tensors(tmp_path / "scores.safetensors")[1]["metric"] == "none"
    assert strict(tmp_path / "frontier.json")["init_metric"] == "none"


def test_the_kl_runs_the_model_once_for_each_batch(home, monkeypatch):
    """Also without a cache: 30 edges of 3 batches."""
    setup = make_setup(
        quick_config(home, "attribution.method=exact", "attribution.metric=kl", "cache.max_gb=0")
    )
    batches, metric = scoring.training_batches(setup), attribution_metric(setup)
    runs, honest = [], setup.gated.plain

    def plain(*args, **kwargs):
        runs.append(1)
        return honest(*args, **kwargs)

    monkeypatch.setattr(setup.gated, "plain", plain)
    edges = torch.arange(30)
    found = patching.edge_effects(setup.references, batches, metric, edges)
    assert len(runs) == len(batches) == 3
    full = setup.references.full_logits
    plainly = patching.edge_effects(
        setup.references, batches, lambda out, b: -kl_divergence(full(b), out), edges
    )
    assert torch.equal(found, plainly) and len(runs) > 3 * 30


@pytest.mark.parametrize("method", ["eap", "relp", "atp"])
def test_a_metric_that_is_flat_at_the_clean_run_is_refused(home, method):
    setup = make_setup(quick_config(home, f"attribution.method={method}", "attribution.metric=kl"))
    with pytest.raises(ConfigError, match=f"says nothing to {method}"):
        attribution_metric(setup)


def test_acdc_has_a_circuit_for_each_threshold(make, home):
    folder = make("acdc", *ACDC)
    setup = make_setup(quick_config(home, *ACDC))
    found = acdc.sweep(setup.references, scoring.training_batches(setup), [0.02, 0.2])
    masks = {threshold: live_edges(GRAPH, one.mask) for threshold, one in found.items()}
    points = strict(folder / "frontier.json")["points"]
    assert [p["size"] for p in points] == [0.02, 0.2]
    for p, mask in zip(points, masks.values(), strict=True):
        circuit = Circuit.load(folder / "circuits" / f"{p['n_edges']}.json")
        assert circuit.n_edges == p["n_edges"] < 110
        assert torch.equal(circuit.mask, mask) and circuit.provenance["selection"] == "acdc"
    for edge, score in enumerate(scores_in(folder).tolist()):
        kept = [threshold for threshold, mask in masks.items() if mask[edge]]
        assert score == -max(kept, default=0)


def test_acdc_may_guard_the_task_metric(home, tmp_path):
    go(home, tmp_path, *ACDC, "attribution.acdc_worsening=task")
    assert strict(tmp_path / "frontier.json")["init_metric"] == "logit_diff"


@pytest.mark.parametrize("method", ["exact", "acdc"])
def test_both_start_the_gates_of_training_too(make, home, tmp_path, method):
    chosen = [*LONG[method], "train.steps=1"]
    run.discover(quick_config(home, *chosen, f"output_dir={tmp_path}"), lambda _: None)
    whole = make(method, *LONG[method])
    assert torch.equal(scores_in(tmp_path), scores_in(whole))
    assert (tmp_path / "COMPLETE").exists() and not (tmp_path / "shards").exists()


def test_training_may_start_from_a_part_of_the_scores(make, home, tmp_path):
    path = make("eap", "attribution.method=eap") / "circuits" / "22.json"
    chosen = ["attribution.method=eap", f"attribution.edges={path}", "train.steps=1"]
    run.discover(quick_config(home, *chosen, f"output_dir={tmp_path}"), lambda _: None)
    assert int(scores_in(tmp_path).isnan().sum()) == 88
    assert strict(tmp_path / "frontier.json")["points"][-1]["n_edges"] == 110


# ---------------------------------------------------------------- killed, and on again

KILLED = """
import os, signal, sys
from circuitprune.pipelines import scoring
from circuitprune.patching import acdc
from circuitprune.cli import attribute_main

left = int(sys.argv[1])

def dying(honest):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*args, **kwargs)
    return call

scoring.edge_effects = dying(scoring.edge_effects)
acdc.AcdcState.save = dying(acdc.AcdcState.save)
attribute_main(sys.argv[2:])
"""


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
    )


@pytest.mark.parametrize(("method", "calls"), [("exact", 4), ("acdc", 40)])
def test_a_killed_run_goes_on_to_the_same_bytes(make, home, tmp_path, monkeypatch, method, calls):
    whole, chosen, cut = make(method, *LONG[method]), LONG[method], tmp_path / "cut"
    typed = [str(home / "run.yaml"), *settings(home), *chosen, f"output_dir={cut}"]
    killed = python("-c", KILLED, str(calls), *typed)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (cut / "COMPLETE").exists() and not (cut / "scores.safetensors").exists()
    begun = contents(cut / "shards")
    asked = []

    def edge_effects(references, batches, metric, edges, *args, **kwargs):
        asked.append(len(edges))
        return patching.edge_effects(references, batches, metric, edges, *args, **kwargs)

    def search(references, batches, threshold, worsening, state, **kwargs):
        asked.append((threshold, state.readers_done if state else 0))
        return acdc.acdc(references, batches, threshold, worsening, state, **kwargs)

    monkeypatch.setattr(scoring, "edge_effects", edge_effects)
    monkeypatch.setattr(scoring, "acdc", search)
    go(home, cut, *chosen)
    assert results(cut) == results(whole)
    assert not (cut / "shards").exists()
    if method == "exact":
        assert len(begun) == 4 and asked == [10] * 7
    else:  # 27 readers at the first threshold, 13 at the second
        assert asked == [(0.2, 13)] and "00000.safetensors" in begun


def test_scores_that_are_there_are_not_made_again(make, home, tmp_path, monkeypatch):
    """A run that was killed while it verified."""

    def fail(*args, **kwargs):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("circuitprune.pipelines.attribute.refined_frontier", fail)
        with pytest.raises(OSError, match="power cut"):
            go(home, tmp_path, "attribution.method=eap")
    (tmp_path / ".frontier.json.1a2b.tmp").write_text("half")
    (tmp_path / "shards").mkdir()  # of one that was killed as it had written the scores
    (tmp_path / "shards" / "00000.safetensors").write_text("left")
    whole = make("eap", "attribution.method=eap")
    monkeypatch.setitem(METHODS, "eap", replace(METHODS["eap"], function=fail))
    go(home, tmp_path, "attribution.method=eap")
    assert results(tmp_path) == results(whole) and not (tmp_path / "shards").exists()


@pytest.fixture
def swapped(home):
    """Call it, and until the test ends the pairs' right answers are wrong and the wrong right."""
    path = home / "pairs.jsonl"
    lines = path.read_text()

    def swap() -> None:
        rows = [json.loads(line) for line in lines.splitlines()]
        turned = [{**row, "answers": row["wrong"], "wrong": row["answers"]} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in turned))

    yield swap
    path.write_text(lines)


@pytest.mark.parametrize("method", ["eap", "exact"])
def test_scores_of_other_pairs_are_not_taken(home, tmp_path, monkeypatch, swapped, method):
    """Killed while it verified, and the file of pairs changed under its name."""

    def fail(*args, **kwargs):
        raise OSError("power cut")

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("circuitprune.pipelines.attribute._finish", fail)
        with pytest.raises(OSError, match="power cut"):
            go(home, folder, f"attribution.method={method}")
    before = contents(folder)
    swapped()
    words = r"scores\.safetensors is of another job \(pairs: '\w+' there, '\w+' now\)"
    with pytest.raises(RunError, match=words):
        go(home, folder, f"attribution.method={method}")
    assert contents(folder) == before


def test_scores_of_other_chosen_edges_are_not_taken(home, tmp_path):
    """The circuit of `attribution.edges` rewritten under its name."""
    circuit = tmp_path / "circuit.json"
    config = quick_config(home, "attribution.method=eap", f"attribution.edges={circuit}")
    Circuit.from_names(GRAPH, ["input->m0", "m0->logits"]).save(circuit)
    setup = make_setup(config)
    scoring.by_method(setup).save(tmp_path / "scores.safetensors", setup)
    scoring.Scoring.load(tmp_path / "scores.safetensors", setup)
    Circuit.from_names(GRAPH, ["input->m0", "m1->logits"]).save(circuit)
    with pytest.raises(RunError, match=r"another job \(edges: '\w+' there, '\w+' now\)"):
        scoring.Scoring.load(tmp_path / "scores.safetensors", setup)


@pytest.fixture
def cut(home, tmp_path, monkeypatch) -> Path:
    """A run of `exact` that stopped after a few shards."""
    left = [3]

    def edge_effects(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("power cut")
        return patching.edge_effects(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "edge_effects", edge_effects)
        with pytest.raises(OSError, match="power cut"):
            go(home, tmp_path / "cut", "attribution.method=exact", *SMALL)
    return tmp_path / "cut"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "attribution.shard_edges=11",
            ["config.yaml", "attribution.shard_edges: 10 there, 11 now"],
        ),
        ("task.seed=1", ["config.yaml", "task.seed: 0 there, 1 now"]),
        ("attribution.method=eap", ["config.yaml", "attribution.method: 'exact' there, 'eap' now"]),
    ],
)
def test_another_config_may_not_go_on(home, cut, override, words):
    before = contents(cut)
    with pytest.raises(RunError) as caught:
        go(home, cut, "attribution.method=exact", *SMALL, override)
    assert all(word in str(caught.value) for word in [*words, str(cut), "another output_dir"])
    assert contents(cut) == before


def test_another_model_under_the_same_name_may_not_go_on(home, cut):
    versions = json.loads((cut / "versions.json").read_text())
    theirs = {**versions, "model_fingerprint": "0123"}
    (cut / "versions.json").write_text(json.dumps(theirs))
    before = contents(cut)
    ours = versions["model_fingerprint"]
    with pytest.raises(RunError, match=f"model_fingerprint: '0123' there, '{ours}' now"):
        go(home, cut, "attribution.method=exact", *SMALL)
    assert contents(cut) == before


def test_other_pairs_under_the_same_name_may_not_go_on(home, cut):
    lines = (home / "pairs.jsonl").read_text()
    try:
        (home / "pairs.jsonl").write_text("".join(reversed(lines.splitlines(keepends=True))))
        with pytest.raises(RunError, match=r"00000\.safetensors is of another job \(pairs: "):
            go(home, cut, "attribution.method=exact", *SMALL)
    finally:
        (home / "pairs.jsonl").write_text(lines)


def test_what_does_not_matter_may_change(home, cut):
    go(home, cut, "attribution.method=exact", *SMALL, "train.progress=true")
    assert (cut / "COMPLETE").exists()


@pytest.mark.parametrize(
    ("method", "what", "unit"),
    [
        ("gate_ig", "attribution", "passes"),
        ("exact", "attribution", "edges"),
        ("acdc", "ACDC at 0.2", "readers"),
    ],
)
def test_a_pipe_hears_of_all_that_takes_long(
    home, tmp_path, monkeypatch, capsys, method, what, unit
):
    """Here without waiting half a minute for each line."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    chosen = [*LONG.get(method, [f"attribution.method={method}"]), "train.progress=true"]
    go(home, tmp_path, *chosen)
    told: dict[str, list[tuple[int, int]]] = {}
    for name, done, total, of in re.findall(
        r"^([\w ./-]+): ([\d,]+) of ([\d,]+) (\w+), \d+ %", capsys.readouterr().out, re.MULTILINE
    ):
        numbers = (int(done.replace(",", "")), int(total.replace(",", "")))
        told.setdefault(f"{name} in {of}", []).append(numbers)
    assert {
        f"{what} in {unit}",
        "verification on test pairs in runs",
        "self-check in checks",
    } <= set(told)
    assert f"loading {home / 'model'} in weights" in told
    for calls in told.values():
        assert calls == sorted(calls) and len({total for _, total in calls}) == 1
        assert calls[-1][0] == calls[-1][1]


def test_within_a_shard_edges_are_told(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    chosen = ["attribution.method=exact", "attribution.shard_edges=10000", "train.progress=true"]
    go(home, tmp_path, *chosen)
    assert len(re.findall("^attribution: ", capsys.readouterr().out, re.MULTILINE)) > 10


def test_nothing_is_told_where_it_is_not_wanted(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    go(home, tmp_path, "attribution.method=eap")
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- what is refused


def test_a_finished_folder_is_refused_and_untouched(make, home):
    folder = make("eap", "attribution.method=eap")
    before = contents(folder)
    with pytest.raises(RunError, match="finished run"):
        go(home, folder, "attribution.method=eap")
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["gates.safetensors", "thesis.tex"])
def test_folders_of_other_things_are_refused(home, tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(RunError, match="not empty"):
        go(home, tmp_path, "attribution.method=eap")
    assert contents(tmp_path) == {name: b"x"}


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["attribution.method=none"], ConfigError, "attribution.method=none"),
        (["attribution.method=magnitude", "verify.ranking=signed"], ConfigError, "no sign"),
        (["attribution.method=eap", "attribution.edges=nowhere.json"], RunError, "nowhere.json"),
        (
            ["attribution.method=eap", "attribution.edges={other}"],
            GraphError,
            "expected a graph of 2 layers",
        ),
        (["attribution.method=eap", "attribution.edges={empty}"], ConfigError, "keeps no edge"),
        (
            ["attribution.method=eap", "attribution.edges={theirs}"],
            RunError,
            "of another model: its model_fingerprint is 0123, and here it is",
        ),
        (
            ["attribution.method=eap", "verify.reference={theirs}"],
            RunError,
            "of another model: its model_fingerprint is 0123, and here it is",
        ),
    ],
)
def test_a_refusal_writes_nothing(home, tmp_path, overrides, error, words):
    other, empty = tmp_path / "other.json", tmp_path / "empty.json"
    Circuit.from_names(Graph(3, 4, 4), ["input->m0"]).save(other)
    Circuit.from_names(GRAPH, []).save(empty)
    theirs = tmp_path / "theirs.json"
    found, about = Circuit.from_names(GRAPH, ["input->m0"]), {"model_fingerprint": "0123"}
    replace(found, provenance=about).save(theirs)
    typed = [o.format(other=other, empty=empty, theirs=theirs) for o in overrides]
    for start in (go, lambda *args: dry_run_attribute(quick_config(home, *args[2:]))):
        with pytest.raises(error, match=words):
            start(home, tmp_path / "run", *typed, f"output_dir={tmp_path / 'run'}")
        assert not (tmp_path / "run").exists()


def test_scores_that_do_not_fit_are_refused(home, tmp_path):
    setup = make_setup(quick_config(home, "attribution.method=eap"))
    path = tmp_path / "scores.safetensors"
    for tensors, notes, words in [
        ({"scores": torch.zeros(109)}, {"method": "eap"}, r"shape \(109,\), expected \(110,\)"),
        ({"others": torch.zeros(110)}, {"method": "eap"}, "shape None"),
        ({"scores": torch.zeros(110)}, {"method": "gate_ig"}, "attribution.method=eap"),
        ({"scores": torch.full((110,), torch.nan)}, {"method": "eap"}, "finite|NaN"),
    ]:
        write_tensors(path, tensors, notes)
        with pytest.raises(RunError, match=words):
            scoring.Scoring.load(path, setup)


# ---------------------------------------------------------------- dry run


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["attribution.method=eap"], "scores about 3 "),
        (["attribution.method=eap_ig_inputs", "attribution.steps=5"], "scores about 16 "),
        (["attribution.method=exact"], "scores about 28 "),
        (["attribution.method=acdc"], "scores not known "),
    ],
)
def test_a_dry_run_says_the_cost_and_writes_nothing(home, tmp_path, overrides, words):
    text = dry_run_attribute(quick_config(home, *overrides, f"output_dir={tmp_path / 'run'}"))
    assert words in text and "(24 training pairs)" in text and "(20 test pairs)" in text
    assert "110 edges by KV head" in text and "    clean " in text and "memory " in text
    assert not list(tmp_path.iterdir())


def held() -> int:
    """Bytes of all tensors that there are."""
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    return sum({(s := one.untyped_storage()).data_ptr(): s.nbytes() for one in tensors}.values())


@pytest.mark.parametrize(("threshold", "excess"), [(1e-9, 1.15), (0.02, 1.4)])
def test_a_dry_run_forecasts_what_acdc_holds(home, monkeypatch, threshold, excess):
    """An upper estimate, close where hardly an edge is cut."""
    options = ["attribution.method=acdc", "task.n_train=40", "task.n_val=0", "cache.max_gb=0"]
    setup = make_setup(quick_config(home, *options))
    gc.collect()  # what earlier tests left would be counted before the search and be gone within it
    batches, before, most = scoring.training_batches(setup), held(), 0
    honest = acdc._Judge.candidates

    def candidates(self, runs, gates):
        nonlocal most
        found = honest(self, runs, gates)
        if runs[0].block.layer == 0:
            most = max(most, held() - before)
        return found

    monkeypatch.setattr(acdc._Judge, "candidates", candidates)
    acdc.acdc(setup.references, batches, threshold)
    (forecast,) = re.findall("search up to (.*) MB", memory_text(setup))
    assert most < 1e6 * float(forecast) < excess * most


# ---------------------------------------------------------------- several processes


@pytest.mark.parametrize(("method", "world"), [("exact", 2), ("exact", 3), ("acdc", 2)])
def test_several_processes_leave_the_bytes_of_one(make, home, tmp_path, method, world):
    whole, folder = make(method, *LONG[method]), tmp_path / "shared"
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    typed = [*LONG[method], f"output_dir={folder}", "train.progress=true"]
    script = [str(ROOT / "scripts" / "attribute.py"), str(home / "run.yaml")]
    result = python(*torchrun, *script, *settings(home), *typed, OMP_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    assert results(folder) == results(whole)
    assert len(re.findall("^model  ", result.stdout, re.MULTILINE)) == 1
    assert result.stdout.count("# jsonl in ") == 1
    assert len(list(folder.glob("events.out*"))) == 1
