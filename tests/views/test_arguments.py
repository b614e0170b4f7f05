"""Numbers that are typed: what is none, or out of range, is refused in a sentence."""

import argparse

import pytest

from circuitprune.views.arguments import COUNT, FRACTION, file_first


@pytest.mark.parametrize(
    "text", ["", "x", "nan", "inf", "-inf", "1e999", "-1", "0", "1.5", "9" * 400, "9" * 5000]
)
def test_what_is_no_fraction_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a number in \(0, 1\]"):
        FRACTION(text)


@pytest.mark.parametrize(
    "text", ["", "1.0", "nan", "inf", "-1", "1000001", "9" * 400, "-" + "9" * 400, "9" * 5000]
)
def test_what_counts_nothing_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a whole number in \[0, 1e\+06\]"):
        COUNT(text)


def test_the_ends_are_taken():
    assert (FRACTION("1"), FRACTION("1e-9"), COUNT("0"), COUNT("1000000")) == (1, 1e-9, 0, 10**6)


def test_a_setting_in_place_of_a_file_is_told_from_one(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match=r"file comes first.*'task.name=jsonl'"):
        file_first("task.name=jsonl")
    odd = tmp_path / "a=b.jsonl"
    odd.touch()
    assert file_first(str(odd)) == str(odd)
    assert file_first("nowhere.jsonl") == "nowhere.jsonl"
