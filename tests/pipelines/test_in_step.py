"""Whole runs of a model that processes divide: the bytes of one process, written once."""

import os
import signal
from pathlib import Path

import pytest
from ranks import several
from tiny import quick_config, save_model, save_pairs, settings

from circuitprune.cli import attribute_main, train_main
from circuitprune.errors import ConfigError
from circuitprune.pipelines import attribute
from circuitprune.pipelines.setup import make_setup
from circuitprune.training.module import MaskTraining

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice

SHORT = ["train.steps=12", "train.val_every=5", "task.n_val=14", "verify.batch_size=4"]
SHARD = "model.shard=true"
EXCEPT = {"config.yaml", "COMPLETE", "report.html", "command.json", "summary.md"}
"""What names the setting or the folder, or holds a hash of what does."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model", "llama")
    save_pairs(folder / "pairs.jsonl")
    return folder


def typed(home: Path, folder: Path, *more: str) -> list[str]:
    return [*settings(home), *SHORT, f"output_dir={folder}", *more]


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train_main(typed(home, folder)) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "events" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def same_bytes(folder: Path, alone: Path, *but: str) -> None:
    ours, theirs = contents(folder), contents(alone)
    assert ours.keys() == theirs.keys() and "scores.safetensors" in ours
    different = {name for name in ours if ours[name] != theirs[name]}
    assert different <= EXCEPT | {*but}


def test_processes_that_divide_a_model_leave_the_bytes_of_one(home, whole, tmp_path, capfd):
    folder = tmp_path / "run"
    assert several(2, lambda rank: train_main(typed(home, folder, SHARD))) == [0, 0]
    same_bytes(folder, whole)
    assert capfd.readouterr().out.count("Training topk gates") == 1


def test_they_attribute_as_one_and_any_number_goes_on(home, tmp_path):
    """Three stop behind the scores; one process, which has the whole model, goes on."""
    alone, folder = tmp_path / "alone", tmp_path / "run"
    method = ["attribution.method=eap_ig_inputs", "attribution.per_example=true"]
    assert attribute_main(typed(home, alone, *method)) == 0

    def interrupted(rank: int) -> int:
        before = attribute._finish

        def stops(*arguments):
            if rank == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return before(*arguments)

        attribute._finish = stops
        return attribute_main(typed(home, folder, *method, SHARD))

    assert several(3, interrupted)[2] == 75
    assert not (folder / "COMPLETE").exists() and (folder / "scores.safetensors").exists()
    assert attribute_main(typed(home, folder, *method)) == 0
    same_bytes(folder, alone)


def test_a_signal_to_one_stops_training_in_all_and_they_go_on(home, whole, tmp_path):
    folder, step = tmp_path / "run", MaskTraining.training_step

    def interrupted(rank: int) -> int:
        def stops(module: MaskTraining, batch, batch_idx):
            if rank == 1 and module.global_step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(module, batch, batch_idx)

        MaskTraining.training_step = stops
        return train_main(typed(home, folder, SHARD))

    assert several(2, interrupted) == [75, 75]
    goes_on = typed(home, folder, SHARD, "train.resume=auto")
    assert several(3, lambda rank: train_main(goes_on)) == [0, 0, 0]
    same_bytes(folder, whole, "checkpoints/last.ckpt")  # which counts the batches since


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("command", [train_main, attribute_main])
def test_one_process_has_nobody_to_divide_with(home, tmp_path, capsys, command):
    assert command(typed(home, tmp_path / "run", SHARD)) == ConfigError.exit_code
    assert "this is the only one: start it with torchrun, or give" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_refuses_and_says_what_to_give(home):
    with pytest.raises(ConfigError, match=r"`train` or `attribute`; give model.shard=false here"):
        make_setup(quick_config(home, SHARD))


def test_a_dry_run_is_of_the_whole_model(home, tmp_path, capsys):
    assert train_main([*typed(home, tmp_path / "run", SHARD), "--dry-run"]) == 0
    assert "family llama" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("attribution.method=exact", "exact reads weights while their layer does not run"),
        ("gates.starts=[relp]", "relp reads weights"),
        ("attribution.verify_top=3", "patches exactly"),
        ("level=node", "not for level=node"),
        ("tasks=[ioi,sva]", "learned in one process"),
    ],
)
def test_what_needs_all_weights_at_once_is_refused(home, setting, why):
    with pytest.raises(ConfigError, match=why):
        quick_config(home, SHARD, setting)
