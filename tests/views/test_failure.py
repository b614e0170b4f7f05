"""What ends a command becomes words: known errors one sentence, anything else a report of a bug."""

import errno
import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import load as load_tensors

from circuitprune.cli import main
from circuitprune.errors import CircuitPruneError, ConfigError, DataError, ModelError, RunError
from circuitprune.views.failure import BUG, INTERRUPTED, told


def raised(act):
    """What a call raises."""
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


KNOWN = {
    "ours": (lambda: main_error(DataError("no pairs")), DataError, "no pairs"),
    "a full disk": (
        lambda: main_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x")),
        RunError,
        "runs/x: No space left on device; check the path",
    ),
    "a folder for a file": (lambda: Path(".").read_text(), RunError, "Is a directory"),
    "bytes for text": (lambda: b"\xff".decode(), RunError, "a file is not UTF-8 text"),
    "a narrow terminal": (lambda: "é".encode("ascii"), RunError, "PYTHONIOENCODING"),
    "memory": (lambda: main_error(MemoryError()), RunError, "train.batch_size"),
    "memory of a GPU": (
        lambda: main_error(torch.OutOfMemoryError("CUDA out of memory")),
        RunError,
        "cache.max_gb",
    ),
    "memory of a CPU": (lambda: torch.empty(10**16), RunError, "out of memory; make"),
    "a broken model file": (lambda: load_tensors(b"x" * 20), ModelError, "not safetensors"),
    "a Trainer": (
        lambda: main_error(MisconfigurationException("no such accelerator")),
        ConfigError,
        "train.trainer or train.device cannot be used: no such accelerator",
    ),
}


def main_error(error):
    raise error


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_user_can_cause_is_one_sentence_and_its_code(name):
    act, kind, words = KNOWN[name]
    code, message = told(raised(act), "")
    assert code == kind.exit_code and message.startswith("error: ") and words in message
    assert len(message.splitlines()) == 1 and "Traceback" not in message


def test_an_interruption_says_how_to_go_on():
    for error in (KeyboardInterrupt(), SystemExit(1)):
        assert told(error, "the same command") == (INTERRUPTED, "interrupted; the same command")


def test_a_rank_that_fails_says_which_it_is(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert told(CircuitPruneError("x"), "") == (1, "error on rank 3: x")


def test_anything_else_is_a_bug_with_its_traceback_and_where_to_report_it(monkeypatch, capsys):
    monkeypatch.setattr("circuitprune.cli.completion", lambda _: {}["absent"])
    assert main(["completion"]) == BUG
    said = capsys.readouterr().err
    assert said.startswith("error: this is a bug in circuitprune ") and "KeyError" in said
    assert "Traceback" in said and "test_failure.py" in said
    assert "Please report it" in said and "CONTRIBUTING.md" in said
    about = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    assert "## Report a bug" in about
