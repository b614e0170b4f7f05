"""Out of memory is one sentence: which settings help, with the forecast that the dry run prints."""

import re
from pathlib import Path

import pytest
import torch
from tiny import save_model, save_pairs, settings

from circuitprune.cli import main
from circuitprune.errors import RunError, is_out_of_memory

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice
HELPS = ("train.batch_size", "verify.batch_size", "cache.max_gb", "model.dtype=bfloat16")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    assert main(["attribute", *settings(folder), f"output_dir={folder / 'done'}"]) == 0
    return folder


def of_the_system(*_: object, **__: object) -> None:
    torch.empty(10**16)


def of_python(*_: object, **__: object) -> None:
    raise MemoryError


def of_a_gpu(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("command", "where", "runs_out"),
    [
        ("train", "circuitprune.engine.references.References.fill", of_the_system),
        ("train", "circuitprune.training.module.MaskTraining._lr_factor", of_the_system),
        ("train", "circuitprune.training.module.MaskTraining._lr_factor", of_python),
        ("attribute", "circuitprune.pipelines.frontier.evaluate", of_a_gpu),
        ("verify", "circuitprune.evidence.faithfulness.evaluate_each", of_the_system),
    ],
)
def test_the_settings_that_help_are_named_with_the_forecast(
    home, tmp_path, monkeypatch, capsys, command, where, runs_out
):
    chosen = [*settings(home), f"output_dir={tmp_path / 'run'}"]
    assert main(["train", *chosen, "--dry-run"]) == 0
    (forecast,) = re.findall(r"^memory +(about .*)$", capsys.readouterr().out, re.M)
    monkeypatch.setattr(where, runs_out)
    verify = [str(home / "done"), "sections=[faithfulness]", "progress=false"]
    assert main([command, *(verify if command == "verify" else chosen)]) == RunError.exit_code
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory; make ") and said.count("\n") == 1
    assert all(setting in said for setting in HELPS) and said.endswith(f"{forecast}\n")


def test_the_steps_that_were_taken_are_kept(home, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("circuitprune.training.module.MaskTraining.cut", of_a_gpu)  # at validation
        assert main(["train", *settings(home), f"output_dir={run}"]) == RunError.exit_code
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5
    resume = [f"output_dir={run}", "train.resume=auto"]
    assert main(["train", *settings(home), *resume]) == 0


def test_words_of_our_own_are_no_lack_of_memory():
    assert not is_out_of_memory(RunError("out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))
