"""The whole pipeline on a tiny model: what it leaves, what it refuses, and that it can go on."""

import csv
import json
import math
import os
import re
import signal
import socket
from getpass import getuser
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import pair_rows, quick_config, save_model, save_pairs, settings, tokenizer
from transformers import AutoModelForCausalLM

from circuitprune.attribution import METHODS
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.recovery import recovery
from circuitprune.circuits.selection import select_sizes
from circuitprune.cli import train_main
from circuitprune.engine.ablation import ABLATIONS
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.errors import CircuitPruneError, ConfigError, DataError, RunError
from circuitprune.files.records import to_json
from circuitprune.files.whole import read_tensors, write_tensors
from circuitprune.pipelines import train as run
from circuitprune.pipelines.setup import make_setup
from circuitprune.runs.frontier import Frontier
from circuitprune.runs.identity import PACKAGES
from circuitprune.runs.settings import load_config
from circuitprune.training.module import MaskTraining
from circuitprune.training.objectives import OBJECTIVES
from circuitprune.views.failure import BUG

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice

EVIDENCE = {"kl", "faithfulness", "metric", "accuracy", "exact_match"}
PROMISED = {
    "config.yaml",
    "versions.json",
    "scores.safetensors",
    "gates.safetensors",
    "frontier.json",
    "circuits",
    "edges.csv",
    "checkpoints",
    "summary.md",
    "command.json",
    "pairs.json",
    "report.html",
    "COMPLETE",
}
SIZES = [0.05, 0.2, 0.5, 1.0]
KNOWN = ["input->a0.h1<v>", "a0.h1->a1.h2<k>", "a1.h2->logits"]
BYTES = {"gates.safetensors", "frontier.json", "edges.csv"}


def make_home(folder: Path, family: str) -> Path:
    save_model(folder / "model", family)
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def gpt2_home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="module")
def llama_home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("llama"), "llama")


def discover(home: Path, *overrides: str) -> Frontier:
    said: list[str] = []
    return run.discover(quick_config(home, *overrides), said.append)


@pytest.fixture(scope="module")
def finished(gpt2_home) -> Path:
    """The folder of one finished run with every default that the tiny model allows."""
    discover(gpt2_home)
    return gpt2_home / "run"


def strict(path: Path) -> dict:
    """A JSON file; NaN and infinities, which are not JSON, fail."""

    def refuse(token: str):
        raise AssertionError(f"{path.name} holds {token}")

    return json.loads(path.read_text(), parse_constant=refuse)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def point(folder: Path, size: float) -> dict:
    return next(p for p in strict(folder / "frontier.json")["points"] if p["size"] == size)


# ---------------------------------------------------------------- what a run leaves


def test_the_folder_holds_what_is_promised(finished):
    names = {path.name for path in finished.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert names - events == PROMISED | {"hparams.yaml"}  # TensorBoard's own
    assert events
    assert not list(finished.rglob("*.tmp"))


def test_frontier_json_has_the_promised_form(finished):
    frontier = strict(finished / "frontier.json")
    needed = {"model", "task", "ablation", "n_edges_total", "n_edges_total_ungrouped"}
    assert needed | {"full", "empty", "points"} <= set(frontier)
    assert frontier["task"] == "jsonl" and frontier["ablation"] == "patch"
    assert frontier["model"] == load_config(finished / "config.yaml").model.name
    assert frontier["n_edges_total"] == frontier["n_edges_total_ungrouped"] == 110
    assert EVIDENCE - {"faithfulness"} <= set(frontier["full"]) & set(frontier["empty"])
    assert [p["size"] for p in frontier["points"]] == SIZES
    counts = [p["n_edges"] for p in frontier["points"]]
    assert counts == sorted(counts) and counts[-1] == 110
    for p in frontier["points"]:
        assert {"size", "n_edges"} | EVIDENCE <= set(p)
        assert 0.5 * p["size"] * 110 - 1 <= p["n_edges"] <= p["size"] * 110
        assert 0 <= p["accuracy"] <= 1 and 0 <= p["exact_match"] <= 1
        assert -1e-6 < p["kl"] < 2 * frontier["empty"]["kl"]
    assert frontier["full"]["kl"] == 0 and frontier["empty"]["kl"] > 0.01
    last = frontier["points"][-1]
    assert last["kl"] < 1e-6 and last["exact_match"] == 1
    assert last["faithfulness"] == pytest.approx(1, abs=1e-3)
    assert last["metric"] == pytest.approx(frontier["full"]["metric"], abs=1e-4)


def test_the_numbers_are_those_of_a_direct_evaluation(finished):
    """From the files alone: reload the config, the model and the circuits, and measure again."""
    config = load_config(finished / "config.yaml")
    setup = make_setup(config)
    batches = setup.data.batches("test")
    frontier = strict(finished / "frontier.json")
    full = evaluate_full(setup.references, batches, setup.task_metric)
    none = torch.zeros(setup.gated.graph.n_edges, dtype=torch.bool)
    masks = {"empty": none}
    for p in frontier["points"]:
        circuit = Circuit.load(finished / "circuits" / f"{p['n_edges']}.json")
        assert circuit.n_edges == p["n_edges"] and circuit.graph == setup.gated.graph
        masks[str(p["size"])] = circuit.mask
    evidence = evaluate(setup.references, masks, batches, setup.task_metric)
    assert frontier["full"] == pytest.approx(full.to_json(), abs=1e-6)
    assert frontier["empty"] == pytest.approx(evidence["empty"].to_json(), abs=1e-6)
    for p in frontier["points"]:
        again = evidence[str(p["size"])].against(full, evidence["empty"])
        for name in EVIDENCE:
            assert p[name] == pytest.approx(getattr(again, name), abs=1e-4), (p["size"], name)


def test_pairs_hold_what_follows_by_the_model_and_by_the_chosen_circuit(finished):
    found, setup = (
        strict(finished / "pairs.json"),
        make_setup(load_config(finished / "config.yaml")),
    )
    circuit = Circuit.load(finished / "circuits" / f"{found['n_edges']}.json")
    chosen = re.search(r"circuits/(\d+)\.json", (finished / "summary.md").read_text())
    assert chosen and int(chosen[1]) == found["n_edges"]
    again = setup.example_pairs(circuit.mask)
    assert found == json.loads(json.dumps(to_json(again))) and 0 < len(found["pairs"]) <= found["n"]
    for pair, example in zip(found["pairs"], setup.data.splits["test"], strict=False):
        assert pair["clean"] == setup.tokenizer.convert_ids_to_tokens(list(example.clean))
        assert set(pair["next"]) == {"model", "model_corrupt", "circuit"}


def test_circuits_reload_and_are_the_selection_of_the_trained_ranking(finished):
    tensors, notes = read_tensors(finished / "gates.safetensors", finite=True)
    assert json.loads(notes.pop("graph"))["n_layers"] == 2
    assert notes == {"learner": "topk", "objective": "kl"}
    assert set(tensors) == {"scores", "ranking"}
    graph = Graph(2, 4, 4, d_model=32)
    files = sorted((finished / "circuits").iterdir())
    masks = select_sizes(graph, tensors["ranking"], SIZES)
    assert {f"{int(mask.sum())}.json" for mask in masks.values()} == {f.name for f in files}
    for size, mask in masks.items():
        circuit = Circuit.load(finished / "circuits" / f"{int(mask.sum())}.json")
        assert torch.equal(circuit.mask, mask)
        assert torch.equal(circuit.trim().mask, mask)
        assert circuit.provenance["size"] == size
        assert circuit.provenance["task"] == "jsonl"
        p = point(finished, size)
        assert {k: circuit.provenance["evidence"][k] for k in EVIDENCE} == {
            k: p[k] for k in EVIDENCE
        }


def test_circuits_are_in_the_form_of_eap_ig(finished):
    value = json.loads((finished / "circuits" / "110.json").read_text())
    assert {"cfg", "nodes", "edges"} <= set(value)
    assert value["edges"]["input->a0.h0<q>"]["in_graph"] is True


def test_edges_csv_has_a_row_for_every_edge(finished):
    with (finished / "edges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 110
    graph, tensors = Graph(2, 4, 4), read_tensors(finished / "gates.safetensors")[0]
    initial = read_tensors(finished / "scores.safetensors")[0]["scores"]
    smallest = {}
    for file in sorted((finished / "circuits").iterdir(), key=lambda f: -int(f.stem)):
        smallest |= dict.fromkeys(Circuit.load(file).edges, int(file.stem))
    for i, row in enumerate(rows):
        name = f"{row['writer']}->{row['reader']}"
        assert name == graph.edges[i]
        assert float(row["initial_score"]) == pytest.approx(initial[i].item())
        assert float(row["final_score"]) == pytest.approx(tensors["ranking"][i].item())
        assert float(row["smallest_circuit"]) == smallest[name]


def test_tensors_have_a_checksum_that_is_checked(finished, tmp_path):
    for name in ("scores", "gates"):
        data = bytearray((finished / f"{name}.safetensors").read_bytes())
        data[-1] ^= 1
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RunError, match="checksum"):
            read_tensors(tmp_path / name)


def test_config_and_versions_are_kept(finished, gpt2_home):
    assert load_config(finished / "config.yaml") == quick_config(gpt2_home)
    found = strict(finished / "versions.json")
    assert set(PACKAGES) | {"python", "machine", "model_fingerprint"} == set(found)
    assert found["torch"] == torch.__version__
    assert found["model_fingerprint"] == strict(finished / "frontier.json")["model_fingerprint"]


def test_the_last_checkpoint_is_of_the_last_step_and_small(finished):
    last = finished / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 12
    assert last.stat().st_size < 20_000


def test_complete_comes_last(finished):
    written = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert max(written.values()) == written[finished / "COMPLETE"]


@pytest.mark.parametrize("step", ["write_results", "refined_frontier", "train", "log_final"])
def test_a_run_that_failed_is_not_complete(gpt2_home, tmp_path, monkeypatch, step):
    def fail(*args, **kwargs):
        raise OSError("disk on fire")

    monkeypatch.setattr(run, step, fail)
    with pytest.raises(OSError, match="disk on fire"):
        discover(gpt2_home, f"output_dir={tmp_path / 'run'}", "train.steps=1")
    assert (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run" / "COMPLETE").exists()


def test_nothing_private_is_written(gpt2_home, tmp_path, monkeypatch):
    """With relative paths typed, no file holds an absolute one, the user's name or the host's."""
    monkeypatch.chdir(gpt2_home)
    typed = [s.replace(f"{gpt2_home}/", "") for s in settings(gpt2_home)]
    config = load_config(None, [*typed, "output_dir=private"])
    run.discover(config, lambda _: None)
    private = {
        str(gpt2_home),
        str(Path.home()),
        os.path.expanduser("~"),
        str(Path(__file__).parent),
    }
    names = {name for name in (getuser(), socket.gethostname()) if len(name) > 4}
    for path, data in contents(gpt2_home / "private").items():
        for secret in private | names:
            assert secret.encode() not in data, f"{path} holds {secret}"


# ---------------------------------------------------------------- TensorBoard


@pytest.fixture(scope="module")
def events(gpt2_home) -> EventAccumulator:
    """Of a hard-concrete run, which logs all that there is."""
    folder, known = gpt2_home / "events", gpt2_home / "known.json"
    Circuit.from_names(Graph(2, 4, 4), KNOWN).save(known)
    options = "gates.learner=hard_concrete", f"verify.reference={known}"
    discover(gpt2_home, *options, f"output_dir={folder}")
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    found.Reload()
    return found


def values(events: EventAccumulator, tag: str) -> dict[int, float]:
    found = {event.step: event.value for event in events.Scalars(tag)}
    assert found and all(math.isfinite(value) for value in found.values())
    return found


@pytest.mark.parametrize(
    "tag",
    [
        "train/loss",
        "train/objective",
        "train/penalty",
        "train/density",
        "train/expected_density",
        "train/target_density",
        "train/multiplier_1",
        "train/multiplier_2",
        "train/lr",
    ],
)
def test_training_curves_are_logged(events, tag):
    assert values(events, tag)


def test_the_loss_is_the_sum_of_its_parts(events):
    loss, objective = values(events, "train/loss"), values(events, "train/objective")
    penalty = values(events, "train/penalty")
    for step in loss:
        assert loss[step] == pytest.approx(objective[step] + penalty[step], rel=1e-5)


@pytest.mark.parametrize("size", ["0.05", "0.2", "0.5", "1"])
def test_validation_curves_are_logged_at_every_size(events, size):
    for tag in (f"by_size/KL_log10/{size}", f"by_size/faithfulness/{size}"):
        assert len(values(events, tag)) == 2  # every 5 of 12 steps


def test_pictures_texts_and_hyper_parameters_are_logged(events):
    tags = events.Tags()
    assert set(tags["histograms"]) == {f"gates/{k}" for k in ("q", "k", "v", "mlp", "logits")}
    image = events.Images("layers/kept_at_0.05")[0]
    assert (image.width, image.height) == (144, 144)  # 2 layers and the ends, 48 pixels each
    config = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "learner: hard_concrete" in config
    shown = events.Tensors("pairs/text_summary")[0].tensor_proto.string_val[0].decode()
    assert shown.count("clean") == 3 and "' and'" in shown
    plugins = events.PluginTagToContent("hparams")
    assert any("session_start_info" in tag for tag in plugins)
    hparams = next(c for tag, c in plugins.items() if "session_start_info" in tag)
    assert b"gates.learner" in hparams and b"hard_concrete" in hparams
    assert b"gates.temperature" not in hparams and b"output_dir" not in hparams  # as usual, a place
    assert "epoch" not in tags["scalars"]
    for name in (*EVIDENCE, "n_edges"):
        assert values(events, f"final/{name}")


def steps(events: EventAccumulator, kind: str) -> dict[str, list[int]]:
    """At which steps each picture or histogram was drawn."""
    read = events.Images if kind == "images" else events.Histograms
    return {tag: [event.step for event in read(tag)] for tag in events.Tags()[kind]}


def test_circuits_are_drawn_at_checkpoints_and_frontiers_at_validations(events, gpt2_home):
    """Checkpoints every 4 steps and before validations, every 5, and after 12; nothing twice."""
    n_edges = strict(gpt2_home / "events" / "frontier.json")["points"]
    chosen = values(events, "final/n_edges")[0]
    assert chosen in {float(point["n_edges"]) for point in n_edges}
    assert steps(events, "images") == {
        "circuit/kept_at_0.5": [4, 5, 8, 10, 12],
        "frontier/validation": [5, 10],
        "layers/kept_at_0.05": [5, 10, 12],
        "circuit/chosen": [chosen],
        "frontier/verified": [chosen],
    }
    assert set(map(tuple, steps(events, "histograms").values())) == {(5, 10, 12)}


def test_the_ranking_is_compared_with_a_reference(events, gpt2_home):
    ranking = read_tensors(gpt2_home / "events" / "gates.safetensors")[0]["ranking"]
    known = Graph(2, 4, 4).mask_of(KNOWN)
    for name, value in recovery(ranking, known).items():
        if name != "precision_at_size":
            drawn = values(events, f"reference/{name}")
            assert list(drawn) == [5, 10, 12] and drawn[12] == pytest.approx(value)
    curves = events.Tensors("reference/precision_recall")
    assert [curve.step for curve in curves] == [5, 10, 12]


@pytest.mark.parametrize(
    ("graph", "edges", "model", "words"),
    [
        (Graph(2, 4, 4), [], None, "keeps 0 of 110 edges"),
        (Graph(2, 4, 2), ["input->logits"], None, "2 layers, 4 heads, 2 KV readers"),
        (Graph(2, 4, 4), ["input->logits"], "0123", "of another model: .* is 0123, and here it is"),
    ],
)
def test_a_reference_that_cannot_be_one_is_refused(gpt2_home, tmp_path, graph, edges, model, words):
    about = {} if model is None else {"model_fingerprint": model}
    found = Circuit(graph, graph.mask_of(edges), None, about)
    found.save(tmp_path / "known.json")
    with pytest.raises(CircuitPruneError, match=words):
        discover(gpt2_home, f"verify.reference={tmp_path}/known.json", f"output_dir={tmp_path}/run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- every option


@pytest.mark.parametrize("method", [*METHODS, "none"])
def test_every_initialisation_starts_the_gates(gpt2_home, tmp_path, method):
    """Without a step the gates are in the order of the scores, or, without scores, all alike."""
    folder = tmp_path / "run"
    discover(gpt2_home, f"attribution.method={method}", "train.steps=0", f"output_dir={folder}")
    ranking = read_tensors(folder / "gates.safetensors")[0]["ranking"]
    with (folder / "edges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if method == "none":
        assert not (folder / "scores.safetensors").exists() and "initial_score" not in rows[0]
        assert torch.equal(ranking, torch.zeros(110))
        return
    scores = read_tensors(folder / "scores.safetensors")[0]["scores"]
    assert [float(row["initial_score"]) for row in rows] == pytest.approx(scores.tolist())
    order = scores.abs().argsort(descending=True, stable=True)
    assert torch.equal(ranking.argsort(descending=True, stable=True), order)
    assert scores.isfinite().all() and scores.unique().numel() > 2


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_ablation_runs_from_one_end_to_the_other(gpt2_home, tmp_path, ablation):
    folder = tmp_path / "run"
    discover(gpt2_home, f"ablation={ablation}", "train.steps=1", f"output_dir={folder}")
    frontier = strict(folder / "frontier.json")
    assert frontier["ablation"] == ablation
    assert abs(frontier["points"][-1]["kl"]) < 1e-6 < frontier["empty"]["kl"]


def test_ablations_differ(gpt2_home, tmp_path):
    empties = set()
    for ablation in ABLATIONS:
        folder = tmp_path / ablation
        discover(gpt2_home, f"ablation={ablation}", "train.steps=0", f"output_dir={folder}")
        empties.add(round(strict(folder / "frontier.json")["empty"]["kl"], 4))
    assert len(empties) == len(ABLATIONS)


def test_a_prompt_too_long_for_positional_means_is_refused_at_set_up(gpt2_home, tmp_path):
    """One prompt of 9 tokens among those of 8: refused unless it falls to the training side."""
    rows = pair_rows()
    long = next(row for row in rows if row["clean"].startswith("today"))
    rest = [row for row in rows if not row["clean"].startswith("today")]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rest[:51], long]))
    messages = []
    for seed in range(6):
        chosen = [f"task.path={path}", "ablation=positional-mean", f"task.seed={seed}"]
        try:
            make_setup(quick_config(gpt2_home, *chosen))
        except DataError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 6
    assert all("knows 8 positions" in text and "has 9 tokens" in text for text in messages)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_runs(gpt2_home, tmp_path, objective):
    folder = tmp_path / "run"
    discover(gpt2_home, f"objective={objective}", "train.steps=2", f"output_dir={folder}")
    assert read_tensors(folder / "gates.safetensors")[1]["objective"] == objective


@pytest.mark.parametrize("selection", ["top_n", "top_n_raw", "greedy"])
def test_every_selection_runs(gpt2_home, tmp_path, selection):
    folder = tmp_path / "run"
    chosen = f"verify.selection={selection}"
    discover(gpt2_home, chosen, "train.steps=6", f"output_dir={folder}")
    ranking = read_tensors(folder / "gates.safetensors")[0]["ranking"]
    masks = select_sizes(Graph(2, 4, 4), ranking, SIZES, selection)
    assert {p["size"] for p in strict(folder / "frontier.json")["points"]} == {*SIZES}
    for p in strict(folder / "frontier.json")["points"]:
        assert torch.equal(Circuit.load(folder / p["file"]).mask, masks[p["size"]])


def test_threshold_selection_keeps_the_edges_above(gpt2_home, tmp_path):
    folder = tmp_path / "run"
    chosen = ["verify.selection=threshold", "verify.thresholds=[-99,0.0,99]"]
    discover(gpt2_home, *chosen, f"output_dir={folder}")
    first, middle, last = strict(folder / "frontier.json")["points"]
    assert [p["size"] for p in (first, middle, last)] == [-99, 0, 99]
    assert first["n_edges"] == 110 and last["n_edges"] == 0
    ranking = read_tensors(folder / "gates.safetensors")[0]["ranking"]
    kept = Circuit(Graph(2, 4, 4), ranking >= 0).trim()
    assert 0 < middle["n_edges"] == kept.n_edges < 110
    assert last["kl"] == strict(folder / "frontier.json")["empty"]["kl"]


def test_without_validation_pairs(gpt2_home, tmp_path):
    folder = tmp_path / "run"
    discover(gpt2_home, "task.n_val=0", f"output_dir={folder}")
    found = EventAccumulator(str(folder))
    found.Reload()
    assert "train/loss" in found.Tags()["scalars"]
    assert not [tag for tag in found.Tags()["scalars"] if tag.startswith("val_")]
    assert len(found.Tags()["histograms"]) == 5
    drawn = steps(found, "images")
    assert drawn.pop("layers/kept_at_0.05") == [12]
    assert drawn.pop("circuit/kept_at_0.5") == [4, 8, 12]
    assert set(drawn) == {"circuit/chosen", "frontier/verified"}
    assert (folder / "COMPLETE").exists()


@pytest.mark.parametrize(("n_val", "split"), [(8, "val"), (0, "train")])
def test_without_test_pairs_the_next_best_are_verified_and_named(gpt2_home, tmp_path, n_val, split):
    folder = tmp_path / "run"
    less = ["task.n_test=0", f"task.n_val={n_val}", "train.steps=2"]
    discover(gpt2_home, *less, f"output_dir={folder}")
    frontier = strict(folder / "frontier.json")
    assert frontier["split"] == split
    assert frontier["full"]["n"] == {"val": 8, "train": 24}[split]
    assert f"{split} pairs" in (folder / "summary.md").read_text()


def test_pairs_on_which_nothing_can_be_recovered_leave_faithfulness_undefined(
    gpt2_home, tmp_path, monkeypatch
):
    """The full and the empty model score the same, which shows when training is paid for."""
    flat = ("flat", lambda logits, batch: torch.ones_like(logits[:, 0]))
    monkeypatch.setattr("circuitprune.pipelines.setup._task_metric", lambda *_: flat)
    frontier = discover(gpt2_home, "train.steps=2", f"output_dir={tmp_path / 'run'}")
    assert all(point.evidence.faithfulness is None for point in frontier.points)
    assert all(point.validation.faithfulness is None for point in frontier.points)
    said = (tmp_path / "run" / "summary.md").read_text()
    assert "faithfulness undefined, accuracy" in said
    assert "Faithfulness is undefined on these" in said
    rows = json.loads((tmp_path / "run" / "frontier.json").read_text())["points"]
    assert not any("faithfulness" in row for row in rows) and rows[0]["kl"] >= 0
    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]
    assert any(tag.startswith("by_size/KL_log10/") for tag in tags)
    assert not any("faithfulness" in tag for tag in tags)


def test_without_training_the_initial_scores_are_verified(gpt2_home, tmp_path):
    folder = tmp_path / "run"
    discover(gpt2_home, "train.steps=0", f"output_dir={folder}")
    scores = read_tensors(folder / "scores.safetensors")[0]["scores"]
    masks = select_sizes(Graph(2, 4, 4), scores.abs(), SIZES)
    for size, mask in masks.items():
        n_edges = int(mask.sum())
        assert torch.equal(Circuit.load(folder / "circuits" / f"{n_edges}.json").mask, mask)
        assert point(folder, size)["n_edges"] == n_edges
    assert (folder / "COMPLETE").exists()


@pytest.mark.parametrize(("kv_readers", "n_edges"), [("kv_head", 82), ("query_head", 110)])
def test_both_conventions_of_grouped_queries(llama_home, tmp_path, kv_readers, n_edges):
    folder = tmp_path / "run"
    chosen = f"model.kv_readers={kv_readers}"
    discover(llama_home, chosen, "train.steps=4", f"output_dir={folder}")
    frontier = strict(folder / "frontier.json")
    assert frontier["n_edges_total"] == n_edges
    assert frontier["n_edges_total_ungrouped"] == 110
    for p in frontier["points"]:
        circuit = Circuit.load(folder / "circuits" / f"{p['n_edges']}.json")
        assert circuit.n_edges == p["n_edges"] <= n_edges
        assert circuit.n_edges_ungrouped == p["n_edges_ungrouped"] <= 110
    assert len((folder / "edges.csv").read_text().splitlines()) == n_edges + 1
    assert abs(frontier["points"][-1]["kl"]) < 1e-5


def test_norms_behind_the_attention_are_noted(gpt2_home, finished, tmp_path):
    """Other programs norm the sum of all heads once, for all readers."""
    model = AutoModelForCausalLM.from_config(CONFIGS["gemma2"](), dtype=torch.float32)
    model.save_pretrained(tmp_path / "gemma2")
    tokenizer().save_pretrained(tmp_path / "gemma2")
    folder = tmp_path / "run"
    chosen = [f"model.name={tmp_path / 'gemma2'}", f"output_dir={folder}", "train.steps=0"]
    discover(gpt2_home, *chosen)
    assert strict(folder / "frontier.json")["post_norms"] == "per_reader"
    for file in (folder / "circuits").iterdir():
        assert Circuit.load(file).provenance["post_norms"] == "per_reader"
    assert "post_norms" not in strict(finished / "frontier.json")


def test_a_run_without_the_reference_cache_learns_the_same(gpt2_home, finished, tmp_path):
    folder = tmp_path / "run"
    discover(gpt2_home, "cache.max_gb=0", f"output_dir={folder}")
    ours = read_tensors(folder / "gates.safetensors")[0]["ranking"]
    theirs = read_tensors(finished / "gates.safetensors")[0]["ranking"]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("learner", ["topk", "hard_concrete"])
def test_a_model_in_bfloat16_has_gates_and_scores_in_float32(gpt2_home, tmp_path, learner):
    """They learn what those of the model in float32 do, as far as its own rounding lets them."""
    rankings = []
    for dtype in ("bfloat16", "float32"):
        folder = tmp_path / dtype
        quick = [f"model.dtype={dtype}", f"gates.learner={learner}", f"output_dir={folder}"]
        frontier = discover(gpt2_home, *quick)
        gates, scores = (
            read_tensors(folder / name)[0] for name in ("gates.safetensors", "scores.safetensors")
        )
        assert {t.dtype for t in (*gates.values(), *scores.values()) if t.is_floating_point()} == {
            torch.float32
        }
        assert frontier.points[-1].evidence.kl < 1e-3
        rankings.append(gates["ranking"])
    assert torch.corrcoef(torch.stack(rankings))[0, 1] > 0.98
    assert not torch.equal(*rankings)


# ---------------------------------------------------------------- the same again


@pytest.mark.parametrize("learner", ["topk", "hard_concrete"])
def test_the_same_config_and_seed_give_the_same_bytes(gpt2_home, tmp_path, learner):
    names = ("scores.safetensors", "gates.safetensors", "frontier.json", "edges.csv")
    made = []
    for i in range(2):
        torch.manual_seed(i)  # the global stream has no say
        folder = tmp_path / str(i)
        discover(gpt2_home, f"gates.learner={learner}", f"output_dir={folder}")
        made.append({name: (folder / name).read_bytes() for name in names})
        made[-1] |= {p.name: p.read_bytes() for p in (folder / "circuits").iterdir()}
    assert made[0] == made[1]
    other = tmp_path / "other"
    discover(gpt2_home, f"gates.learner={learner}", "train.seed=1", f"output_dir={other}")
    assert (other / "gates.safetensors").read_bytes() != made[0]["gates.safetensors"]


def interrupt_at(monkeypatch, step: int) -> None:
    honest = MaskTraining.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            raise RuntimeError("power cut")
        return honest(self, batch, batch_idx)

    monkeypatch.setattr(MaskTraining, "training_step", training_step)


@pytest.mark.parametrize(
    ("chosen", "at"),
    [
        (["gates.learner=topk"], 7),
        (["gates.learner=hard_concrete"], 5),
        (["attribution.method=none"], 6),
        (["task.n_test=0", "verify.batch_size=3"], 2),
        (["cache.max_gb=2e-4"], 7),  # half of the reference runs
        (["cache.max_gb=2e-4", "attribution.method=none", "verify.batch_size=5"], 3),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    gpt2_home, tmp_path, monkeypatch, capsys, chosen, at
):
    def arguments(name: str) -> list[str]:
        return [str(empty), *settings(gpt2_home), *chosen, f"output_dir={tmp_path / name}"]

    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert train_main(arguments("whole")) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, at)
        assert train_main(arguments("cut")) == BUG and "power cut" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "COMPLETE").exists()

    before = contents(tmp_path / "cut")
    capsys.readouterr()
    assert train_main(arguments("cut")) != 0  # without resume: refused, with the hint
    message = capsys.readouterr().err
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert "train.resume=auto" in message and "Traceback" not in message
    assert contents(tmp_path / "cut") == before

    assert last.exists() and train_main([*arguments("cut"), "train.resume=auto"]) == 0
    for name in sorted({"scores.safetensors"} & set(os.listdir(tmp_path / "whole")) | BYTES):
        whole, resumed = tmp_path / "whole" / name, tmp_path / "cut" / name
        assert resumed.read_bytes() == whole.read_bytes(), name
    assert (tmp_path / "cut" / "COMPLETE").exists()


def test_a_resumed_run_refuses_scores_that_do_not_fit(gpt2_home, tmp_path, monkeypatch):
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(RuntimeError, match="power cut"):
            discover(gpt2_home, f"output_dir={folder}")
    resume = f"train.resume={folder / 'checkpoints' / 'last.ckpt'}"
    write_tensors(folder / "scores.safetensors", {"scores": torch.ones(7)}, {"method": "gate_ig"})
    with pytest.raises(RunError, match=r"scores of shape \(7,\), expected \(110,\)"):
        discover(gpt2_home, f"output_dir={folder}", resume)
    assert not (folder / "COMPLETE").exists()


# ---------------------------------------------------------------- preemption


def stop_at(patch, step: int, number: int) -> None:
    """A signal in the middle of a training step."""
    honest = MaskTraining.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), number)
        return honest(self, batch, batch_idx)

    patch.setattr(MaskTraining, "training_step", training_step)


@pytest.mark.parametrize("learner", ["topk", "hard_concrete"])
def test_ten_preemptions_in_a_row_end_in_the_same_bytes(gpt2_home, tmp_path, monkeypatch, learner):
    """Each finishes its step: a run that is stopped at every step still comes to its end."""

    def run(name: str, *more: str) -> int:
        empty = tmp_path / "empty.yaml"
        empty.write_text("")
        chosen = [*settings(gpt2_home), f"gates.learner={learner}", "train.steps=12"]
        return train_main([str(empty), *chosen, f"output_dir={tmp_path / name}", *more])

    assert run("whole") == 0
    numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
    for step in range(1, 11):
        with monkeypatch.context() as patch:
            stop_at(patch, step, numbers[step % 3])
            assert run("cut", "train.resume=auto") == (130 if step % 3 == 2 else 75)
        last = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == step + 1
    assert run("cut", "train.resume=auto") == 0
    for name in sorted(BYTES):
        whole, resumed = tmp_path / "whole" / name, tmp_path / "cut" / name
        assert resumed.read_bytes() == whole.read_bytes(), name
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_signal_does_not_wait_for_the_end_of_a_validation(gpt2_home, tmp_path, monkeypatch):
    """It may take long and changes nothing: the checkpoint of its step is there."""
    honest, seen = MaskTraining.validation_step, []

    def validation_step(self, batch, batch_idx):
        seen.append(batch_idx)
        os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, batch, batch_idx)

    chosen = [*settings(gpt2_home), "train.resume=auto", "verify.batch_size=2"]  # 4 of validation
    with monkeypatch.context() as patch:
        patch.setattr(MaskTraining, "validation_step", validation_step)
        assert train_main([*chosen, f"output_dir={tmp_path / 'cut'}"]) == 75
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert seen == [0] and torch.load(last, weights_only=True)["global_step"] == 5
    for name in ("cut", "whole"):
        assert train_main([*chosen, f"output_dir={tmp_path / name}"]) == 0
    for name in sorted(BYTES):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_nothing_is_written_in_the_middle_of_a_step(gpt2_home, tmp_path, monkeypatch):
    """Who asks twice does not wait, and the gates may have moved while the step is not counted."""
    honest = torch.optim.Adam.step

    def step(self, closure=None):
        loss = honest(self, closure)
        if next(iter(self.state.values()))["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    chosen = [*settings(gpt2_home), "train.resume=auto"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        assert train_main([*chosen, f"output_dir={tmp_path / 'cut'}"]) == 75
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5  # before the validation
    for name in ("cut", "whole"):
        assert train_main([*chosen, f"output_dir={tmp_path / name}"]) == 0
    for name in sorted(BYTES):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_killed_before_its_first_checkpoint_starts_again(gpt2_home, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0)
        with pytest.raises(RuntimeError, match="power cut"):
            discover(gpt2_home, f"output_dir={tmp_path / 'run'}")
    with pytest.raises(RunError, match="go on in it"):
        discover(gpt2_home, f"output_dir={tmp_path / 'run'}")
    discover(gpt2_home, f"output_dir={tmp_path / 'run'}", "train.resume=auto")
    assert (tmp_path / "run" / "COMPLETE").exists()
    before = contents(tmp_path / "run")
    discover(gpt2_home, f"output_dir={tmp_path / 'run'}", "train.resume=auto")  # asked once more
    assert contents(tmp_path / "run") == before


def test_a_finished_run_goes_on_to_more_steps(gpt2_home, finished, tmp_path):
    last = finished / "checkpoints" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    more = (f"output_dir={tmp_path / 'more'}", f"train.resume={last}")
    discover(gpt2_home, *more, f"train.steps={steps + 4}")
    again = torch.load(tmp_path / "more" / "checkpoints" / "last.ckpt", weights_only=True)
    assert again["global_step"] == steps + 4
    with pytest.raises(RunError, match=r"beyond train\.steps=3; raise train\.steps"):
        discover(gpt2_home, f"output_dir={tmp_path / 'x'}", f"train.resume={last}", "train.steps=3")


def test_another_learning_rate_takes_effect(gpt2_home, interrupted, tmp_path):
    last = interrupted / "checkpoints" / "last.ckpt"
    found = {}
    for rate in ("0.05", "0.5"):
        folder = tmp_path / rate
        discover(gpt2_home, f"output_dir={folder}", f"train.resume={last}", f"train.lr={rate}")
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        found[rate] = state["optimizer_states"][0]["param_groups"][0]["initial_lr"]
    assert found == {"0.05": 0.05, "0.5": 0.5}


@pytest.mark.parametrize(
    "other",
    [
        "train.seed=5",
        "ablation=zero",
        "objective=prob_diff",
        "train.batch_size=3",
        "gates.k_min=3",
        "gates.temperature=0.7",
        "gates.mask=sigmoid",
        "task.seed=9",
        "train.lr_end=0.5",
    ],
)
def test_a_checkpoint_of_another_job_is_refused_by_name(gpt2_home, interrupted, tmp_path, other):
    last = interrupted / "checkpoints" / "last.ckpt"
    with pytest.raises(RunError, match=f"of another run: .*{other.partition('=')[0]}"):
        discover(gpt2_home, f"output_dir={tmp_path / 'x'}", f"train.resume={last}", other)
    assert not (tmp_path / "x").exists()


def test_budgets_at_sizes_refuse_a_checkpoint_of_other_sizes(gpt2_home, tmp_path, monkeypatch):
    """There the sizes decide the gates; elsewhere a run may go on to be cut to others."""
    near, other = "gates.budgets=at_sizes", "verify.sizes=[0.2,0.5]"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(RuntimeError, match="power cut"):
            discover(gpt2_home, near, f"output_dir={tmp_path / 'cut'}")
    resume = f"train.resume={tmp_path / 'cut' / 'checkpoints' / 'last.ckpt'}"
    with pytest.raises(RunError, match=r"of another run: .*verify\.sizes"):
        discover(gpt2_home, near, other, resume, f"output_dir={tmp_path / 'x'}")
    discover(gpt2_home, near, resume, f"output_dir={tmp_path / 'same'}")


# ---------------------------------------------------------------- what is refused


def test_a_finished_folder_is_refused_and_untouched(finished, gpt2_home):
    before = contents(finished)
    for overrides in ([], ["train.steps=1"], [f"train.resume={finished}/checkpoints/last.ckpt"]):
        with pytest.raises(RunError, match="finished run"):
            discover(gpt2_home, *overrides)
        with pytest.raises(RunError, match="finished run"):
            run.dry_run(quick_config(gpt2_home, *overrides))
    assert contents(finished) == before


def test_a_folder_with_other_things_is_refused_and_untouched(gpt2_home, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        discover(gpt2_home, f"output_dir={tmp_path}")
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_in_place_of_the_folder_is_refused(gpt2_home, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="is a file"):
        discover(gpt2_home, f"output_dir={tmp_path / 'run'}")
    assert (tmp_path / "run").read_text() == "a file"


@pytest.fixture
def interrupted(gpt2_home, tmp_path, monkeypatch) -> Path:
    """The folder of a run that stopped at step 7."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        with pytest.raises(RuntimeError, match="power cut"):
            discover(gpt2_home, f"output_dir={tmp_path / 'cut'}")
    return tmp_path / "cut"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gates.learner=hard_concrete", "gates.learner 'topk', here 'hard_concrete'"),
        ("model.name={llama}", "model_fingerprint"),
        ("train.trainer={max_stepz: 3}", "train.trainer"),
        ("task.min_accuracy=0.99", "cannot do this task"),
    ],
)
def test_a_refused_resume_overwrites_nothing(gpt2_home, llama_home, interrupted, override, message):
    before = contents(interrupted)
    last = interrupted / "checkpoints" / "last.ckpt"
    chosen = [f"output_dir={interrupted}", f"train.resume={last}"]
    with pytest.raises(CircuitPruneError, match=message):
        discover(gpt2_home, *chosen, override.replace("{llama}", str(llama_home / "model")))
    assert contents(interrupted) == before


def test_a_resume_into_a_folder_of_other_things_is_refused(gpt2_home, interrupted, tmp_path):
    last = interrupted / "checkpoints" / "last.ckpt"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("my: own")
    with pytest.raises(RunError, match="not empty; choose another"):
        discover(gpt2_home, f"output_dir={tmp_path / 'mine'}", f"train.resume={last}")
    assert contents(tmp_path / "mine") == {"config.yaml": b"my: own"}


def test_a_checkpoint_of_another_program_is_refused(gpt2_home, tmp_path):
    torch.save({"global_step": 3, "state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(RunError, match=r"other\.ckpt' is not a readable checkpoint"):
        discover(
            gpt2_home, f"output_dir={tmp_path / 'run'}", f"train.resume={tmp_path / 'other.ckpt'}"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{max_stepz: 3}", "max_stepz"),
        ("{devices: 2}", "train.device"),
        ("{max_steps: 3}", "train.steps"),
        ("{accumulate_grad_batches: 2}", "train.batch_size"),
        ("{precision: 16-mixed}", "model.dtype"),
    ],
)
def test_options_that_would_change_the_run_are_refused(gpt2_home, tmp_path, options, message):
    with pytest.raises(ConfigError, match=rf"train\.trainer.*{message}|{message}.*train\.trainer"):
        discover(gpt2_home, f"train.trainer={options}", f"output_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_budgets_that_no_step_can_keep_are_refused_before_anything_is_made(gpt2_home, tmp_path):
    chosen = ["gates.k_min=50", "gates.k_max=0.1", f"output_dir={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=r"gates\.k_min.*got 50 and 11"):
        discover(gpt2_home, *chosen)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["/proc/x/y", "{tmp}/file/run"])
def test_a_folder_that_cannot_be_made_is_refused(gpt2_home, tmp_path, folder):
    (tmp_path / "file").write_text("a file")
    folder = folder.replace("{tmp}", str(tmp_path))
    with pytest.raises(RunError, match=rf"output_dir '{folder}' cannot be used: "):
        discover(gpt2_home, f"output_dir={folder}")
    assert contents(tmp_path) == {"file": b"a file"}


@pytest.mark.parametrize(
    "override",
    [
        "task.min_accuracy=0.99",
        "task.n_train=5000",
        "task.corruption=other",
        "train.resume=nowhere.ckpt",
        "model.name=./nowhere",
        "task.path=nowhere.jsonl",
    ],
)
def test_a_refusal_writes_nothing(gpt2_home, tmp_path, override):
    with pytest.raises(CircuitPruneError):
        discover(gpt2_home, f"output_dir={tmp_path / 'run'}", override)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_writes_nothing(gpt2_home, tmp_path):
    before = contents(gpt2_home)
    assert run.dry_run(quick_config(gpt2_home, f"output_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists() and contents(gpt2_home) == before
