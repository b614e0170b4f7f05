"""Numbers that are typed: what is none, or out of range, is refused in a sentence."""

import argparse

import pytest

from circuitprune.views.arguments import (
    AT_LEAST_1,
    COUNT,
    FRACTION,
    INCHES,
    LEAST,
    RUNS,
    file_first,
)

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
