"""One set of colours, marks and names in the page, in figures, TensorBoard and DOT."""

import re
from importlib.resources import files

import pytest

from circuitprune.circuits.layout import KIND_COLOURS, KIND_NAMES

pytest.importorskip("matplotlib")
from circuitprune.views.figures import completeness, style

MARKS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "down": "v", "plus": "P"}
"""Names of marks on the page, and matplotlib's."""
PAGE = files("circuitprune.views.report")


def text(name):
    return (PAGE / name).read_text(encoding="utf-8")


def light():
    """Colours of the page by their names, in light."""
    first = text("report.css").split("}")[0]
    return dict(re.findall(r"--([\w-]+): (#\w+);", first))


def test_ports_have_one_colour_and_one_name():
    assert {kind: light()[kind] for kind in KIND_COLOURS} == KIND_COLOURS
    found = re.search(r"KIND_NAMES = \{(.*?)\}", text("report.js"), re.DOTALL)
    assert dict(re.findall(r'(\w+): "(\w+)"', found[1])) == KIND_NAMES


def test_runs_have_one_colour_and_one_mark():
    assert tuple(light()[f"run{i}"] for i in range(6)) == style.COLOURS
    found = re.search(r"RUN_SHAPES = \[(.*?)\]", text("frontier.js"), re.DOTALL)
    assert tuple(MARKS[name] for name in re.findall(r'"(\w+)"', found[1])) == style.MARKS


def test_knock_outs_have_one_name_mark_and_colour():
    found = re.search(r"const FAMILIES = \{(.*?)\n\};", text("figures.js"), re.DOTALL)
    rows = re.findall(r'(\w+): \["(.*?)", "(\w+)"\]', found[1])
    colours = dict(
        re.findall(r"\.family-(\w+) > [^{]*\{\s*fill: var\(--([\w-]+)\)", text("figures.css"))
    )
    assert {
        family: (name, MARKS[mark], light()[colours[family]]) for family, name, mark in rows
    } == completeness.FAMILIES
