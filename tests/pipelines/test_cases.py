"""Faults that were found by trying, each as it was met: what is typed, and what has to come of it.

Numbers are those of folders of `../shared/cases`, where that is there; all of them are built
here from `tiny`. Case 16, a full disk, is in `test_full_disk.py`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from family_configs import randomise
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import LLAMA, save_model, save_pairs, settings, tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from circuitprune.cli import main
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.selfcheck import self_check
from circuitprune.errors import ConfigError, ModelError, RunError
from circuitprune.metrics import kl_divergence
from circuitprune.models import load_model
from circuitprune.runs.settings import load_config
from circuitprune.training.module import MaskTraining
from circuitprune.views.failure import INTERRUPTED

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice

CASES = Path(__file__).parents[3] / "shared" / "cases"
HERE = ("01", "02", "03", "05", "06", "07", "08", "11", "12", "13", "14", "18", "19")
ELSEWHERE = {"16": "test_full_disk.py"}
"""Cases with a file of their own, beside this one."""


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not there")
def test_every_case_is_held():
    there = {path.name[:2] for path in CASES.iterdir() if path.is_dir() and path.name[0].isdigit()}
    assert there == {*HERE, *ELSEWHERE}
    assert all((Path(__file__).parent / name).is_file() for name in ELSEWHERE.values())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_model(folder / "llama", "llama")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture
def typed(home, tmp_path, capsys):
    """`typed(command, *overrides)`: exit code and standard error, which holds no traceback."""

    def run(command: str, *overrides: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([command, *settings(home), f"output_dir={tmp_path / 'run'}", *overrides])
        said = capsys.readouterr().err
        assert "Traceback" not in said, said
        return code, said

    return run


def scores(folder: Path) -> torch.Tensor:
    return load_file(folder / "gates.safetensors")["scores"]


def cut_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C at the start of a training step."""
    honest = MaskTraining.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            raise KeyboardInterrupt
        return honest(self, batch, batch_idx)

    patch.setattr(MaskTraining, "training_step", training_step)


@pytest.fixture
def cut(typed, tmp_path, monkeypatch) -> Path:
    """The checkpoint of a run that was interrupted at step 6 of 12."""
    with monkeypatch.context() as patch:
        cut_at(patch, 6)
        assert typed("train", f"output_dir={tmp_path / 'cut'}")[0] == INTERRUPTED
    return tmp_path / "cut" / "checkpoints" / "last.ckpt"


# ---------------------------------------------------------------- 01, 02, 03: models


def save_llama(folder: Path, says: dict, **build: object) -> Path:
    """A Llama whose `config.json` then says something else."""
    tokens = dict(vocab_size=len(tokenizer()), bos_token_id=None, eos_token_id=0, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**LLAMA, **tokens, **build}))
    randomise(model, seed=3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **says}))
    return folder


def save_fp8(home: Path, folder: Path) -> Path:
    """Weights of 8 bits with a scale for each, and no word of it in `config.json`."""
    shutil.copytree(home / "llama", folder)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        weights[name] = weight
        if "proj.weight" in name:
            scale = weight.abs().max() / 448
            weights[name] = (weight / scale).to(torch.float8_e4m3fn)
            weights[name.replace("weight", "weight_scale_inv")] = scale.view(1, 1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_case_01_weights_that_the_config_has_no_place_for_are_named(home, typed, tmp_path):
    no_bias = dict(attention_bias=False, mlp_bias=False)
    biased = save_llama(tmp_path / "biased", no_bias, attention_bias=True, mlp_bias=True)
    deep = save_llama(tmp_path / "deep", dict(num_hidden_layers=2), num_hidden_layers=4)
    fp8 = save_fp8(home, tmp_path / "fp8")
    for folder, word in ((biased, "bias"), (deep, "layers.2."), (fp8, "weight_scale_inv")):
        code, said = typed("train", f"model.name={folder}", "--dry-run")
        assert code == ModelError.exit_code and word in said, said
        assert "config.json has no place for" in said


def test_case_02_an_adapter_beside_the_weights_is_refused(home, typed, tmp_path):
    folder = shutil.copytree(home / "llama", tmp_path / "tuned")
    about = dict(peft_type="LORA", base_model_name_or_path=str(folder), r=2)
    (folder / "adapter_config.json").write_text(json.dumps(about))
    save_file({"base_model.x.lora_A.weight": torch.ones(2)}, folder / "adapter_model.safetensors")
    code, said = typed("train", f"model.name={folder}", "--dry-run")
    assert code == ModelError.exit_code
    assert "adapter_config.json" in said and "Merge it first" in said


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors"])
def test_case_03_a_quantised_model_is_refused(home, typed, tmp_path, method):
    about = dict(quant_method=method, bits=4, load_in_4bit=True)
    folder = save_llama(tmp_path / method, dict(quantization_config=about))
    code, said = typed("train", f"model.name={folder}", "--dry-run")
    assert code == ModelError.exit_code and f"is quantised ({method}" in said


# ---------------------------------------------------------------- 05, 06, 14, 18: going on


def test_case_05_a_finished_run_goes_on_to_more_steps(typed, tmp_path):
    six, twelve = tmp_path / "six", tmp_path / "twelve"
    assert typed("train", f"output_dir={six}", "train.steps=6")[0] == 0
    resume = f"train.resume={six / 'checkpoints' / 'last.ckpt'}"
    assert typed("train", f"output_dir={twelve}", "train.steps=12", resume)[0] == 0
    last = torch.load(twelve / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 12 and not torch.equal(scores(six), scores(twelve))
    code, said = typed("train", f"output_dir={tmp_path / 'five'}", "train.steps=5", resume)
    assert code == RunError.exit_code and "raise train.steps" in said
    assert not (tmp_path / "five").exists()


@pytest.mark.parametrize(
    "other",
    [
        "train.batch_size=4",
        "train.seed=1",
        "task.seed=5",
        "objective=logit_diff",
        "ablation=zero",
        "gates.k_min=60",
    ],
)
def test_case_06_a_checkpoint_of_another_job_is_refused(typed, cut, tmp_path, other):
    code, said = typed("train", f"output_dir={tmp_path / 'r'}", f"train.resume={cut}", other)
    assert code == RunError.exit_code and other.partition("=")[0] in said
    assert not (tmp_path / "r").exists()


def test_case_06_another_learning_rate_takes_effect(typed, cut, tmp_path):
    for name, more in (("same", []), ("fast", ["train.lr=5"])):
        go_on = [f"output_dir={tmp_path / name}", f"train.resume={cut}", *more]
        assert typed("train", *go_on)[0] == 0
    assert not torch.equal(scores(tmp_path / "same"), scores(tmp_path / "fast"))


def test_case_14_tensorboard_shows_each_step_once(typed, tmp_path, monkeypatch):
    """Killed at step 6 with the checkpoint of step 4, so that two steps are taken again."""
    often, folder = ["train.trainer.log_every_n_steps=1", "train.val_every=50"], tmp_path / "run"
    with monkeypatch.context() as patch:
        cut_at(patch, 6)
        patch.setattr("circuitprune.training.checkpoints.Checkpoints.on_exception", lambda *_: None)
        assert typed("train", *often)[0] == INTERRUPTED
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert typed("train", *often, "train.resume=auto")[0] == 0
    found = EventAccumulator(str(folder))
    found.Reload()
    steps = [event.step for event in found.Scalars("train/loss")]
    assert steps == sorted(set(steps)) and set(range(12)) <= set(steps)


def test_case_18_accumulated_gradients_are_refused(typed, tmp_path):
    code, said = typed("train", "train.trainer.accumulate_grad_batches=2")
    assert code == ConfigError.exit_code and "train.batch_size" in said
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- 07, 08, 19: settings


def test_case_07_two_devices_are_refused(typed, tmp_path):
    code, said = typed("train", "train.trainer.devices=2")
    assert code == ConfigError.exit_code and "train.device" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "override",
    [
        "output_dir=2024_01_01",
        "output_dir=010",
        "output_dir=12:30:45",
        "output_dir=runs/a #1",
        "model.revision=5e12345",
        "model.revision=0123456",
        "model.revision=1e10",
        "task.corruption=no",
    ],
)
def test_case_08_text_is_what_was_typed(override):
    key, _, expected = override.partition("=")
    value: object = load_config(None, [override])
    for name in key.split("."):
        value = getattr(value, name)
    assert value == expected


def test_case_08_a_kind_that_is_called_no(home, typed, tmp_path):
    rows = [json.loads(row) | {"kind": "no"} for row in (home / "pairs.jsonl").open()]
    path = tmp_path / "kind.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert typed("train", f"task.path={path}", "task.corruption=no", "--dry-run") == (0, "")


def test_case_19_a_run_with_relative_names_is_verified_from_elsewhere(
    home, typed, tmp_path, monkeypatch
):
    monkeypatch.chdir(home)
    run = tmp_path / "run"
    names = ["model.name=model", "task.path=pairs.jsonl", "attribution.method=eap"]
    assert typed("attribute", *names)[0] == 0
    monkeypatch.chdir("/")
    assert main(["verify", str(run), "sections=[faithfulness]", "progress=false"]) == 0


# ---------------------------------------------------------------- 11, 12, 13: numbers


def test_case_11_one_pair_is_no_evidence(typed, home, tmp_path):
    path, run = tmp_path / "one.jsonl", tmp_path / "run"
    path.write_text((home / "pairs.jsonl").read_text().splitlines(keepends=True)[0])
    one = [f"task.path={path}", "task.n_train=1", "task.n_val=0", "task.n_test=0"]
    assert typed("train", *one)[0] == 0
    assert main(["verify", str(run), "sections=[faithfulness]", "progress=false"]) == 0
    found = json.loads((run / "verification.json").read_text())["sections"]["faithfulness"]
    assert found["verdict"] == "undecided" and "one pair" in found["sentence"]
    page = (run / "verification.md").read_text()
    assert "held-out" not in page and "the 1 pair that it was found on" in page


@pytest.mark.real
@torch.no_grad()
def test_case_12_a_real_model_in_bfloat16_passes_the_self_check(real_model):
    """Its logits are off by a quarter of their spread, as the plain model's are from float32."""
    name = str(real_model("smollm2-135m"))
    exact, (model, _) = load_model(name)[0], load_model(name, "bfloat16")
    gated = GatedModel(model)
    self_check(gated)
    clean, corrupt, mask = prompts(model.config.vocab_size)
    full, plain = exact(clean).logits, model(clean).logits.float()
    run = gated(torch.ones(gated.graph.n_edges), clean, mask, gated.record(corrupt, mask)).float()
    own, ours = (
        kl_divergence(a.flatten(0, 1), b.flatten(0, 1)).mean()
        for a, b in ((full, plain), (plain, run))
    )
    assert ours < 2 * own < 0.1


def prompts(n_words: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random clean prompts, corrupt ones that differ in every token, and a mask of all."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, n_words, (3, 8), generator=generator)
    return clean, (clean + n_words // 2) % n_words, torch.ones_like(clean, dtype=torch.bool)


@pytest.mark.parametrize("offset", [0, 10, 25, 100, 1000])
@torch.no_grad()
def test_case_13_a_common_offset_costs_no_more_than_the_model_itself(tmp_path, offset):
    """The float32 error of the gated model against that of Hugging Face's, both from float64."""
    folder = save_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wpe.weight"] += offset
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    exact, _ = load_model(str(folder), "float64")
    model, _ = load_model(str(folder))
    gated = GatedModel(model)
    clean, corrupt, mask = prompts(len(tokenizer()))
    full = exact(clean).logits
    plain = model(clean).logits.double()
    run = gated(torch.ones(gated.graph.n_edges), clean, mask, gated.record(corrupt, mask)).double()
    own, ours = ((one - full).abs().max() / full.std() for one in (plain, run))
    assert ours < 8 * own + 1e-6, (own, ours)
    self_check(gated)
