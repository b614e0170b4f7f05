"""How the arguments of a command are read, and in which words they are refused."""

import argparse
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import NoReturn

from circuitprune.files.text import plain


class Parser(argparse.ArgumentParser):
    """As `argparse` has it; what was typed reaches the terminal cleaned."""

    def error(self, message: str) -> NoReturn:
        """End the program with what is wrong, and exit code 2."""
        super().error(plain(message))


def number(least: float, most: float, whole: bool = False) -> Callable[[str], float]:
    """The `type` of an argument that is a number; NaN and the infinities are none.

    Args:
        least, most: Where it must lie; `least` itself is allowed only of whole numbers.
        whole: Whether it counts something.
    """

    def read(text: str) -> int | float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = float("nan")
        above = value >= least if whole else value > least
        if not (above and value <= most and isfinite(value)):
            kind, opening = ("a whole number", "[") if whole else ("a number", "(")
            raise argparse.ArgumentTypeError(
                f"{plain(text)!r} is not {kind} in {opening}{least:g}, {most:g}]"
            )
        return value

    return read


def file_first(text: str) -> str:
    """The `type` of a file that stands in front of settings: a setting in its place is told."""
    if "=" in text and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"the file comes first, then settings; got {text!r}")
    return text


FRACTION = number(0.0, 1.0)
"""Of edges, such as 0.01."""
INCHES = number(0.0, 100.0)
COUNT = number(0.0, 1e6, whole=True)
