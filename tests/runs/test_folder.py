"""Output folders: which may be used, which may be continued, which are refused in which words."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_lm

from circuitprune.errors import RunError
from circuitprune.files.whole import read_json, write_json
from circuitprune.runs.folder import (
    claim,
    create,
    last_checkpoint,
    read_checkpoint,
    read_config,
    step_of,
    tidy,
    unfinished,
    write_command,
)
from circuitprune.runs.identity import Identity
from circuitprune.runs.lock import unusable


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("x")
    return folder


def test_a_folder_that_another_process_has_finished_meanwhile_is_not_written(tmp_path):
    claim(tmp_path, None)
    make(tmp_path, "config.yaml", "COMPLETE")
    with pytest.raises(RunError, match="holds a finished run"):
        create(tmp_path, "steps: 1\n", {})
    assert (tmp_path / "config.yaml").read_text() == "x"


def test_a_command_is_kept_although_the_folder_it_was_typed_in_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    write_command(tmp_path, "circuitprune train")
    monkeypatch.undo()
    assert read_json(tmp_path / "command.json") == {"command": "circuitprune train"}


# ---------------------------------------------------------------- claim


@pytest.mark.parametrize("resume", [None, "last.ckpt"])
def test_an_absent_or_empty_folder_may_be_used(tmp_path, resume):
    claim(tmp_path / "absent", resume)
    claim(tmp_path, resume)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", [None, "last.ckpt"])
@pytest.mark.parametrize("names", [["COMPLETE"], ["config.yaml", "versions.json", "COMPLETE"]])
def test_a_finished_run_may_not(tmp_path, names, resume):
    with pytest.raises(RunError, match="finished run"):
        claim(make(tmp_path, *names), resume)


def test_a_file_may_not(tmp_path):
    make(tmp_path, "file")
    with pytest.raises(RunError, match="is a file"):
        claim(tmp_path / "file", None)


@pytest.mark.parametrize(
    ("names", "resume", "hint"),
    [
        (["thesis.tex"], None, "is not empty; choose another"),
        (["thesis.tex"], "last.ckpt", "is not empty; choose another"),
        (["config.yaml"], "last.ckpt", "is not empty"),
        (
            ["config.yaml", "versions.json"],
            None,
            "is not empty; go on in it with train.resume=auto, or choose another",
        ),
        (["config.yaml", "checkpoints/last.ckpt"], None, "is not empty; choose another"),
    ],
)
def test_other_things_may_not(tmp_path, names, resume, hint):
    with pytest.raises(RunError, match=hint):
        claim(make(tmp_path, *names), resume)


@pytest.mark.parametrize("resume", [None, "auto"])
def test_what_a_process_leaves_that_was_killed_at_once_is_no_matter(tmp_path, resume):
    claim(make(tmp_path, ".lock", "versions.json", ".config.yaml.1a2b.tmp"), resume)


def test_the_config_which_makes_a_folder_a_run_comes_last(tmp_path, monkeypatch):
    monkeypatch.setattr("circuitprune.runs.folder.write_atomic", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        create(tmp_path, "a: 1", {"torch": "2"})
    assert [path.name for path in tmp_path.iterdir()] == ["versions.json"]


def test_an_interrupted_training_may_be_resumed(tmp_path):
    claim(make(tmp_path, "config.yaml", "versions.json", "checkpoints/last.ckpt"), "last.ckpt")


def test_auto_is_the_folders_own_checkpoint_or_a_fresh_start(tmp_path):
    folder = make(tmp_path, "config.yaml", "versions.json")
    claim(folder, "auto")
    assert last_checkpoint(folder, "auto") is None
    assert last_checkpoint(folder, "other.ckpt") == "other.ckpt"
    make(tmp_path, "checkpoints/last.ckpt")
    assert last_checkpoint(folder, "auto") == str(folder / "checkpoints" / "last.ckpt")


# ---------------------------------------------------------------- unfinished attributions


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], False),
        (["thesis.tex"], False),
        (["config.yaml"], True),
        (["config.yaml", "versions.json", "shards/00000.safetensors", ".x.ab.tmp"], True),
        (["config.yaml", "versions.json", "scores.safetensors", "circuits/"], True),
        (["config.yaml", "versions.json", "COMPLETE"], False),
        (["config.yaml", "versions.json", "checkpoints/"], False),
        (["config.yaml", "versions.json", "gates.safetensors"], False),
    ],
)
def test_only_a_cut_short_attribution_is_unfinished(tmp_path, names, expected):
    assert unfinished(make(tmp_path, *names)) == expected


def test_an_absent_folder_is_not_unfinished(tmp_path):
    assert not unfinished(tmp_path / "absent")


def test_tidy_removes_temporary_files_and_nothing_else(tmp_path):
    kept = ["config.yaml", ".hidden", "notes.tmp", "shards/.a.tmp"]
    left = [".config.yaml.1a2b.tmp", "checkpoints/.last.ckpt.1a2b.tmp", "evidence/.mib.json.1.tmp"]
    tidy(make(tmp_path, *left, *kept))
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(kept)


# ---------------------------------------------------------------- create


def test_create_writes_the_config_and_the_versions(tmp_path):
    create(tmp_path / "a" / "b", "steps: 1\n", Identity(tiny_lm("gpt2"), {}).versions)
    assert (tmp_path / "a" / "b" / "config.yaml").read_text() == "steps: 1\n"
    found = read_json(tmp_path / "a" / "b" / "versions.json")
    assert isinstance(found, dict) and found["torch"] == torch.__version__


def test_a_folder_that_the_system_refuses_is_named(tmp_path):
    make(tmp_path, "file")
    with pytest.raises(RunError, match=r"file/run' cannot be used: .*irectory"):
        create(tmp_path / "file" / "run", "", {})
    assert "Permission denied" in str(unusable(tmp_path, PermissionError(13, "Permission denied")))


# ---------------------------------------------------------------- checkpoints

WHOLE = {
    "global_step": 7,
    "state_dict": {},
    "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
    "lr_schedulers": [{"base_lrs": [0.1]}],
    "loops": {},
    "job": {},
    "lr": 0.1,
}


def test_a_checkpoint_is_read_back_with_its_step(tmp_path):
    torch.save(WHOLE, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt") == WHOLE
    assert step_of(tmp_path / "last.ckpt") == 7


@pytest.mark.parametrize("key", WHOLE)
def test_a_checkpoint_of_another_program_is_refused(tmp_path, key):
    torch.save({k: v for k, v in WHOLE.items() if k != key}, tmp_path / "last.ckpt")
    with pytest.raises(RunError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("key", "odd", "said"),
    [
        ("global_step", -1, "step -1"),
        ("global_step", True, r"global_step is damaged .*expected an integer, got True"),
        ("lr", float("nan"), "the learning rate nan"),
        ("job", [1], "job is damaged"),
        ("state_dict", {"a": 1}, "state_dict.a is damaged .*expected Tensor, got 1"),
        ("optimizer_states", [], "not one optimizer"),
        ("optimizer_states", [{"state": {}, "param_groups": []}], "not one optimizer"),
        ("lr_schedulers", [{"base_lrs": []}], "not one optimizer"),
        ("lr_schedulers", [{}], r"lr_schedulers\[0\] is damaged .* no 'base_lrs'"),
    ],
)
def test_a_checkpoint_that_no_run_left_is_refused_before_it_is_used(tmp_path, key, odd, said):
    torch.save({**WHOLE, key: odd}, tmp_path / "last.ckpt")
    with pytest.raises(RunError, match=f"not a readable checkpoint.*{said}"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_paths_of_a_run_start_where_it_was_made_and_read_as_written_there(tmp_path, monkeypatch):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "config.yaml").write_text("task: {name: jsonl, path: pairs.jsonl}\n")
    (tmp_path / "pairs.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    write_command(run, "circuitprune train")
    assert read_config(run).task.path == "pairs.jsonl"
    monkeypatch.chdir(elsewhere)
    assert read_config(run).task.path == str(tmp_path / "pairs.jsonl")


def test_a_place_that_is_no_path_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    write_json(tmp_path / "command.json", {"command": "x", "from": "a\0b"})
    with pytest.raises(RunError, match=r"command\.json is damaged: its `from` is no path"):
        read_config(tmp_path)


class Trap:
    """Unpickling it runs code."""

    def __reduce__(self):
        return (Path.touch, (Path("trap"),))


@pytest.mark.parametrize("content", [b"", b"words", "trap", "list"])
def test_what_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    if content == "trap":
        torch.save(WHOLE | {"job": Trap()}, "last.ckpt")
    elif content == "list":
        torch.save([1, 2], "last.ckpt")
    else:
        Path("last.ckpt").write_bytes(content)
    with pytest.raises(RunError, match="not a readable checkpoint"):
        read_checkpoint(Path("last.ckpt"))
    assert not Path("trap").exists()


def test_an_absent_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match=r"no checkpoint '.*absent.ckpt'"):
        read_checkpoint(tmp_path / "absent.ckpt")
