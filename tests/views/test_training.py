"""The steps of a training as they are shown: all of them, with what the gates are doing."""

import io
import re

import pytest
from rich.console import Console
from tiny import quick_config, save_model, save_pairs

from circuitprune.pipelines.learning import fit, make_trainer
from circuitprune.pipelines.logs import make_logger
from circuitprune.pipelines.setup import make_setup
from circuitprune.pipelines.train import train
from circuitprune.views import progress, training

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorBoard's and Lightning's advice


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture
def said(monkeypatch):
    """Lines that a training prints to a pipe: all of them, without waiting for half a minute."""
    out = Console(file=io.StringIO(), force_terminal=False)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(training, "shown", lambda show: progress.shown(show, out))
    return lambda: out.file.getvalue().splitlines()


def numbers(lines):
    return [int(re.match(r"training: (\d+) of 12 steps", line)[1]) for line in lines]


def test_every_step_is_told_with_loss_edges_and_kl(home, said, capsys):
    fit(make_setup(quick_config(home, "train.progress=true")), None)
    lines = said()
    assert numbers(lines) == [*range(13), 12]
    assert re.search(r", loss \d[\d.e-]*, [\d,]+ edges$", lines[4])
    assert re.search(r", loss \d[\d.e-]*, [\d,]+ edges, KL \d[\d.e-]*$", lines[-1])
    assert "Epoch" not in "".join(capsys.readouterr())  # Lightning's own bar


def test_silence_is_silence(home, said, capsys):
    fit(make_setup(quick_config(home)), None)
    assert said() == [] and capsys.readouterr().out == ""


def test_a_resumed_training_shows_the_step_at_which_it_goes_on(home, said, tmp_path):
    folder, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"

    def go(*overrides):
        chosen = ("train.progress=true", f"output_dir={folder}", *overrides)
        setup, logger = make_setup(quick_config(home, *chosen)), make_logger(folder)
        train(setup, None, make_trainer(setup, folder, logger), logger, lambda _: None)

    go("train.steps=8")
    before = len(said())
    go(f"train.resume={checkpoint}")
    assert numbers(said()[before:]) == [8, 9, 10, 11, 12, 12]


def test_a_training_that_fails_closes_what_is_shown(home, monkeypatch):
    closed = []

    class Failing(training.Steps):
        def on_train_batch_end(self, *args):
            self.open.callback(closed.append, True)
            raise KeyError

    monkeypatch.setattr("circuitprune.pipelines.learning.Steps", Failing)
    with pytest.raises(KeyError):
        fit(make_setup(quick_config(home, "train.progress=true")), None)
    assert closed == [True]
