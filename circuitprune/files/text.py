"""Text for people: cleaned by `plain` wherever it leaves, on a terminal, a page or a picture.

Names of models, folders, tasks and tokens are what others wrote. A terminal would obey what stands
in them, Markdown would make a picture of it.
"""

import os
import re
import sys
from collections.abc import Sequence
from io import TextIOBase
from typing import IO

_SPECIAL = re.compile(r"[\\`*<~$|]|\](?=[(\[:])|&(?=[#\w])|(?<!\w)_|_(?!\w)")
"""What Markdown and HTML would take for markup, wherever it stands in a line."""
_FIRST = re.compile(r"^(?=[#+=>-])|^(\d+)(?=[.)](?: |$))")
"""What it would take for a heading, a list or a rule at the start of one."""

_ROUNDING = 1e-6
"""Nats by which float32 may miss a KL of zero."""


def plain(value: object) -> str:
    r"""Text that shows all that is in it: what has no picture is written as its code.

    So no escape sequence moves a cursor or sets a colour, no mark turns the line around, and half a
    character can be printed. Line breaks and tabs stay.

    Example:
        >>> plain("gpt2\x1b[31m\u202e")
        'gpt2\\u001b[31m\\u202e'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else _code(c) for c in str(value))


def line(value: object) -> str:
    """The same on one line: any run of white space is a space."""
    return plain(" ".join(str(value).split()))


def markdown(value: object) -> str:
    r"""The same as Markdown shows it, on one line, with nothing of it taken for markup.

    Example:
        >>> print(markdown("<img src=x> *a* gpt2_small [0, 1] [b](c)"))
        \<img src=x> \*a\* gpt2_small [0, 1] [b\](c)
    """
    return _FIRST.sub(r"\1\\", escaped(line(value)))


def escaped(text: str) -> str:
    """A part of a line, with a backslash before what Markdown would take for markup."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def code(value: object) -> str:
    """The same as code in a line of Markdown, where nothing is markup but backticks."""
    shown = line(value)
    runs = [len(run) for run in re.findall("`+", shown)]
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    pad = " " if shown[:1] == "`" or shown[-1:] == "`" or not shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def counted(n: int, one: str, many: str = "") -> str:
    """A number of things, each with its own word: `1 edge`, `2,300 edges`, `0 boxes`.

    Args:
        n: How many.
        one: The word for one of them, with what stands before it, such as `held-out pair`.
        many: The word for several, `one` and an s if it is left out.

    Example:
        >>> counted(1, "live edge"), counted(2300, "edge"), counted(0, "box", "boxes")
        ('1 live edge', '2,300 edges', '0 boxes')
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def rounded(value: float, form: str = ".3g") -> str:
    """A number in a format such as `.3g`; what rounds to zero has no sign.

    Example:
        >>> rounded(-0.0004, ".2f"), rounded(-0.4, ".2f")
        ('0.00', '-0.40')
    """
    return f"{value:z{form}}"


def nats(kl: float, form: str = ".3g") -> str:
    """The same of a KL, or of a change of one: what rounding leaves below zero is zero.

    Example:
        >>> nats(-3e-8), nats(-0.02)
        ('0', '-0.02')
    """
    return rounded(0.0 if -_ROUNDING < kl < 0 else kl, form)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], n_all: int = 0) -> list[str]:
    """The lines of a Markdown table; under it, how many of `n_all` rows are left out.

    A cell stays in its cell: line breaks become spaces, and `|` is escaped. It may hold markup:
    what others wrote goes through `markdown` or `code` first.
    """
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, rows)]
    left_out = n_all - len(rows)
    return [*lines, "", f"And {left_out:,} more."] if left_out > 0 else lines


def show(text: object, error: bool = False) -> None:
    """Print to the terminal: cleaned, and what it has no letters for as its code.

    Args:
        text: Any.
        error: To standard error instead of standard output.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # closed by whoever started this
        return
    encoding = stream.encoding or "utf-8"
    tell(plain(text).encode(encoding, "backslashreplace").decode(encoding), stream)


def tell(line: str, stream: IO[str] | TextIOBase) -> None:
    """Write a line at once, into a pipe too; into one that nobody reads any more, nothing.

    A run is worth more than its lines: `train | head` goes on to its end.
    """
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:  # what is still in the buffer would raise again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}"


def _row(cells: Sequence[object]) -> str:
    texts = (re.sub(r"(?<!\\)\|", r"\\|", line(cell)) for cell in cells)
    return f"| {' | '.join(texts)} |"
