"""Every number that can be typed: out of range, too large or no number, it is refused in a line.

Ten to the ninth is refused wherever each one takes time or memory: no slip starts days of work.
"""

import argparse
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import get_args, get_origin, get_type_hints

import pytest

from circuitprune.cli import COMMANDS, main
from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError
from circuitprune.pipelines.sentiment import SentimentConfig, read_sentiment
from circuitprune.pipelines.tracking import TrackingConfig, read_tracking
from circuitprune.pipelines.tune_config import TuneConfig, load_tune_config
from circuitprune.pipelines.verify_config import EvidenceConfig, load_options
from circuitprune.runs.settings import load_config

READERS = {
    "train": (RunConfig, lambda given: load_config(None, given)),
    "verify": (EvidenceConfig, load_options),
    "finetune": (TuneConfig, lambda given: load_tune_config(None, given)),
    "tracking": (TrackingConfig, read_tracking),
    "sentiment": (SentimentConfig, read_sentiment),
}
NO_NUMBERS = ("-1", "nan", "inf", "-inf", "twelve", "1e999", "1e300")
BEYOND = "1000000000"
FREE = {
    "seed", "resample", "batch_size", "shard_edges", "val_every", "checkpoint_every",
    "log_every_n_steps", "max_gb", "acdc_thresholds", "temperature", "cooling", "k_min",
    "shared_cost", "penalty_weight", "penalty_lr", "lr", "lr_end", "gradient_clip_val",
    "weight_decay", "tolerance", "minimality", "threshold", "thresholds", "least_gain",
}  # fmt: skip
"""Settings of which more costs nothing: seeds, rates, a batch that holds all, `never`."""


def numbers(kind: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Every setting that is a number, or a list of some; whether it is a list."""
    hints = get_type_hints(kind)
    for name in (one.name for one in fields(kind)):
        hint = hints[name]
        if is_dataclass(hint):
            yield from numbers(hint, f"{prefix}{name}.")
        elif {int, float} & {hint, *get_args(hint)}:
            yield f"{prefix}{name}", get_origin(hint) is list


SETTINGS = [
    (command, key, several)
    for command, (kind, _) in READERS.items()
    for key, several in numbers(kind)
]


@pytest.mark.parametrize(("command", "key", "several"), SETTINGS)
def test_a_setting_refuses_what_is_no_number_of_its_kind_in_one_line(command, key, several):
    _, read = READERS[command]
    named = key.rpartition(".")[2]
    for typed in (*NO_NUMBERS, *([] if named in FREE else [BEYOND])):
        if named == "thresholds" and typed in ("-1", "1e300"):  # scores may be anything
            continue
        with pytest.raises(ConfigError) as caught:
            read([f"{key}=[{typed}]" if several else f"{key}={typed}"])
        assert key in str(caught.value) and "\n" not in str(caught.value)


def options() -> Iterator[tuple[str, str]]:
    """Every option of a command that takes a number."""
    for name, (_, add) in COMMANDS.items():
        parser = argparse.ArgumentParser()
        add(parser)
        for action in parser._actions:
            if action.type is not None and action.option_strings:
                yield name, action.option_strings[-1]


@pytest.mark.parametrize(("command", "option"), [*options()])
def test_an_option_refuses_it_before_anything_is_read(command, option, capsys):
    first = "frontier" if command == "figure" else "nowhere"
    largest = [] if option == "--threshold" else [BEYOND]
    for typed in (*NO_NUMBERS, *largest):
        with pytest.raises(SystemExit) as caught:
            main([command, first, f"{option}={typed}"])
        last = capsys.readouterr().err.splitlines()[-1]
        assert caught.value.code == 2 and f"argument {option}: " in last
        assert "must " in last or " is not a " in last


def test_the_error_names_the_range(capsys):
    with pytest.raises(SystemExit):
        main(["part-edges", "nowhere", "--steps", "0"])
    assert "argument --steps: must lie in 1 to a million, got 0" in capsys.readouterr().err
