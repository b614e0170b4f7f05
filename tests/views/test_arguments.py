"""Numbers that are typed: what is none, or out of range, is refused in a sentence."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from circuitprune.cli import main
from circuitprune.views.arguments import (
    AT_LEAST_1,
    COUNT,
    FRACTION,
    INCHES,
    LEAST,
    RUNS,
    file_first,
    with_option,
)

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
NOT_FINITE = ["", "x", "nan", "inf", "-inf", "1e999", "9" * 400, "9" * 5000]


@pytest.mark.parametrize("text", NOT_FINITE)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a finite number") as caught:
        FRACTION(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", ["-1", "0", "1.5"])
def test_what_is_no_fraction_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"must lie in \(0, 1\], got"):
        FRACTION(text)


@pytest.mark.parametrize("text", ["", "1.0", "nan", "inf", "9" * 5000])
def test_what_counts_nothing_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number"):
        COUNT(text)


@pytest.mark.parametrize("text", ["-1", "1000001", "9" * 400, "-" + "9" * 400])
def test_a_count_out_of_range_is_told_the_range(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must lie in 0 to a million, got"):
        COUNT(text)


def test_the_ends_are_taken():
    assert (FRACTION("1"), FRACTION("1e-9"), COUNT("0"), COUNT("1000000")) == (1, 1e-9, 0, 10**6)
    assert (AT_LEAST_1("1"), RUNS("1000"), LEAST("0")) == (1, 1000, 0)
    for kind, text in ((AT_LEAST_1, "0"), (RUNS, "1001"), (LEAST, "-0.1"), (INCHES, "0")):
        with pytest.raises(argparse.ArgumentTypeError, match="must"):
            kind(text)


def test_a_setting_in_place_of_a_file_is_told_from_one(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match=r"file comes first.*'task.name=jsonl'"):
        file_first("task.name=jsonl")
    odd = tmp_path / "a=b.jsonl"
    odd.touch()
    assert file_first(str(odd)) == str(odd)
    assert file_first("nowhere.jsonl") == "nowhere.jsonl"


def test_an_option_that_stands_for_a_setting_is_one():
    assert with_option(["a.b=1"], "model.name", "x") == ["a.b=1", "model.name=x"]
    assert with_option(["a.b=1"], "model.name", None) == ["a.b=1"]


def test_a_working_directory_that_is_gone_is_told(tmp_path, capfd):
    """Before torch is imported, which would end the process with words of its own."""
    (tmp_path / "gone").mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from circuitprune.cli import main; "
        f"code = main(['report', {str(tmp_path / 'x')!r}]); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "gone", env=ENV)
    told = "error: the working directory is gone (No such file or directory); go to one that is"
    assert told in capfd.readouterr().err and ended.returncode == 1


def test_an_option_and_its_setting_are_not_both_typed(capsys):
    """Neither is picked without a word."""
    told = "error: attribution.verify_top is said twice, as 5 and by attribution.verify_top=9;"
    assert main(["attribute", "--verify-top", "5", "attribution.verify_top=9"]) == 2
    assert told in capsys.readouterr().err
    assert main(["check", "pairs.jsonl", "zoo/small", "model.name=gpt2"]) == 2
    assert "model.name is said twice, as zoo/small and by" in capsys.readouterr().err
