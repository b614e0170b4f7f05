"""No text says "1 edges": a number of things is said by `counted`, in Python and on the page."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "circuitprune"
PYTHON, SCRIPTS = sorted(PACKAGE.rglob("*.py")), sorted(PACKAGE.rglob("*.js"))

VERBS = {
    "and",
    "at",
    "beside",
    "by",
    "deals",
    "for",
    "generates",
    "has",
    "holds",
    "into",
    "makes",
    "names",
    "needs",
    "of",
    "on",
    "puts",
    "runs",
    "scores",
    "stand",
    "takes",
    "the",
    "Known",
    "Shipped",
}
"""What makes no count of a value and a plural: `ioi makes pairs`, `three of edges`."""
ALSO = ("token", "prompt", "layer", "span", "group", "file", "change", "second", "minute")
"""Words that are counted nowhere today."""
NO_NUMBERS = {
    "' + '.join(map(str, asked))",
    "config.gates.learner",
    "setup.held_out",
    "split",
    "whole / n",
}
"""Values that name something, as in `val pairs`, a sum, or a mean, of which 1.0 is a plural."""
HOLE = "\0"


@cache
def counted_words() -> set[str]:
    """Everything that some text counts, in the plural."""
    found = {f"{one}s" for one in ALSO}
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "counted":
                last = node.args[-1]
                if isinstance(last, ast.Constant):
                    text = last.value.split()[-1]
                    found.add(text if len(node.args) == 3 else f"{text}s")
    for path in SCRIPTS:
        calls = re.findall(
            r"counted\([^\"`\n]*[\"`](?:[^\"`]*\s)?([\w-]+)[\"`]\)", path.read_text()
        )
        found |= {f"{one}s" for one in calls}
    return found


def plural(words: set[str]) -> re.Pattern[str]:
    """A hole, at most two words, and a word in the plural."""
    return re.compile(rf"{HOLE} ((?:[\w'-]+ |{HOLE} ){{0,2}})((?:{'|'.join(sorted(words))})\b)")


def holes(node: ast.JoinedStr) -> Iterator[tuple[str, str | None]]:
    """The pieces of an f-string: its text, and what stands in each hole."""
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            yield HOLE, ast.unparse(part.value)
        else:
            yield part.value, None


def said_by_hand(source: str, pattern: re.Pattern[str]) -> list[str]:
    """Counts of f-strings that stand before a plural whatever they are."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        text = "".join(piece for piece, _ in holes(node))
        values = [value for _, value in holes(node) if value is not None]
        for match in pattern.finditer(text):
            n = text[: match.start()].count(HOLE)
            if VERBS & {*match[1].split()} or is_no_count(values[n]):
                continue
            found.append(f"line {node.lineno}: {{{values[n]}}} {match[1]}{match[2]}")
    return found


def is_no_count(value: str) -> bool:
    """Whether it names something, or is a constant of ours, which is not 1, or counted already."""
    return value.startswith("counted(") or value in NO_NUMBERS or value.partition("[")[0].isupper()


def test_f_strings_count_by_the_one_function():
    pattern = plural(counted_words())
    found = {str(path): said_by_hand(path.read_text(), pattern) for path in PYTHON}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_templates_of_the_page_count_by_the_one_function():
    """A name in a hole, such as `counted(...)`, may be followed by anything but a plural."""
    hole = re.compile(r"\$\{((?:[^{}`]|\{[^{}]*\}|`[^`]*`)*)\}")
    pattern = plural(counted_words())
    found = []
    for path in SCRIPTS:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for _ in range(3):  # templates in templates, the innermost first
                line = hole.sub(HOLE, line)
            matches = (m for m in pattern.finditer(line) if not VERBS & {*m[1].split()})
            found += [f"{path.name}:{number} {match[0][1:]}" for match in matches]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        'f"{n} edges"',
        'f"{len(kept):,} kept edges of the model"',
        'f"on {n} " f"held-out {split} pairs"',
        'f"{n} {split} pairs"',
    ],
)
def test_the_scan_finds_what_it_is_for(source):
    assert said_by_hand(source, plural({"edges", "pairs"}))


@pytest.mark.parametrize("source", ['f"{split} pairs"', 'f"{FEW} pairs"', 'f"{name} makes pairs"'])
def test_the_scan_leaves_alone_what_counts_nothing(source):
    assert not said_by_hand(source, plural({"edges", "pairs"}))
