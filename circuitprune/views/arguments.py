"""How the arguments of a command are read, and in which words they are refused."""

import argparse
import os
import shlex
import sys
from argparse import _SubParsersAction
from collections.abc import Callable, Sequence
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import NoReturn

from circuitprune.data.checks import MANY, MANY_OR_0, NOT_NEGATIVE, PART, Range, nearest
from circuitprune.errors import ConfigError, RunError
from circuitprune.files.text import plain

_ADVICE = "; a setting is written as train.steps=500"


class Parser(argparse.ArgumentParser):
    """As `argparse` has it; what was typed reaches the terminal cleaned."""

    def error(self, message: str) -> NoReturn:
        """End the program with what is wrong, and exit code 2."""
        super().error(plain(message))


def add_overrides(parser: argparse.ArgumentParser, about: str) -> None:
    """The argument for settings, which may all be left out.

    Args:
        parser: Of the command that takes them.
        about: An example, for `--help`.
    """
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=about)


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """As `parse_args`, but overrides may also follow an option, where argparse takes none."""
    refuse_options(parser, sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(arguments)
    late = [item for item in rest if "=" in item and not item.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(options, "overrides")):
        advice = _ADVICE * hasattr(options, "overrides")
        parser.error(f"unrecognized arguments: {' '.join(rest)}{advice}")
    if late:
        options.overrides = [*options.overrides, *late]
    for name in ("config", "model"):
        first = getattr(options, name, None)
        if first is not None and "=" in first:  # it was left out, and this is a setting
            setattr(options, name, None)
            options.overrides = [first, *options.overrides]
    return options


def refuse_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """End the program at an option that its command does not have, before any other complaint.

    Else a misspelt `--help` is answered by the arguments that are missing.
    """
    choices = [one.choices for one in parser._actions if isinstance(one, _SubParsersAction)]
    commands = {name: command for these in choices for name, command in these.items()}
    of = commands.get(next(iter(arguments), ""), parser)
    for item in takewhile(lambda item: item != "--", arguments):
        name, known = item.partition("=")[0], [*of._option_string_actions]
        if item.startswith("--") and not any(option.startswith(name) for option in known):
            of.error(f"no option {name}{_ADVICE * _takes_settings(of)}; {nearest(name, known)}")


def _takes_settings(parser: argparse.ArgumentParser) -> bool:
    return any(action.dest == "overrides" for action in parser._actions)


def refuse_nowhere() -> None:
    """Nothing, if the folder that the command was typed in is still there.

    Without one no relative path leads anywhere, and torch ends the process when it is imported.

    Raises:
        RunError: it is not.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise RunError(
            f"the working directory is gone ({error.strerror}); go to one that is there with cd"
        ) from None


def with_option(overrides: Sequence[str], key: str, value: object) -> list[str]:
    """Settings with one more, which an option or argument of a command stands for.

    Args:
        overrides: As typed.
        key: Of the setting.
        value: Of the option; None if it was left out.

    Raises:
        ConfigError: the setting was typed too; names both values.
    """
    if value is None:
        return [*overrides]
    if also := [item for item in overrides if item.partition("=")[0] == key]:
        raise ConfigError(f"{key} is said twice, as {value} and by {also[-1]}; keep one")
    return [*overrides, f"{key}={value}"]


def typed(command: str, options: argparse.Namespace) -> str:
    """What does the same again, typed into a shell: spaces and brackets are quoted."""
    named = [] if options.config is None else [options.config]
    return shlex.join(["circuitprune", command, *named, *options.overrides])


def number(allowed: Range, whole: bool = False) -> Callable[[str], float]:
    """The `type` of an argument that is a number, refused in the words that settings are.

    Args:
        allowed: Where it must lie; NaN and the infinities are no numbers.
        whole: Whether it counts something.
    """

    def read(text: str) -> int | float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = float("nan")
        if isinstance(value, float) and not isfinite(value):
            kind = "whole" if whole else "finite"
            raise argparse.ArgumentTypeError(f"{plain(text)!r:.80} is not a {kind} number")
        if not allowed.holds(value):
            raise argparse.ArgumentTypeError(f"must {allowed.words}, got {plain(text):.80}")
        return value

    return read


def file_first(text: str) -> str:
    """The `type` of a file that stands in front of settings: a setting in its place is told."""
    if "=" in text and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"the file comes first, then settings; got {text!r}")
    return text


FRACTION = number(PART)
"""Of edges, such as 0.01."""
INCHES = number(Range("lie in (0, 100]", lambda inches: 0 < inches <= 100))
COUNT = number(MANY_OR_0, whole=True)
AT_LEAST_1 = number(MANY, whole=True)
RUNS = number(Range("lie in 0 to 1,000", lambda n: 0 <= n <= 1000), whole=True)
"""Whole runs, each of which may take minutes."""
LEAST = number(NOT_NEGATIVE)
