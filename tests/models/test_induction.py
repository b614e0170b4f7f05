"""The hand-built model does what it says, and every discovery method is scored on its truth."""

from functools import cache
from random import Random

import jaxtyping
import pytest
import torch
from torch.testing import assert_close

from circuitprune.attribution import METHODS
from circuitprune.circuits.recovery import auroc, recovery
from circuitprune.circuits.selection import select
from circuitprune.data.pairs import prepare
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.evaluation import evaluate
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check
from circuitprune.errors import ConfigError
from circuitprune.files.whole import read_tensors
from circuitprune.metrics import kl_divergence, logit_diff
from circuitprune.models import load_model
from circuitprune.models.zoo.induction import (
    CARRIES_CONTENT,
    CARRIES_POSITION,
    D_HEAD,
    DISTRACTORS,
    INDUCTION_HEAD,
    LENGTH,
    PREVIOUS_HEAD,
    Induction,
    induction_graph,
    induction_model,
    induction_tokenizer,
    save_induction,
    true_circuit,
)
from circuitprune.patching.acdc import acdc
from circuitprune.pipelines.train import discover
from circuitprune.runs.settings import load_config

ABLATIONS = ("patch", "positional-mean", "zero", "mean")
every_ablation = pytest.mark.parametrize("ablation", ABLATIONS)
every_leak = pytest.mark.parametrize("leak", [0.0, 0.2])


@cache
def data():
    return prepare(
        Induction(),
        induction_tokenizer(),
        n_train=64,
        n_val=0,
        n_test=64,
        seed=0,
        batch_size=32,
        max_length=LENGTH,
    )


@cache
def references(leak: float = 0.2, ablation: str = "patch", sharpness: float = 20.0) -> References:
    gated = GatedModel(induction_model(leak, sharpness, dtype=torch.float64))
    return References(gated, make_ablation(ablation, gated.ports, data().batches("train")))


def task_metric(logits, batch):
    return logit_diff(logits, batch)


@cache
def scores(method: str, metric=task_metric, **kwargs):
    return METHODS[method].score(references(**kwargs), data().batches("train"), metric)


def attention_of(model, tokens):
    model.set_attn_implementation("eager")
    patterns = model(tokens, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return {f"a{i}.h{h}": p[:, h] for i, p in enumerate(patterns) for h in range(p.shape[1])}


# ------------------------------------------------------------------ the model


@pytest.mark.parametrize("seed", range(3))
@every_leak
def test_it_does_induction(leak, seed):
    model = induction_model(leak, seed=seed)
    self_check(GatedModel(model))
    for batch in data().batches("test"):
        logits = model(batch.clean).logits[:, -1]
        assert (logits.argmax(1) == batch.answers[:, 0]).all()
        corrupt = model(batch.corrupt).logits[:, -1]
        assert (corrupt.argmax(1) == batch.wrong[:, 0]).all()


def test_the_two_heads_attend_where_they_should():
    (batch, *_) = data().batches("test")
    patterns = attention_of(induction_model(), batch.clean)
    places = torch.arange(1, LENGTH)
    assert patterns[PREVIOUS_HEAD][:, places, places - 1].min() > 0.99
    rows = torch.arange(len(batch))
    after = (batch.clean == batch.clean[:, -1:]).int().argmax(1) + 1
    assert (batch.clean[rows, after] == batch.answers[:, 0]).all()
    assert patterns[INDUCTION_HEAD][rows, -1, after].min() > 0.99
    for name in DISTRACTORS:
        assert patterns[name][rows, -1, after].mean() < 0.5


@every_leak
def test_distractors_write_as_much_as_the_circuit(leak):
    gated = references(leak).gated
    (batch, *_) = data().batches("test")
    written = gated.record(batch.clean, batch.mask)[..., -1, :].norm(dim=-1).mean(dim=1)
    size = dict(zip(gated.graph.writers, written.tolist(), strict=True))
    for name in DISTRACTORS:
        assert 0.3 < size[name] / size[INDUCTION_HEAD] < 3
    assert size["m0"] < 0.5 and size["m1"] < 0.5


def test_the_norms_divide_by_a_constant():
    gated = references(leak=1.0).gated
    (batch, *_) = data().batches("test")
    stream = gated.record(batch.clean, batch.mask).sum(dim=0)
    for norm in (gated.ports.final_norm, gated.ports.layers[0].attention_norm):
        assert norm.eps > 1000 * stream.var(dim=-1).max()
        centred = stream - stream.mean(dim=-1, keepdim=True)
        assert_close(norm(stream), centred, rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_model_and_global_randomness_has_no_say():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = induction_model(seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    b, other = induction_model(seed=3).state_dict(), induction_model(seed=4).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["lm_head.weight"], other["lm_head.weight"])


def test_pairs_differ_everywhere_and_ask_for_different_letters():
    stream = Induction().pairs(Random(5))
    for pair in [next(stream) for _ in range(300)]:
        clean, corrupt = pair.clean.split(), pair.corrupt.split()
        assert len(clean) == len(corrupt) == LENGTH
        assert all(a != b for a, b in zip(clean, corrupt, strict=True))
        for prompt, answer in ((clean, pair.answers), (corrupt, pair.wrong)):
            body = prompt[:-1]
            assert len(set(body)) == len(body) and body.index(prompt[-1]) >= 1
            assert answer == (f" {body[body.index(prompt[-1]) + 1]}",)
        assert pair.answers != pair.wrong
        assert clean.index(clean[-1]) != corrupt.index(corrupt[-1])


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"leak must lie in \[0, 1\], got 2"):
        induction_model(2.0)
    with pytest.raises(ConfigError, match="not for 'optimal'"):
        true_circuit("optimal")


# ------------------------------------------------------------------ the truth


def test_the_true_circuit_is_what_the_construction_says():
    assert induction_graph() == references().gated.graph
    assert int(true_circuit("patch").sum()) == len(CARRIES_CONTENT) == 5
    assert int(true_circuit("zero").sum()) == len(CARRIES_CONTENT + CARRIES_POSITION) == 7


@every_ablation
def test_without_leak_these_edges_and_only_these_matter(ablation):
    truth = true_circuit(ablation)
    effects = scores("exact", leak=0.0, ablation=ablation)
    assert effects[truth].max() < -8.5 and effects[~truth].abs().max() < 1e-4
    found = evaluate(
        references(0.0, ablation), {"true": truth}, data().batches("test"), logit_diff
    )["true"]
    assert found.kl < 1e-6 and found.accuracy == 1 and found.metric > 9.99


@every_ablation
def test_each_true_edge_is_needed(ablation):
    truth, batches = true_circuit(ablation), data().batches("test")
    without = {}
    for edge in truth.nonzero().flatten().tolist():
        without[str(edge)] = truth.clone()
        without[str(edge)][edge] = False
    for found in evaluate(references(0.0, ablation), without, batches, logit_diff).values():
        assert found.metric < 2 and found.kl > 2


@every_ablation
def test_with_leak_the_gap_is_wide(ablation):
    truth, effects = true_circuit(ablation), scores("exact", ablation=ablation)
    assert effects[truth].max() < -8.5 and effects[~truth].abs().max() < 0.5
    assert (
        evaluate(references(ablation=ablation), {"": truth}, data().batches("test"), logit_diff)[
            ""
        ].accuracy
        == 1
    )


# ------------------------------------------------------------------ what the methods find


@every_ablation
@every_leak
@pytest.mark.parametrize("sharpness", [10.0, 20.0, 40.0])
def test_exact_patching_finds_the_circuit_at_its_size(ablation, leak, sharpness):
    truth = true_circuit(ablation)
    effects = scores("exact", leak=leak, ablation=ablation, sharpness=sharpness)
    assert auroc(effects.abs(), truth) == 1.0
    assert torch.equal(select(induction_graph(), effects.abs(), int(truth.sum())), truth)


@every_ablation
@pytest.mark.parametrize("threshold", [0.1, 1.0])
def test_acdc_finds_exactly_the_circuit(ablation, threshold):
    found = acdc(references(ablation=ablation), data().batches("train"), threshold)
    assert torch.equal(found.mask, true_circuit(ablation))
    found = acdc(references(0.0, ablation), data().batches("train"), threshold / 30)
    assert torch.equal(found.mask, true_circuit(ablation))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the model of each sharpness and its pairs."""
    home = tmp_path_factory.mktemp("induction")
    return cache(lambda sharpness: save_induction(home / str(sharpness), 400, 0.2, sharpness))


def learned_ranking(model, out, *settings):
    """The ranking by default settings and these. Held-out pairs and checkpoints train nothing."""
    config = load_config(
        None,
        [
            f"model.name={model}",
            "task.name=jsonl",
            f"task.path={model / 'pairs.jsonl'}",
            "task.n_val=0",
            "task.n_test=64",
            "verify.sizes=[0.07]",
            "train.progress=false",
            "train.checkpoint_every=1000",
            f"output_dir={out}",
            *settings,
        ],
    )
    discover(config, say=lambda text: None)
    return read_tensors(out / "gates.safetensors")[0]["ranking"]


def is_found(ranking, truth):
    cut = select(induction_graph(), ranking, int(truth.sum()))
    return auroc(ranking, truth) == 1.0 and torch.equal(cut, truth)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["topk", "hard_concrete"])
def test_default_settings_find_the_circuit_at_its_size(saved, tmp_path, learner, monkeypatch):
    """At one sharpness, in fewer steps; `benchmarks/recovery.py` takes all and tries the others."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # twice as fast; others check
    settings = (f"gates.learner={learner}", "train.steps=250")
    assert is_found(learned_ranking(saved(20.0), tmp_path / "run", *settings), true_circuit())


@pytest.mark.parametrize(
    ("learner", "init", "ablation", "steps"),
    [
        ("topk", "none", "patch", 200),
        ("topk", "none", "zero", 200),
        ("hard_concrete", "gate_ig", "mean", 300),
    ],
)
def test_other_settings_find_it_too(saved, tmp_path, learner, init, ablation, steps, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as above
    ranking = learned_ranking(
        saved(20.0),
        tmp_path / "run",
        f"gates.learner={learner}",
        f"attribution.method={init}",
        f"ablation={ablation}",
        f"train.steps={steps}",
        "task.n_train=128",
    )
    assert is_found(ranking, true_circuit(ablation))


@pytest.mark.parametrize("method", ["eap_ig_inputs", "gate_ig", "exact_denoising"])
def test_methods_that_leave_the_clean_run_find_it_too(method):
    assert recovery(scores(method).abs(), true_circuit()) == dict.fromkeys(
        ("auroc", "average_precision", "precision_at_size"), 1.0
    )


def test_eap_misses_what_saturated_attention_hides():
    """At the clean run the softmax is flat: the edges behind it get no gradient to speak of."""
    truth = true_circuit()
    for sharpness, least, most in ((5.0, 0.99, 1.0), (20.0, 0.0, 0.8), (40.0, 0.0, 0.8)):
        found = scores("eap", sharpness=sharpness).abs()
        assert least <= auroc(found, truth) <= most
    hidden = induction_graph().mask_of([CARRIES_CONTENT[1], CARRIES_CONTENT[2]])
    assert found[hidden].max() < 1e-6 and found[truth & ~hidden].min() > 0.1


def test_saved_and_loaded_it_is_the_same_model(saved):
    model, tokenizer = load_model(str(saved(20.0)))
    (batch, *_) = data().batches("test")
    assert torch.equal(model(batch.clean).logits, induction_model()(batch.clean).logits)
    assert tokenizer("a b n")["input_ids"] == induction_tokenizer()("a b n")["input_ids"]


def test_the_metric_kl_agrees():
    def fall(logits, batch):
        return -kl_divergence(references().full_logits(batch), logits)

    assert auroc(scores("exact", fall).abs(), true_circuit()) == 1.0
    assert references().gated.graph.d_model == D_HEAD * 4
