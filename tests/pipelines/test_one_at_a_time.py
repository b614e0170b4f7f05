"""Whatever writes several files into a folder holds it: another process is told, and leaves all."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import quick_config, save_model, save_pairs

from circuitprune.errors import RunError
from circuitprune.pipelines import sentiment, tracking
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.compare import compare
from circuitprune.pipelines.mib import submit
from circuitprune.pipelines.part_edges import edges_of_run
from circuitprune.pipelines.refine import refine_run
from circuitprune.pipelines.stability import stability
from circuitprune.pipelines.together import discover_together
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.tune import finetune
from circuitprune.pipelines.tune_config import load_tune_config
from circuitprune.pipelines.verify import verify_run
from circuitprune.runs.lock import NAME

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A model, pairs, and runs with gates on edges (`run`, `other`) and on nodes (`nodes`)."""
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    for name in ("pairs", "a", "b"):
        save_pairs(folder / f"{name}.jsonl")
    for name, *more in (["run"], ["other", "task.seed=1"], ["nodes", "level=node"]):
        eap = "attribution.method=eap"
        attribute(quick_config(folder, eap, *more, f"output_dir={folder / name}"), quiet)
    return folder


def quiet(_: str) -> None:
    """Says nothing."""


def at(home: Path, folder: Path, *more: str):
    return quick_config(home, "attribution.method=eap", *more, f"output_dir={folder}")


def together(home: Path, folder: Path) -> object:
    tasks = f"tasks=[{home / 'a.jsonl'},{home / 'b.jsonl'}]"
    return discover_together(at(home, folder, "task.name=ioi", "task.path=null", tasks), quiet)


def tune(home: Path, folder: Path) -> object:
    said = [f"model.name={home / 'model'}", "task.name=jsonl", f"task.path={home / 'pairs.jsonl'}"]
    more = ["task.n_train=8", "task.n_val=0", "task.n_test=8", "train.progress=false"]
    return finetune(load_tune_config(None, [*said, *more, f"output_dir={folder}"]), quiet)


NEW: dict[str, Callable[[Path, Path], object]] = {
    "train": lambda home, folder: discover(at(home, folder), quiet),
    "train on several tasks": together,
    "attribute": lambda home, folder: attribute(at(home, folder), quiet),
    "stability": lambda home, folder: stability(at(home, folder), 2, attributes=True, vary="task"),
    "compare": lambda home, folder: compare([home / "run", home / "other"], folder=folder),
    "refine": lambda home, folder: refine_run(home / "run", [], folder, quiet),
    "mib": lambda home, folder: submit([f"{home / 'run'}=ioi_gpt2"], folder, say=quiet),
    "finetune": tune,
    "sentiment": lambda _, folder: sentiment.track_sentiment(
        "m", sentiment.SentimentConfig(), folder
    ),
    "tracking": lambda _, folder: tracking.track("m", None, tracking.TrackingConfig(), folder),
}
"""Commands that make a folder."""
OF_A_RUN: dict[str, Callable[[Path], object]] = {
    "verify": lambda folder: verify_run(folder, ["n_bootstrap=10", "progress=false"], say=quiet),
    "part-edges": lambda folder: edges_of_run(folder, say=quiet),
}
"""Commands that write into a run's."""


def held(folder: Path) -> dict[str, bytes]:
    """Another process, of this machine and alive, is at work there; all that the folder holds."""
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(f"{os.getppid()} {socket.gethostname()}\n")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.parametrize("command", NEW)
def test_a_folder_that_another_process_holds_is_left_alone(home, tmp_path, monkeypatch, command):
    monkeypatch.setattr(sentiment, "find_sentiment", lambda *_: None)
    monkeypatch.setattr(tracking, "entity_tracking", lambda *_: None)
    before = held(tmp_path / "new")
    with pytest.raises(RunError, match=f"in use by process {os.getppid()} on"):
        NEW[command](home, tmp_path / "new")
    assert contents(tmp_path / "new") == before


@pytest.mark.parametrize(("command", "run"), [("verify", "run"), ("part-edges", "nodes")])
def test_a_run_that_another_process_writes_to_is_left_alone(home, command, run):
    before = held(home / run)
    try:
        with pytest.raises(RunError, match=f"in use by process {os.getppid()} on"):
            OF_A_RUN[command](home / run)
        assert contents(home / run) == before
    finally:
        (home / run / NAME).unlink()


@pytest.mark.parametrize("command", NEW)
def test_a_folder_that_cannot_be_used_is_refused_before_a_model_is_loaded(
    home, tmp_path, monkeypatch, command
):
    """A file, one below a file, a link that leads nowhere: in a sentence, and nothing is made."""

    def never(*_args: object, **_named: object) -> None:
        raise AssertionError("a model was loaded")

    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for module in ("setup", "study", "tune", "trials", "prepared", "together"):
        for name in ("load", "make_setup", "from_config"):
            place = f"circuitprune.pipelines.{module}.{name}"
            monkeypatch.setattr(place, never, raising=False)
    for name in ("find_sentiment", "entity_tracking"):
        monkeypatch.setattr(sentiment if "sent" in name else tracking, name, never)
    for folder, words in (
        ("file", r"output_dir '.*file' is a file; choose another"),
        ("file/a/b", r"output_dir '.*b' cannot be used: '.*file' is a file; choose another"),
        ("link", r"'.*link' is a link to '.*gone', where nothing is; make that folder, or choose"),
        (
            "link/a",
            r"'.*link' is a link to '.*gone', where nothing is; make that folder, or choose",
        ),
    ):
        with pytest.raises(RunError, match=words):
            NEW[command](home, tmp_path / folder)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["attribute", "compare"])
def test_a_link_to_a_folder_is_that_folder(home, tmp_path, command):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    NEW[command](home, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    wanted = "COMPLETE" if command == "attribute" else "compare.json"
    assert (tmp_path / "real" / wanted).is_file()
