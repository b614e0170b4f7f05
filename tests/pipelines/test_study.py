"""The notebook's lines: each does what its slow spelling does, from whatever it is given."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from attribution.test_attribution import by_logit_diff

from circuitprune import Circuit, Study, load_config, load_model
from circuitprune.attribution import eap
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import select, select_sizes
from circuitprune.data.tasks import get_task
from circuitprune.engine.evaluation import evaluate
from circuitprune.errors import ConfigError, DataError, GraphError, ModelError
from circuitprune.evidence import Case
from circuitprune.evidence.faithfulness import faithfulness_curve
from circuitprune.evidence.minimality import minimality
from circuitprune.patching.acdc import acdc
from circuitprune.patching.effects import edge_effects, node_effects
from circuitprune.patching.paths import path_effects
from circuitprune.pipelines.setup import training_batches
from circuitprune.pipelines.tracking import TrackingConfig, entity_tracking

PAIRS = dict(n_train=12, n_test=8)


@pytest.fixture(scope="module")
def study():
    return Study("zoo/small", "ioi", **PAIRS)


@pytest.fixture(scope="module")
def scores(study):
    return study.attribute("eap")


# ---------------------------------------------------------------- the lines


def test_attribute_gives_the_scores_of_the_method_itself(study, scores):
    references, batches = study.references, training_batches(study.setup)
    slow = eap(references, batches, by_logit_diff).cpu()
    assert torch.equal(scores.values, slow)
    assert (scores.method, scores.metric, scores.signed) == ("eap", "logit_diff", True)
    minus_kl = study.attribute("gate_ig", steps=2)
    assert minus_kl.metric == "kl" and not torch.equal(minus_kl.values, scores.values)


def test_a_circuit_is_cut_by_magnitude_to_a_number_or_a_share_of_edges(study, scores):
    circuit = study.circuit(scores, n_edges=30)
    assert isinstance(circuit, Circuit) and circuit.n_edges <= 30
    assert torch.equal(circuit.mask, select(study.graph, scores.values.abs(), 30))
    assert torch.equal(circuit.scores, scores.values) and circuit.method == "eap"
    by_size = study.circuit(scores, size=30.5 / study.graph.n_edges)
    assert torch.equal(by_size.mask, circuit.mask)
    for size in ({}, {"n_edges": 3, "size": 0.1}):
        with pytest.raises(ConfigError, match="n_edges=50, or size"):
            study.circuit(scores, **size)


def test_evaluate_takes_a_circuit_a_mask_and_names(study, scores):
    circuit = study.circuit(scores, n_edges=30)
    setup = study.setup
    batches = setup.data.batches("test", setup.config.verify.batch_size)
    slow = evaluate(setup.references, {"c": circuit.mask}, batches, setup.task_metric)["c"]
    for form in (circuit, circuit.mask, circuit.edges):
        assert study.evaluate(form).kl == slow.kl
    everything = study.evaluate(torch.ones(study.graph.n_edges, dtype=torch.bool))
    assert everything.kl == pytest.approx(0, abs=1e-5)
    assert everything.faithfulness == pytest.approx(1, abs=1e-5)
    assert study.evaluate([]).faithfulness == pytest.approx(0, abs=1e-6)
    assert study.evaluate(circuit).n == PAIRS["n_test"]


def test_an_effect_is_that_of_exact_patching(study):
    setup, graph = study.setup, study.graph
    metric, batches = by_logit_diff, training_batches(setup)
    edge = torch.tensor([graph.edge_index("m0->logits")])
    found = study.effect("m0->logits")
    exact = edge_effects(setup.references, batches, metric, edge).item()
    assert found == pytest.approx(exact, rel=1e-5)
    node = node_effects(setup.references, batches, metric, torch.tensor([graph.writer_index("m0")]))
    path = "a0.h1->m1->logits"
    slow = path_effects(setup.references, batches, metric, [path])
    several = study.effect(["m0", path])
    assert several == {"m0": node.item(), path: slow.item()}
    with pytest.raises(GraphError, match="m9"):
        study.effect("m9->logits")


def test_learning_lowers_the_kl_and_gives_circuits_of_any_size(study):
    learned = study.learn(steps=20, progress=False)
    point = learned.frontier.chosen(0.1)
    chosen = learned.circuit(max_kl=0.1)
    assert torch.equal(chosen.mask, point.mask) and chosen.provenance["size"] == point.size
    assert study.circuit(learned, n_edges=25).n_edges <= 25
    again = study.learn(steps=20, progress=False, start=study.attribute("gate_ig"))
    assert torch.equal(again.ranking, learned.ranking)
    assert not torch.equal(
        study.learn(steps=3, progress=False, start=None).ranking, learned.ranking
    )


def test_acdc_leaves_the_live_edges_of_its_search(study):
    found = study.acdc(0.02, worsening="task")
    batches, metric = training_batches(study.setup), study.setup.task_metric
    searched = acdc(study.references, batches, 0.02, metric)
    assert torch.equal(found.mask, live_edges(study.graph, searched.mask))
    assert 0 < found.n_edges < study.graph.n_edges
    assert found.n_edges != study.acdc(0.02).n_edges  # in nats


def test_evidence_is_what_each_kind_finds_in_the_case_of_a_circuit(study, scores):
    circuit = study.circuit(scores, n_edges=30)
    kinds, budget = ("minimality", "faithfulness"), dict(n_bootstrap=20, n_removed=5, seed=3)
    found = study.evidence(circuit, *kinds, **budget, progress=False)
    case = Case(
        references=study.references,
        batches=study.setup.data.batches("test", study.setup.config.verify.batch_size),
        train_batches=study.setup.data.batches("train", study.setup.config.verify.batch_size),
        task_metric=study.setup.task_metric,
        mask=circuit.mask,
        ranking=scores.ranking,
        sizes=select_sizes(study.graph, scores.ranking, study.setup.config.verify.sizes),
        scores=scores.values,
        **budget,
    )
    assert [name for name, _ in found.items()] == ["faithfulness", "minimality"]
    assert found.minimality == minimality(case)
    assert found.faithfulness == faithfulness_curve(case)
    named = study.evidence(circuit.edges, "minimality", **budget, progress=False)
    assert named.minimality == found.minimality
    none = study.evidence([], "faithfulness", n_bootstrap=9, progress=False).faithfulness
    assert {size.n_edges for size in none.sizes} == {0}  # nothing from outside the circuit


def test_entity_tracking_is_asked_of_a_study(study):
    small = dict(n_paths=4, n_measured=6, n_masks=4, least=0.001, most=1, n_random=1)
    config = TrackingConfig(**small, seed=0, progress=True)
    loaded = study.gated.model, study.setup.tokenizer
    assert study.entity_tracking(**small) == entity_tracking(loaded, None, config)
    assert study.entity_tracking(study, **small).base is not None


def test_a_circuit_draws_itself(study, scores):
    assert "<svg" in study.circuit(scores, n_edges=20)._repr_html_()


# ---------------------------------------------------------------- what it is made from


def test_a_config_builds_the_same_study(study, scores):
    config = load_config(None, ["model.name=zoo/small", "task.n_train=12", "task.n_test=8"])
    config = replace(
        config,
        task=replace(config.task, n_val=0),
        attribution=replace(config.attribution, method="eap"),
    )
    built = Study.from_config(config)
    assert built.setup.identity.pairs == study.setup.identity.pairs
    assert built.setup.identity.model == study.setup.identity.model
    assert torch.equal(built.attribute("eap").values, scores.values)


def test_a_loaded_model_is_used_as_it_is(scores):
    model, tokenizer = load_model("zoo/small")
    study = Study(model, "ioi", tokenizer=tokenizer, **PAIRS)
    assert study.gated.model is model
    assert torch.equal(study.attribute("eap").values, scores.values)
    with pytest.raises(ModelError, match="tokenizer=tokenizer"):
        Study(model, "ioi")


def test_a_loaded_model_has_its_own_type_in_the_config():
    model, tokenizer = load_model("zoo/small", "bfloat16")
    study = Study(model, "ioi", tokenizer=tokenizer, **PAIRS)
    assert study.setup.config.model.dtype == "bfloat16"
    with pytest.raises(ModelError, match="is in bfloat16, and is used as it is; expected float32"):
        Study(model, "ioi", tokenizer=tokenizer, dtype="float32", **PAIRS)
    with pytest.raises(ModelError, match=r"is in float16.* expected float32, float64, bfloat16"):
        Study(model.half(), "ioi", tokenizer=tokenizer, **PAIRS)


def test_a_model_that_cannot_do_the_task_is_given_back():
    model, tokenizer = load_model("zoo/small")
    model.train().transformer.ln_f.weight.data.neg_()
    with pytest.raises(DataError, match="cannot do this task"):
        Study(model, "ioi", tokenizer=tokenizer, **PAIRS)
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_a_compiled_model_is_taken_for_the_model(scores):
    model, tokenizer = load_model("zoo/small")
    compiled = torch.compile(model, backend="eager")
    study = Study(compiled, "ioi", tokenizer=tokenizer, **PAIRS)
    assert study.gated.model is model and torch.equal(study.attribute("eap").values, scores.values)


def test_pairs_come_from_a_list_a_file_or_a_task(study, tmp_path):
    drawn = [
        example.pair for split in ("train", "test") for example in study.setup.data.splits[split]
    ]
    listed = Study("zoo/small", drawn)
    assert len(listed.setup.data.splits["train"]) == len(drawn) // 2
    path = tmp_path / "mine.jsonl"
    keys = ("id", "clean", "corrupt", "answers", "wrong")
    path.write_text("".join(json.dumps({k: getattr(p, k) for k in keys}) + "\n" for p in drawn))
    for source in (path, str(path)):
        read = Study("zoo/small", source)
        assert read.setup.identity.pairs == listed.setup.identity.pairs
    own = Study("zoo/small", get_task("ioi"), **PAIRS)
    assert own.setup.config.task.name == "ioi"
    assert own.setup.identity.pairs == study.setup.identity.pairs


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("zoo/small", "iio"), DataError, "Did you mean 'ioi'"),
        (("zoo/smal", "ioi"), ModelError, "zoo/smal"),
        (("zoo/small", []), DataError, "got none"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(arguments, error, words):
    with pytest.raises(error, match=words):
        Study(*arguments)


WRONG = """
import circuitprune as cp
from circuitprune.errors import CircuitPruneError
def said(call):
    try:
        print("nothing:", call())
    except Exception as error:
        assert isinstance(error, CircuitPruneError), repr(error)
        print(f"{type(error).__name__}: {error}")
study = cp.Study("zoo/small", "ioi", n_train=4, n_test=4)
scores = study.attribute("eap")
"""
PARTS = "cp.Study('zoo/small', 'ioi', level='node', n_train=4, n_test=4).part_edges"
CALLS = {  # past beartype, which tests alone have: in a process of their own
    "cp.Study(5, 'ioi')": "ModelError: a model is a name such as zoo/small, a folder, .* got 5",
    "cp.Study('zoo/small', 5)": "DataError: a task is a name, a file, a list of Pair .* got 5",
    "cp.Study('zoo/small', [5])": "DataError: expected a list of .*Pair, got 5",
    "cp.Study('zoo/smal')": "ModelError: .*Did you mean 'zoo/small'",
    "cp.Study('zoo/small', 'mine.csv')": "DataError: no file of pairs 'mine.csv'",
    "cp.Study('zoo/small', 'iio')": "DataError: .*Did you mean 'ioi'",
    "cp.Study('zoo/small', metric=5)": "ConfigError: task.metric=5 is not text",
    "study.attribute('epa')": "ConfigError: .*'epa' is unknown; did you mean 'eap'",
    "study.attribute(5)": "ConfigError: attribution.method=5 is not text",
    "study.effect('m0->x')": "GraphError: no reader 'x' in .*; readers look like 'a0.h0<q>'",
    "study.effect('x')": "GraphError: no writer 'x' in .*; writers look like 'input'",
    "study.effect(5)": "GraphError: an effect is of a node .* got 5",
    "study.effect(['m0', 5])": "GraphError: an effect is of a node .* got 5",
    "study.circuit(scores, n_edges=10**9)": "ConfigError: n_edges must be a whole .* 1 to 1,519",
    "study.circuit(scores, n_edges=0)": "ConfigError: n_edges must be a whole .*, got 0",
    "study.circuit(scores, n_edges=True)": "ConfigError: n_edges must be .* got True",
    "study.circuit(scores, n_edges=2.5)": "ConfigError: n_edges must be a whole .* got 2.5",
    "study.circuit(scores, size='0.1')": "ConfigError: size is a fraction .* got '0.1'",
    "study.circuit(scores, size=1.5)": r"ConfigError: size is a fraction .* in \(0, 1\], got 1.5",
    "study.circuit(scores, size=0.0)": "ConfigError: size is a fraction",
    "study.circuit(5, n_edges=3)": "ConfigError: scores are what attribute or learn give, got 5",
    "scores.top(-3)": "ConfigError: n must be a whole number in 0 to 1,000,000,000, got -3",
    "scores.top('3')": "ConfigError: n must be a whole number .* got '3'",
    "[len(scores.top(n)) for n in (0, 10**9)]": r"nothing: \[0, 1519\]",
    "study.effect(b'm0->logits')": "GraphError: an effect is of a node .* got b'm0->logits'",
    "study.learn(steps='5')": "ConfigError: train.steps='5' is not a whole number",
    "study.learn(objective='kll')": "ConfigError: .*'kll'",
    "study.acdc(0)": "ConfigError: an ACDC threshold must be above 0, and finite, got 0",
    "study.acdc('0.1')": "ConfigError: an ACDC threshold must be above 0, .* got '0.1'",
    "study.acdc(float('inf'))": "ConfigError: an ACDC threshold must be .* finite, got inf",
    "study.acdc(0.1, worsening='kll')": "ConfigError: worsening must be kl or task, got 'kll'",
    "study.evidence([], 'faithful')": "ConfigError: .*'faithful'; did you mean 'faithfulness'",
    "study.evidence([], sections=['mib'])": "ConfigError: kinds of evidence are named behind",
    "study.evidence([], n_rnadom=3)": "ConfigError: .*'n_rnadom'; did you mean 'n_random'",
    "study.learn(temprature=1.0)": "ConfigError: .*'temprature'; did you mean 'temperature'",
    "study.sentiment(n_trian=4)": "ConfigError: .*'n_trian'; did you mean 'n_train'",
    "study.sentiment()": "DataError: .*",
    "study.entity_tracking(n_boxes=2)": "ConfigError: .*n_boxes must be at least 3, got 2",
    "study.entity_tracking('zoo/small')": "ConfigError: base is a Study .* got 'zoo/small'",
    "study.evaluate([1, 2])": "GraphError: a circuit is .* names of edges, got 1 in a list",
    "study.evaluate(scores.values)": "GraphError: a mask has 1,519 of torch.bool, .*float32",
    "study.evidence(scores.values[:5] > 0)": r"GraphError: a mask has 1,519 .* shape \(5,\)",
    f"{PARTS}(5)": "GraphError: parts to look into are names, such as 'm3', got 5",
    f"{PARTS}([1.5])": r"GraphError: no part at position 1.5 of .* \(level node\)",
    f"{PARTS}(['m0'], steps=1.5)": "ConfigError: part_edges takes 1 step or more, .* steps=1.5",
    f"{PARTS}('m0', steps=1).readers": r"nothing: \('m0', 'logits'\)",
    "study.evaluate(5)": "GraphError: a circuit is a Circuit, a mask or names of edges, got 5",
    "cp.References(study.gated, 'pach')": "ConfigError: ablation must be one of patch",
    "cp.References(study.gated, 'mean')": r"DataError: .*make_ablation\(kind, gated.ports, batches",
    "cp.References(study.gated, 5)": "ConfigError: an ablation is .* got 5",
}


def test_every_wrong_call_is_one_helpful_sentence():
    script = WRONG + "".join(f"said(lambda: {call})\n" for call in CALLS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert len(said) == len(CALLS), done.stderr
    for line, words in zip(said, CALLS.values(), strict=True):
        assert re.match(words, line), line


def test_what_is_to_be_learned_is_checked_before_anything_is_attributed(study, monkeypatch):
    monkeypatch.setattr(Study, "attribute", lambda *_: pytest.fail("too late"))
    for wrong in ({"steps": -1}, {"temperature": -1.0}, {"k_min": 0.0}, {"temprature": 1.0}):
        with pytest.raises(ConfigError):
            study.learn(**wrong)


def test_an_edge_by_its_name_is_a_circuit(study):
    assert study.evaluate("m0->logits") == study.evaluate(["m0->logits"])


def test_pairs_that_do_not_fit_leave_the_rest_to_be_shared_out(study, tmp_path):
    drawn = [example.pair for example in study.setup.data.splits["train"]]
    misfit = replace(drawn[0], id="long", corrupt=f"Now {drawn[0].corrupt}")
    listed = Study("zoo/small", [*drawn, misfit])
    assert listed.setup.data.report.kept == {"train": 6, "val": 0, "test": 6}
    some = Study("zoo/small", drawn, n_train=0.5, n_test=0.25)
    assert some.setup.data.report.kept == {"train": 6, "val": 0, "test": 3}
    alone = Study("zoo/small", drawn[:1])  # looked at, not parted
    assert alone.setup.data.report.kept == {"train": 1, "val": 0, "test": 0}


def test_pairs_come_from_a_table_too(study, tmp_path):
    drawn = [example.pair for example in study.setup.data.splits["train"]]
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "clean", "corrupt", "answers", "wrong"])
        writer.writerows([p.id, p.clean, p.corrupt, p.answers[0], p.wrong[0]] for p in drawn)
    read = Study("zoo/small", str(path))
    assert read.setup.identity.pairs == Study("zoo/small", drawn).setup.identity.pairs
    assert read.setup.config.task.path == str(path)


def test_an_unknown_method_is_refused_with_the_known(study):
    with pytest.raises(ConfigError, match=r"'epa'.*eap"):
        study.attribute("epa")


def test_a_circuit_of_another_model_is_refused(study, tmp_path):
    other = Circuit.from_names(replace(study.graph, n_layers=2), ["input->logits"])
    with pytest.raises(GraphError, match="study of its own model"):
        study.evaluate(other)


def test_hashes_are_made_once(study, monkeypatch):
    first = study.setup.identity.model
    monkeypatch.setattr("circuitprune.runs.identity.fingerprint", None)
    assert study.setup.identity.model == first
    assert study.setup.identity.versions["model_fingerprint"] == first
