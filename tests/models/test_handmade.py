"""The two-hop and the duplicate model do what they say; their mimics do not hide the circuit.

`test_induction.py` has the third hand-built model, and what the three share.
"""

from collections import Counter
from functools import cache
from random import Random

import jaxtyping
import pytest
import torch
from torch.testing import assert_close

from circuitprune.attribution import METHODS
from circuitprune.circuits.recovery import auroc
from circuitprune.circuits.selection import select
from circuitprune.data.pairs import prepare
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.evaluation import evaluate
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check
from circuitprune.errors import ConfigError
from circuitprune.files.whole import read_tensors
from circuitprune.metrics import logit_diff
from circuitprune.models.zoo import duplicate, two_hop
from circuitprune.models.zoo.duplicate import DUPLICATE
from circuitprune.models.zoo.handmade import ABLATIONS
from circuitprune.models.zoo.two_hop import TWO_HOP
from circuitprune.patching.acdc import acdc
from circuitprune.pipelines.train import discover
from circuitprune.runs.settings import load_config

MIMICS = {
    "two_hop": two_hop.MIMICS | {two_hop.EVEN_HEAD: two_hop.SECOND_HEAD},
    "duplicate": duplicate.MIMICS | {duplicate.EVEN_HEAD: duplicate.NAMING_HEAD},
}


@pytest.fixture(autouse=True)
def shapes_are_checked_elsewhere(monkeypatch):
    """Twice as fast; `test_induction.py` runs the same code with its shapes checked."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


every_model = pytest.mark.parametrize("built", [TWO_HOP, DUPLICATE], ids=["two_hop", "duplicate"])
every_ablation = pytest.mark.parametrize("ablation", ABLATIONS)
every_leak = pytest.mark.parametrize("leak", [0.0, 0.2])


@cache
def data(name):
    built = {"two_hop": TWO_HOP, "duplicate": DUPLICATE}[name]
    sizes = dict(n_train=64, n_val=0, n_test=64, seed=0, batch_size=32, max_length=built.length)
    return prepare(built.task, built.tokenizer(), **sizes)


@cache
def gated(name, leak, sharpness, seed=0):
    built = {"two_hop": TWO_HOP, "duplicate": DUPLICATE}[name]
    return GatedModel(built.model(leak, sharpness, seed, dtype=torch.float64))


@cache
def references(name, leak=0.2, ablation="patch", sharpness=20.0):
    model = gated(name, leak, sharpness)
    batches = data(name).batches("train")
    return References(model, make_ablation(ablation, model.ports, batches))


def task_metric(logits, batch):
    return logit_diff(logits, batch)


@cache
def scores(method, name, steps=None, **kwargs):
    found, chosen = references(name, **kwargs), METHODS[method]
    steps = chosen.steps if steps is None else steps
    return chosen.score(found, data(name).batches("train"), task_metric, steps or 1)


# ------------------------------------------------------------------ the models


@every_model
@every_leak
@pytest.mark.parametrize("seed", range(3))
def test_it_answers_every_prompt(built, leak, seed):
    model = gated(built.task.name, leak, 20.0, seed)
    self_check(model)
    for batch in data(built.task.name).batches("test"):
        logits = model.model(batch.clean).logits[:, -1]
        assert (logits.argmax(1) == batch.answers[:, 0]).all()
        corrupt = model.model(batch.corrupt).logits[:, -1]
        assert (corrupt.argmax(1) == batch.wrong[:, 0]).all()


def looked_up(words, letter):
    links = dict(zip(words[1:9:2], words[2:9:2], strict=True))
    return links[letter]


def test_two_hop_pairs_ask_for_two_look_ups_and_agree_nowhere():
    stream = two_hop.TwoHop().pairs(Random(5))
    for pair in [next(stream) for _ in range(300)]:
        clean, corrupt = pair.clean.split(), pair.corrupt.split()
        assert len(clean) == len(corrupt) == two_hop.LENGTH
        assert all(a != b for a, b in zip(clean[1:], corrupt[1:], strict=True))
        through = [looked_up(words, words[-1]) for words in (clean, corrupt)]
        assert through[0] != through[1] and pair.answers != pair.wrong
        assert pair.answers == (f" {looked_up(clean, through[0])}",)
        assert pair.wrong == (f" {looked_up(corrupt, through[1])}",)


def test_duplicate_pairs_say_one_letter_twice_and_agree_nowhere():
    stream = duplicate.Duplicate().pairs(Random(5))
    for pair in [next(stream) for _ in range(300)]:
        clean, corrupt = pair.clean.split(), pair.corrupt.split()
        assert len(clean) == len(corrupt) == duplicate.LENGTH
        assert all(a != b for a, b in zip(clean[1:-1], corrupt[1:-1], strict=True))
        for words, answer in ((clean, pair.answers), (corrupt, pair.wrong)):
            counted = Counter(words[1:-1])
            assert sorted(counted.values()) == [1] * 6 + [2]
            assert answer == (f" {counted.most_common(1)[0][0]}",)
        second = max(i for i, word in enumerate(corrupt) if f" {word}" in pair.wrong)
        assert f" {clean[second]}" not in pair.answers


def patterns(built, batch):
    model = gated(built.task.name, 0.2, 20.0).model
    model.set_attn_implementation("eager")
    found = model(batch.clean, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return {f"a{i}.h{h}": p[:, h] for i, p in enumerate(found) for h in range(p.shape[1])}


@every_model
def test_a_mimic_attends_as_its_head_does(built):
    """At the positions where that head is needed, to what is looked for, and nowhere else."""
    (batch, *_) = data(built.task.name).batches("test")
    seen = patterns(built, batch)
    for mimic, like in MIMICS[built.task.name].items():
        assert_close(seen[mimic], seen[like], rtol=0, atol=1e-5)
        assert seen[like][:, -1].max(dim=-1).values.min() > 0.99
        assert mimic in built.decoys and like not in built.decoys


@every_model
def test_decoys_write_as_much_as_the_circuit(built):
    model = gated(built.task.name, 0.2, 20.0)
    (batch, *_) = data(built.task.name).batches("test")
    written = model.record(batch.clean, batch.mask)[..., -1, :].norm(dim=-1).mean(dim=1)
    size = dict(zip(model.graph.writers, written.tolist(), strict=True))
    (answers,) = [e.partition("->")[0] for e in built.content if e.endswith("->logits")]
    for name in built.decoys:
        at_end = MIMICS[built.task.name].get(name) not in ("a0.h2", "a0.h1")
        assert not at_end or 0.3 < size[name] / size[answers] < 3


@every_model
def test_an_even_head_moves_logits_and_no_probability(built):
    """Cut under zero, letters fall alike: by up to an answer's whole logit."""
    even = {"two_hop": two_hop.EVEN_HEAD, "duplicate": duplicate.EVEN_HEAD}[built.task.name]
    found = references(built.task.name, 0.0, "zero")
    edge = built.graph.mask_of([f"{even}->logits"])
    (batch, *_) = data(built.task.name).batches("test")
    with torch.no_grad():
        before = found.full_logits(batch)[:, -12:]
        after = found.run(batch)((~edge).double())[:, -12:]
    fall = before - after
    assert fall.max() > 9 and fall.std(dim=1).max() < 0.05
    assert_close(before.log_softmax(1), after.log_softmax(1), rtol=0, atol=0.05)


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"leak must lie in \[0, 1\], got -1"):
        TWO_HOP.model(-1.0)
    with pytest.raises(ConfigError, match="not for 'optimal'"):
        DUPLICATE.true_circuit("optimal")


# ------------------------------------------------------------------ the truth


@every_model
@every_ablation
def test_without_leak_these_edges_and_only_these_matter(built, ablation):
    name, truth = built.task.name, built.true_circuit(ablation)
    effects = scores("exact", name, leak=0.0, ablation=ablation)
    assert effects[truth].max() < -6 and effects[~truth].abs().max() < 1e-4
    without = {str(edge): truth.clone() for edge in truth.nonzero().flatten().tolist()}
    for edge, mask in without.items():
        mask[int(edge)] = False
    found = evaluate(
        references(name, 0.0, ablation),
        {"true": truth} | without,
        data(name).batches("test"),
        logit_diff,
    )
    alone = found.pop("true")
    assert alone.kl < 1e-3 and alone.accuracy == 1 and alone.metric > 9.99
    # Least is lost where a head then attends everywhere alike: it still sees the answer by chance.
    assert all(one.metric < 3.5 and one.kl > 1.2 for one in found.values())


@every_model
@every_ablation
@pytest.mark.parametrize("sharpness", [10.0, 20.0, 40.0])
def test_with_leak_exact_patching_finds_the_circuit_at_its_size(built, ablation, sharpness):
    name, truth = built.task.name, built.true_circuit(ablation)
    effects = scores("exact", name, ablation=ablation, sharpness=sharpness)
    assert effects[truth].max() < -4 and effects[~truth].abs().max() < 0.3
    assert auroc(effects.abs(), truth) == 1.0
    assert torch.equal(select(built.graph, effects.abs(), int(truth.sum())), truth)


def test_the_graphs_and_the_counts_of_true_edges():
    for built, n_edges in ((TWO_HOP, 262), (DUPLICATE, 110)):
        assert built.graph == gated(built.task.name, 0.2, 20.0).graph
        assert built.graph.n_edges == n_edges
        assert int(built.true_circuit("patch").sum()) == len(built.content) == 8
        assert int(built.true_circuit("mean").sum()) == 8 + len(built.constant)


# ------------------------------------------------------------------ what the methods find


@every_model
@every_ablation
def test_acdc_finds_exactly_the_circuit(built, ablation):
    """Between what decoys do and the 1.2 nats or so that the least of the true edges costs."""
    name = built.task.name
    found = acdc(references(name, 0.2, ablation), data(name).batches("train"), 0.3)
    assert torch.equal(found.mask, built.true_circuit(ablation))


@pytest.mark.parametrize("built", [TWO_HOP, DUPLICATE], ids=["two_hop", "duplicate"])
def test_top_k_finds_the_circuit_at_its_size(built, tmp_path):
    """By default settings, but for fewer steps.

    `benchmarks/recovery.py --seeds` counts over seeds what the default settings find.
    """
    model = built.save(tmp_path / "model", 400)
    options = [f"model.name={model}", "task.name=jsonl", f"task.path={model / 'pairs.jsonl'}"]
    options += ["task.n_val=0", "task.n_test=64", "train.steps=150", "train.checkpoint_every=1000"]
    options += ["verify.sizes=[0.07]", "train.progress=false", f"output_dir={tmp_path / 'run'}"]
    discover(load_config(None, options), say=lambda text: None)
    ranking = read_tensors(tmp_path / "run" / "gates.safetensors")[0]["ranking"]
    truth = built.true_circuit()
    assert torch.equal(select(built.graph, ranking, int(truth.sum())), truth)
    assert auroc(ranking, truth) == 1.0


def test_what_points_of_integration_pass_over_is_not_found():
    """The step of `m0` is narrow: five points on the way miss it, one for each example does not."""
    truth = DUPLICATE.true_circuit()
    behind = [edge for edge in DUPLICATE.content if "a0.h1" in edge or edge.endswith("m0")]
    hidden = DUPLICATE.graph.mask_of(behind)
    for method in ("eap", "eap_qk", "eap_ig_inputs", "gate_ig"):
        found = scores(method, "duplicate", steps=5).abs()
        assert auroc(found, truth) < 0.9
        assert not (select(DUPLICATE.graph, found, int(truth.sum())) & hidden).any()
    assert auroc(scores("mc_ig", "duplicate").abs(), truth) == 1.0
