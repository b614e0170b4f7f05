"""Coloured objects: the answer is the colour that the prompt gives the object asked for."""

import re
from itertools import islice
from random import Random

import pytest

from circuitprune.data.tasks.colored_objects import SHOT, ColoredObjects
from circuitprune.data.tasks.pair import CHOICES
from circuitprune.errors import DataError


def read(text):
    """The colours by object of the last question, and the object asked for."""
    question = text.removeprefix(SHOT)
    things, asked = question.split(". What color is the ")
    found = re.findall(r"\b(an?) (\w+) (\w+)(?:,|$)", things)
    assert all((article == "an") == (color[0] in "aeiou") for article, color, _ in found)
    return {thing: color for _, color, thing in found}, asked.removesuffix("?\nA:")


@pytest.mark.parametrize("kind", ColoredObjects().corruptions)
def test_the_answer_is_the_colour_of_what_is_asked_for(kind):
    places = set()
    for pair in islice(ColoredObjects().pairs(Random(1), kind), 90):
        colors, asked = read(pair.clean)
        others, other = read(pair.corrupt)
        assert len(colors) == 3 and pair.clean.startswith(SHOT) and pair.group == asked
        assert pair.answers == (f" {colors[asked].capitalize()}",)
        assert pair.wrong == (f" {others[other].capitalize()}",) != pair.answers
        assert {*pair.meta[CHOICES].split("|")} == {f" {c.capitalize()}" for c in colors.values()}
        assert [*colors] == [*others] and {*colors.values()} == {*others.values()}
        assert (other != asked) == (kind == "other_object") == (colors == others)
        places.add([*colors].index(asked))
    assert places == {0, 1, 2}


def test_too_few_words_are_told():
    with pytest.raises(DataError, match="at least 3 objects and 3 colours"):
        ColoredObjects(colors=("red", "blue"))
