"""What stands in the documents: pages, links, headings, code blocks, commands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("benchmarks/*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]

FENCE = re.compile(r"^( *)```([\w{}-]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n)\n((?:    [^\n]*\n)+)")
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
COMMAND = re.compile(r"(?:\bcircuitprune +([a-z-]+)|\bscripts/(\w+)\.py)((?: +[^|\n]*)?)")


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str


class Command(NamedTuple):
    """A mention of one of our commands, with what follows it on the line."""

    name: str
    """As in `cli.COMMANDS`; of a script, the file's name."""
    script: bool
    arguments: list[str]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for indent, language, body in FENCE.findall(text):
        lines = [line.removeprefix(indent) for line in body.splitlines(keepends=True)]
        found.append(Block(language, "".join(lines)))
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Targets of links and images outside of code."""
    return [a or b for a, b in LINK.findall(INLINE.sub("", prose(text)))]


def anchors(text: str) -> set[str]:
    """What `#...` may name on a page, as GitHub and MyST make it of the headings."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", "")).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def code(text: str) -> Iterator[str]:
    """Lines of code, wherever they stand: fenced but for Python and JSON, indented, in a line."""
    for block in blocks(text):
        if block.language in ("", "sh", "text"):
            yield from block.text.replace("\\\n", " ").splitlines()
    rest = prose(text)
    for block in INDENTED.findall(rest):
        yield from block.splitlines()
    yield from (re.sub(r"\s+", " ", span) for span in INLINE.findall(INDENTED.sub("\n", rest)))


def commands(text: str) -> Iterator[Command]:
    """Mentions of `circuitprune NAME` and `scripts/NAME.py` in code."""
    for line in code(text):
        for found in COMMAND.finditer(line):
            command, script, rest = found.groups()
            rest = re.split(r"\s#|;|,? then ", rest)[0]
            yield Command(script or command, script is not None, shlex.split(rest))
