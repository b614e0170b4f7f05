"""Fine-tuning: the loss by hand, what learns, going on after a stop, and what is refused."""

import copy
import json
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_model, save_pairs, tiny_lm, tokenizer
from transformers import AutoModelForCausalLM

from circuitprune.cli import main
from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import JsonlTask
from circuitprune.errors import ConfigError, RunError
from circuitprune.models import load_model
from circuitprune.models.ports import Ports
from circuitprune.pipelines.pairs import make_pairs
from circuitprune.pipelines.tune import MODEL, ability, finetune
from circuitprune.pipelines.tune_config import TuneConfig, load_tune_config
from circuitprune.pipelines.tune_pairs import arrange
from circuitprune.runs.settings import flatten, to_yaml
from circuitprune.training.checkpoints import LAST
from circuitprune.training.tuning import Tuning, answer_logits, tuned_weights

FAMILIES = ("gpt2", "llama")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


def settings(home, *more, name="run"):
    return load_tune_config(
        None,
        [
            f"model.name={home / 'model'}",
            "task.name=jsonl",
            f"task.path={home / 'pairs.jsonl'}",
            "task.n_train=48",
            "task.n_val=16",
            "task.n_test=20",
            "train.steps=12",
            "train.batch_size=8",
            "train.val_every=5",
            "train.checkpoint_every=4",
            "train.lr=0.02",
            "train.device=cpu",
            "train.progress=false",
            f"output_dir={home / name}",
            *more,
        ],
    )


def quiet(_):
    """Say nothing."""


@pytest.fixture(scope="module")
def tuned(home):
    return finetune(settings(home), say=quiet)


# ------------------------------------------------------------------ what is learned


@pytest.fixture(params=FAMILIES)
def model(request):
    return copy.deepcopy(tiny_lm(request.param))


def batches(size=8):
    """40 of the pairs."""
    with TemporaryDirectory() as folder:
        task = JsonlTask(save_pairs(Path(folder) / "pairs.jsonl"))
    data = prepare(task, tokenizer(), n_train=40, n_val=0, n_test=0, seed=0, batch_size=size)
    return data.batches("train")


def test_the_loss_is_that_of_the_right_answers(model):
    (batch, *_), module = batches(), Tuning(model)
    module.log = lambda *_, **__: None
    rows = torch.arange(8)
    whole = model(batch.clean, attention_mask=batch.mask.long()).logits[rows, batch.last]
    torch.testing.assert_close(answer_logits(module.ports, batch), whole, rtol=1e-5, atol=1e-5)
    by_hand = -torch.stack([whole[i].log_softmax(-1)[batch.answers[i, 0]] for i in range(8)]).mean()
    loss = module.training_step(batch, 0)
    torch.testing.assert_close(loss, by_hand, rtol=1e-5, atol=1e-5)
    loss.backward()
    direct = copy.deepcopy(model).requires_grad_(True)
    again = direct(batch.clean, attention_mask=batch.mask.long()).logits[rows, batch.last]
    (-again.log_softmax(-1)[rows, batch.answers[:, 0]].mean()).backward()
    for one, two in zip(model.parameters(), direct.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_only_the_last_layers_learn_where_that_is_asked(model):
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    norm = model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm
    wanted = {id(p) for part in (blocks[1], norm) for p in part.parameters()}
    assert {id(p) for p in tuned_weights(model, 1).values()} == wanted
    module = Tuning(model, last_layers=1)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {*module.learning} == {*tuned_weights(model, 1)}
    assert tuned_weights(model, None).keys() == dict(model.named_parameters()).keys()
    with pytest.raises(ConfigError, match="last_layers=3, but the model has 2 layers"):
        tuned_weights(model, 3)


def test_decay_spares_vectors_and_the_rate_rises_and_falls(model):
    module = Tuning(model, steps=10, lr=0.5, lr_warmup=2, lr_end=0.0, weight_decay=0.3)
    found = module.configure_optimizers()
    groups = found["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    schedule = found["lr_scheduler"]["scheduler"]
    rates = [schedule.lr_lambdas[0](step) for step in (0, 2, 6, 10, 11)]
    assert rates == [1 / 3, 1.0, 0.5, 0.0, 0.0]


# ------------------------------------------------------------------ the run


def test_a_run_leaves_a_model_that_does_the_task_better(home, tuned):
    folder = home / "run"
    before, after = tuned.before["held out"], tuned.after["held out"]
    assert after.right > before.right + 0.2 and after.n == before.n == 20
    assert sorted(path.name for path in (folder / MODEL).iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((folder / "tuning.json").read_text())["after"]["held out"]["n"] == 20
    assert f"{after.right:.1%}" in (folder / MODEL / "README.md").read_text()
    again = finetune(settings(home, "train.resume=auto"), say=quiet)
    assert again is None
    with pytest.raises(RunError, match="holds a finished run"):
        finetune(settings(home), say=quiet)


def test_abilities_are_counted_by_hand(home, tuned):
    model = AutoModelForCausalLM.from_pretrained(home / "run" / MODEL).requires_grad_(False)
    ports, right, top, total = Ports(model), 0, 0, 0.0
    found = batches(16)
    for batch in found:
        logits = model(batch.clean, attention_mask=batch.mask.long()).logits
        for row in range(len(batch)):
            one = logits[row, batch.last[row]]
            answer, wrong = int(batch.answers[row, 0]), int(batch.wrong[row, 0])
            right += bool(one[answer] > one[wrong])
            top += int(one.argmax()) == answer
            total += float(one.softmax(-1)[answer])
    measured = ability(ports, found)
    assert (measured.right, measured.top1) == (right / 40, top / 40)
    assert measured.probability == pytest.approx(total / 40, rel=1e-5)


def test_a_stopped_run_goes_on_to_the_same_bytes(home, tuned, monkeypatch):
    steps = []

    def asked():
        steps.append(1)
        return len(steps) > 7

    monkeypatch.setattr("circuitprune.pipelines.learning.asked_of_any", asked)
    with pytest.raises((KeyboardInterrupt, SystemExit)):  # Lightning turns one into the other
        finetune(settings(home, name="stopped"), say=quiet)
    monkeypatch.undo()
    last = home / "stopped" / "checkpoints" / LAST
    kept = torch.load(last, weights_only=True)
    assert 0 < kept["global_step"] < 12 and not (home / "stopped" / MODEL).exists()
    with pytest.raises(RunError, match=r"another run: train.lr '?0.02'?, here '?0.01'?"):
        finetune(settings(home, "train.resume=auto", "train.lr=0.01", name="stopped"), say=quiet)
    found = finetune(settings(home, "train.resume=auto", name="stopped"), say=quiet)
    assert found == tuned
    whole = (home / "run" / MODEL / "model.safetensors").read_bytes()
    assert (home / "stopped" / MODEL / "model.safetensors").read_bytes() == whole


def test_abilities_before_are_of_this_model_and_this_task(home, tuned, monkeypatch):
    """A run that was killed before its first checkpoint leaves those of what it was told."""
    with monkeypatch.context() as patch:
        patch.setattr("circuitprune.pipelines.tune._learn", None)
        with pytest.raises(TypeError):
            finetune(settings(home, "task.n_test=10", name="begun"), say=quiet)
    assert finetune(settings(home, "train.resume=auto", name="begun"), say=quiet) == tuned
    (home / "begun" / "COMPLETE").unlink()
    (home / "begun" / "before.json").write_text("[1]")
    assert finetune(settings(home, "train.resume=auto", name="begun"), say=quiet) == tuned


def test_what_does_not_learn_keeps_its_bytes(home):
    finetune(settings(home, "last_layers=1", "train.steps=3", name="last"), say=quiet)
    old, new = (load_file(home / of / "model.safetensors") for of in ("model", "last/model"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all(".h.1." in name or "ln_f" in name for name in changed)


def test_the_command_tunes_and_says_where(home, capsys):
    path = home / "tune.yaml"
    path.write_text(to_yaml(settings(home, "train.steps=2", name="command")))
    assert main(["finetune", str(path), "weight_decay=0.1"]) == 0
    out = capsys.readouterr().out
    assert "held out | after" in out and f"model        {home / 'command' / MODEL}" in out
    assert "weight_decay: 0.1" in (home / "command" / "config.yaml").read_text()


# ------------------------------------------------------------------ what is hidden at first

HIDDEN = ("hidden.places=[object_1,object_2,object_3]", "hidden.beyond=question")


def of_boxes(home, *more, name):
    """Of the shipped model, on the task with tags."""
    fixed = ("model.name=zoo/small", "task.name=boxes", "task.path=null", "train.steps=2")
    return settings(home, *fixed, *more, name=name)


def test_what_is_hidden_at_first_changes_what_is_learned_and_goes_on_to_the_same_bytes(
    home, monkeypatch
):
    def tuned_to(name, *more):
        finetune(of_boxes(home, *more, name=name), say=quiet)
        return (home / name / MODEL / "model.safetensors").read_bytes()

    plain = tuned_to("seen")
    first = tuned_to("one", *HIDDEN, "hidden.steps=1")
    both = tuned_to("two", *HIDDEN, "hidden.steps=2")
    assert len({plain, first, both}) == 3
    assert tuned_to("others", "hidden.places=[object_1]", HIDDEN[1], "hidden.steps=2") != both
    assert tuned_to("here", HIDDEN[0], "hidden.beyond=label_3", "hidden.steps=2") != both
    monkeypatch.setattr("circuitprune.pipelines.learning.asked_of_any", lambda: True)
    stopped = of_boxes(home, *HIDDEN, "hidden.steps=1", name="halfway")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        finetune(stopped, say=quiet)
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"another run: hidden.steps"):
        finetune(
            of_boxes(home, *HIDDEN, "hidden.steps=2", "train.resume=auto", name="halfway"),
            say=quiet,
        )
    assert tuned_to("halfway", *HIDDEN, "hidden.steps=1", "train.resume=auto") == first


def test_a_tag_that_no_pair_has_is_named(home):
    with pytest.raises(ConfigError, match=r"'boxes' has tag 'things'; there are label_1, .*end"):
        finetune(
            of_boxes(home, "hidden.places=[things]", HIDDEN[1], "hidden.steps=1", name="none"),
            say=quiet,
        )
    assert not (home / "none").exists()


def test_the_questions_on_a_story_are_in_one_batch():
    config = load_tune_config(
        None,
        [
            "task.name=boxes_lesson",
            "task.n_train=60",
            "task.n_val=6",
            "task.n_test=6",
            "train.batch_size=6",
            "by_group=true",
        ],
    )
    data = make_pairs(config.run, *load_model("zoo/small"))
    arrange(config, data)
    for batch in islice(data.train_dataloader(), 12):
        things = torch.cat([batch.answers[:, :1], batch.wrong], dim=1).sort(dim=1).values
        stories = [[*one] for _, one in groupby(things.tolist())]
        assert [len(story) for story in stories] == [3, 3] and stories[0] != stories[1]
        assert len({*batch.answers[:3, 0].tolist()}) == 3


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("model.kv_readers=query_head", "model.kv_readers decides nothing in fine-tuning"),
        ("task.metric=logit_diff", "task.metric decides nothing"),
        ("task.min_accuracy=0.5", "task.min_accuracy decides nothing"),
        ("model.dtype=bfloat16", "float32 or float64"),
        ("train.steps=0", "train.steps must be > 0"),
        ("last_layers=0", "last_layers"),
        ("weight_decay=-1", "weight_decay"),
        ("measured=[ioj]", "did you mean 'ioi'"),
        ("n_measured=0", "n_measured"),
        ("hidden.steps=3", "go together"),
        ("hidden.places=[object_1]", "go together"),
        ("hidden.beyond=question", "go together"),
        ("hidden.steps=-1", "hidden.steps"),
        ("gates.learner=topk", "gates"),
    ],
)
def test_settings_that_say_nothing_are_refused(given, problem):
    with pytest.raises(ConfigError, match=problem):
        load_tune_config(None, [given])


def test_pairs_to_learn_from_and_to_measure_on_are_needed(home):
    with pytest.raises(ConfigError, match="n_train must be > 0"):
        finetune(settings(home, "task.n_train=0", name="none"), say=quiet)
    with pytest.raises(ConfigError, match="n_test must be > 0"):
        finetune(settings(home, "task.n_val=0", "task.n_test=0", name="none"), say=quiet)
    with pytest.raises(ConfigError, match="has 2 layers"):
        finetune(settings(home, "last_layers=9", name="none"), say=quiet)
    assert not (home / "none").exists()


def test_the_shipped_config_is_that_of_the_shipped_model():
    first, config = load_tune_config("tuning/boxes_labels"), load_tune_config("tuning/boxes")
    assert first.model.name == "zoo/small" and config.model.name == f"{first.output_dir}/model"
    assert first.task.name == "boxes_labels" and config.task.name == "boxes_lesson"
    assert first.hidden.steps == first.train.steps and not config.hidden.steps
    assert "boxes_held_out" in config.measured
    assert flatten(config)["train.steps"] > 0 and TuneConfig().run.task == TuneConfig().task
