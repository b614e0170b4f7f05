"""Methods and metrics of the user's own: they do what ours do, and what is none is refused."""

import hashlib
import json

import pytest
import torch
from tiny import quick_config, save_model, save_pairs

from circuitprune.attribution import eap
from circuitprune.circuits.circuit import Circuit
from circuitprune.cli import attribute_main, main
from circuitprune.data.tasks import JsonlTask
from circuitprune.errors import ConfigError, DataError, MetricError, RunError
from circuitprune.files.whole import read_tensors
from circuitprune.metrics import answer_prob, logit_diff
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.own import method_of, metric_of, own_hashes, own_method, own_metric
from circuitprune.pipelines.setup import make_setup
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.verify import verify_run
from circuitprune.runs.settings import flatten, load_config, to_yaml

MINE = """
from circuitprune.attribution import eap
from circuitprune.metrics import logit_diff

def twice(logits, batch):
    return 2 * logit_diff(logits, batch)

def reversed_eap(references, batches, metric, steps):
    return -eap(references, batches, metric)

def fails(references, batches, metric, steps):
    return {}["x"]

def short(references, batches, metric, steps):
    return eap(references, batches, metric)[:-1]

def total(logits, batch):
    return logits.sum()

def whole(logits, batch):
    return logits.argmax(1)

def flat(logits, batch):
    return logit_diff(logits.detach(), batch)

def one(logits):
    return logits

number = 3
"""
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    (folder / "mine.py").write_text(MINE)
    return folder


def own(home, inside):
    return f"{home / 'mine.py'}:{inside}"


def config_of(home, tmp_path, *overrides):
    return quick_config(home, "attribution.method=eap", f"output_dir={tmp_path}/run", *overrides)


@pytest.fixture(scope="module")
def study(home):
    return Study.from_config(quick_config(home))


# ---------------------------------------------------------------- in a config


def test_a_run_with_own_metric_and_method_is_a_run_and_records_them(home, tmp_path):
    plain = attribute(config_of(home, tmp_path / "plain"), lambda _: None)
    mine = [f"task.metric={own(home, 'twice')}", f"attribution.method={own(home, 'reversed_eap')}"]
    found = attribute(config_of(home, tmp_path, *mine), lambda _: None)
    assert found.full.metric == pytest.approx(2 * plain.full.metric)
    ours, theirs = (
        read_tensors(folder / "run" / "scores.safetensors")[0]["scores"]
        for folder in (tmp_path / "plain", tmp_path)
    )
    torch.testing.assert_close(theirs, -2 * ours)
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert saved.task.metric == own(home, "twice")
    assert saved.attribution.method == own(home, "reversed_eap")
    about = json.loads((tmp_path / "run" / "frontier.json").read_text())
    sha256 = hashlib.sha256(MINE.encode()).hexdigest()
    assert about["metric"] == own(home, "twice") and about["init"] == own(home, "reversed_eap")
    assert about["metric_sha256"] == about["init_sha256"] == sha256 and "task_sha256" not in about
    circuit = Circuit.load(tmp_path / "run" / found.file_of(found.chosen()))
    assert circuit.provenance["metric_sha256"] == sha256


def test_a_run_is_not_verified_by_a_metric_that_has_changed(home, tmp_path, monkeypatch):
    config = config_of(home, tmp_path, f"task.metric={own(home, 'twice')}")
    attribute(config, lambda _: None)
    monkeypatch.setattr("circuitprune.pipelines.own.user_hash", lambda _: "another")
    with pytest.raises(RunError, match=r"\.metric=.* is not what it was .* another now"):
        verify_run(tmp_path / "run", ["sections=[mib]"], say=lambda _: None)


def test_auto_takes_the_metric_that_a_task_was_published_with(home, tmp_path):
    task = JsonlTask(home / "pairs.jsonl")
    assert make_setup(config_of(home, tmp_path), task=task).metric_name == "logit_diff"
    task.metric = "answer_prob"
    found = make_setup(config_of(home, tmp_path), task=task)
    assert (found.metric_name, found.task_metric) == ("answer_prob", answer_prob)
    asked = config_of(home, tmp_path, "task.metric=prob_diff")
    assert make_setup(asked, task=task).metric_name == "prob_diff"
    task.metric = "answer_probability"
    with pytest.raises(DataError, match=r"metric of task 'jsonl': .* mean 'answer_prob'"):
        make_setup(config_of(home, tmp_path), task=task)


def test_what_is_ours_has_no_hash_of_a_file(home, tmp_path):
    assert own_hashes(config_of(home, tmp_path)) == {}


def test_scores_of_a_file_that_has_changed_are_not_taken_up(home, tmp_path, monkeypatch):
    config = config_of(home, tmp_path, f"attribution.method={own(home, 'reversed_eap')}")
    with monkeypatch.context() as patch:
        patch.setattr("circuitprune.pipelines.attribute._finish", None)
        with pytest.raises(TypeError):
            attribute(config, lambda _: None)
    monkeypatch.setattr("circuitprune.pipelines.own.user_hash", lambda _: "another")
    with pytest.raises(RunError, match="init_sha256"):
        attribute(config, lambda _: None)


def test_training_starts_from_own_scores(home, tmp_path, capsys):
    arguments = [f"output_dir={tmp_path}/run", f"attribution.method={own(home, 'reversed_eap')}"]
    from tiny import settings

    assert main(["train", *settings(home), *arguments]) == 0
    assert (tmp_path / "run" / "COMPLETE").exists()
    assert main(["verify", f"{tmp_path}/run", "sections=[faithfulness]", "n_bootstrap=5"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("attribution.method={}:number", "is no function of (references, batches, metric, steps)"),
        ("attribution.method={}:one", "one(logits) is called with"),
        ("attribution.method={}:absent", "has no 'absent'"),
        ("attribution.method={}:fails", "fails at line 12 of"),
        ("attribution.method={}:short", "must give a finite number for each of 110 edges"),
        ("task.metric={}:one", "one(logits) is called with (logits, batch)"),
        ("task.metric={}:total", "must give one number per example, here a tensor of shape (24,)"),
        ("task.metric={}:whole", "it gave torch.int64 of shape (24,)"),
        ("task.metric={}:flat", "has no gradient"),
    ],
)
def test_what_is_no_such_function_is_one_sentence(home, tmp_path, capsys, setting, words):
    from tiny import settings

    arguments = ["attribution.method=eap", f"output_dir={tmp_path}/run"]
    arguments += [setting.format(home / "mine.py")]
    assert attribute_main([*settings(home), *arguments]) in (1, 2)
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and said.startswith("error: ")


def test_a_function_that_cannot_be_one_is_refused_before_the_model_is_loaded(home, monkeypatch):
    monkeypatch.setattr("circuitprune.pipelines.setup.load_model", None)
    for setting in ("attribution.method={}", "task.metric={}"):
        config = quick_config(home, setting.format(own(home, "number")))
        with pytest.raises(ConfigError, match="is no function"):
            make_setup(config)


# ---------------------------------------------------------------- in Python


def test_a_study_attributes_by_a_function(study):
    slow = study.attribute("eap", metric="logit_diff")
    found = study.attribute(eap, metric=logit_diff)
    assert torch.equal(found.values, slow.values)
    assert (found.method, found.metric, found.signed) == ("eap", "logit_diff", True)

    def halved(references, batches, metric, steps):
        return eap(references, batches, metric) / steps

    def twice(logits, batch):
        return 2 * logit_diff(logits, batch)

    found = study.attribute(halved, metric=twice, steps=4)
    torch.testing.assert_close(found.values, slow.values / 2)
    assert (found.method, found.metric) == ("halved", "twice")
    assert study.circuit(found, n_edges=20).method == "halved"
    by_gates, slow = (
        study.attribute("gate_ig", steps=2, metric=of).values for of in (logit_diff, "logit_diff")
    )
    assert torch.equal(by_gates, slow)


def test_a_study_learns_from_a_function(study):
    named = study.learn(steps=2, start="eap", progress=False)
    assert torch.equal(study.learn(steps=2, start=eap, progress=False).ranking, named.ranking)


def test_a_study_has_a_metric_of_its_own(home):
    def twice(logits, batch):
        return 2 * logit_diff(logits, batch)

    pairs = dict(n_train=12, n_test=8, min_accuracy=0.0)
    mine, ours = (
        Study(home / "model", home / "pairs.jsonl", metric=metric, **pairs)
        for metric in (twice, "logit_diff")
    )
    assert mine.full.metric == pytest.approx(2 * ours.full.metric)
    assert mine.setup.metric_name == "twice"
    scores = mine.attribute("eap")
    torch.testing.assert_close(scores.values, 2 * ours.attribute("eap").values)
    assert scores.metric == "twice"
    assert mine.circuit(scores, n_edges=9).provenance["metric"] == "twice"


def test_functions_at_hand_are_refused_in_words(study):
    for method, words in (
        (lambda logits: 0, "is called with"),
        (lambda *of: torch.zeros(3), "each of 110 edges, .*gave torch.float32 of shape"),
        (lambda *of: 3, "it gave a int"),
        (lambda *of: torch.full((110,), torch.nan), "it gave NaN or infinite values"),
        (lambda *of: 1 / 0, "<lambda> fails at line .*test_own.py: ZeroDivisionError"),
    ):
        with pytest.raises(ConfigError, match=words):
            study.attribute(method)
    with pytest.raises(MetricError, match="one number per example"):
        study.attribute("eap", metric=lambda logits, batch: logits)


def test_a_metric_without_a_gradient_serves_what_runs_forward_only(study):
    flat = own_metric(lambda logits, batch: logit_diff(logits.detach(), batch), "flat")
    with torch.enable_grad(), pytest.raises(MetricError, match="exact"):
        study.attribute("eap", metric=flat)
    assert study.attribute("exact_nodes", metric=flat).values.abs().max() > 0


def test_names_are_those_of_the_records():
    assert method_of("gate_ig").metric == "kl" and metric_of("logit_diff") is logit_diff
    with pytest.raises(ConfigError, match="no attribution method 'epa'; known: eap"):
        method_of("epa")
    assert own_method(eap, "mine").signed


def test_a_config_that_is_kept_finds_its_files_from_every_folder(home, tmp_path, monkeypatch):
    names = {"task.name": "mine.py:made", "task.metric": "mine.py:twice"}
    names["attribution.method"] = "mine.py:short"
    typed = load_config(None, [f"{key}={name}" for key, name in names.items()])
    (tmp_path / "config.yaml").write_text(to_yaml(typed))
    monkeypatch.chdir(tmp_path)
    kept = flatten(load_config(tmp_path / "config.yaml", base=home))
    assert {key: kept[key] for key in names} == {
        key: f"{home / name}" for key, name in names.items()
    }
