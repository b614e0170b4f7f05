"""Case 16 of `test_cases.py`: the disk is full, wherever that happens.

Each time one sentence, exit code 1, a whole last checkpoint, and with space again the same bytes.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import save_model, save_pairs, settings

from circuitprune.cli import main
from circuitprune.errors import RunError
from circuitprune.files import atomic

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice
BYTES = ("scores.safetensors", "gates.safetensors", "frontier.json", "edges.csv", "pairs.json")
OFTEN = ("train.checkpoint_every=2", "train.trainer.log_every_n_steps=1")
PAGE = 4096
"""Bytes of which a file takes a whole number on a `tmpfs`."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    assert main(["train", *settings(folder), *OFTEN]) == 0
    return folder


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in BYTES}


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Fails:
    """A function that from its n-th call on finds the disk full."""

    def __init__(self, honest, calls: int) -> None:
        self.honest, self.calls = honest, calls

    def __call__(self, *args: object) -> object:
        self.calls -= 1
        return full() if self.calls < 0 else self.honest(*args)


def checkpoint_of(run: Path) -> int | None:
    """The step of the last checkpoint, which is whole, or None."""
    last = run / "checkpoints" / "last.ckpt"
    return torch.load(last, weights_only=True)["global_step"] if last.exists() else None


def told(capsys) -> str:
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert os.strerror(errno.ENOSPC) in said and "check free space" in said
    return said


@pytest.mark.parametrize("calls", [3, 8])
def test_files_that_do_not_fit_leave_the_ones_before(home, tmp_path, monkeypatch, capsys, calls):
    """Of `config.yaml`, checkpoints every second step, circuits and tables."""
    run = [*settings(home), *OFTEN, f"output_dir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_write", Fails(atomic._write, calls))
        assert main(["train", *run]) == RunError.exit_code
    assert str(tmp_path / "run") in told(capsys)
    assert checkpoint_of(tmp_path / "run") == {3: None, 8: 8}[calls]
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert main(["train", *run, "train.resume=auto"]) == 0
    assert results(tmp_path / "run") == results(home / "run")


@pytest.mark.parametrize("calls", [1, 40])
def test_events_that_do_not_fit_end_the_run(home, tmp_path, monkeypatch, capsys, calls):
    """They are written by a thread, which says nothing by itself."""
    run = [*settings(home), *OFTEN, f"output_dir={tmp_path / 'run'}"]
    writer = "tensorboard.summary.writer.record_writer.RecordWriter"
    honest = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter.write
    fails = Fails(honest, calls)
    with monkeypatch.context() as patch:
        patch.setattr(f"{writer}.write", lambda self, data: fails(self, data))
        assert main(["train", *run]) == RunError.exit_code
    assert f"{tmp_path / 'run'} was not written to" in told(capsys)
    step = checkpoint_of(tmp_path / "run")
    assert (step is None) == (calls < 12)
    assert main(["train", *run, "train.resume=auto"]) == 0
    assert results(tmp_path / "run") == results(home / "run")


def test_an_attribution_says_the_same(home, tmp_path, monkeypatch, capsys):
    run = [*settings(home), f"output_dir={tmp_path / 'run'}"]
    writer = "tensorboard.summary.writer.record_writer.RecordWriter.write"
    with monkeypatch.context() as patch:
        patch.setattr(writer, full)
        assert main(["attribute", *run]) == RunError.exit_code
    assert "was not written to" in told(capsys)
    assert main(["attribute", *run]) == 0


def test_a_checkpoint_does_not_go_by_way_of_the_temporary_folder(home, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.mkstemp", full)
    run = [*settings(home), *OFTEN, f"output_dir={tmp_path / 'run'}"]
    assert main(["train", *run]) == 0


def space_for(run: Path) -> tuple[int, int, int]:
    """Kilobytes: too few for the first checkpoint, for the last, and for the last file."""
    pages = {path.name: -(-path.stat().st_size // PAGE) for path in run.rglob("*.*")}
    whole = sum(pages.values()) * PAGE // 1024
    return 28, 160, whole - pages["report.html"] * PAGE // 1024 // 2


def on_a_small_disk(home: Path, small: Path) -> list[dict]:
    """The same run on a disk of each size of `space_for`, then, with more space, on to its end."""
    found = []
    for size in space_for(home / "run"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", small], check=True)
        run = [*settings(home), *OFTEN, f"output_dir={small / 'run'}"]
        code, step = main(["train", *run]), checkpoint_of(small / "run")
        subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
        again = main(["train", *run, "train.resume=auto"])
        same = results(small / "run") == results(home / "run")
        found.append(dict(size=size, code=code, step=step, again=again, same=same))
        subprocess.run(["umount", small], check=True)
    return found


def test_a_disk_that_is_full(home, tmp_path):
    """On a file system of a few kilobytes, in a user's own namespace."""
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("this system lets no user mount a small disk (unshare -rm)")
    typed = [
        "unshare",
        "-rm",
        sys.executable,
        "-P",
        "-W",
        "ignore",
        __file__,
        str(home),
        str(tmp_path),
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        typed, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 3 and all("No space left on device" in line for line in said)
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(one["code"] == 1 and one["again"] == 0 and one["same"] for one in found), found
    steps = [one["step"] or 0 for one in found]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == 12


if __name__ == "__main__":
    print(json.dumps(on_a_small_disk(Path(sys.argv[1]), Path(sys.argv[2]))))
