"""Work tells how far it is, in whole units and in order."""

import pytest

from circuitprune.engine.gated import GatedModel
from circuitprune.engine.progress import Nested, silent, told, unwatched
from circuitprune.engine.selfcheck import self_check


class Told:
    """A `Progress` that remembers what it was told, and its total."""

    def __init__(self):
        self.done, self.totals = [], set()

    def __call__(self, done, total):
        self.done.append(done)
        self.totals.add(total)


def test_items_are_told_when_the_next_is_asked_for():
    progress, seen = Told(), []
    for item in told("abc", progress):
        seen.append((item, progress.done[-1]))
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    assert progress.done == [0, 1, 2, 3] and progress.totals == {3}


def test_a_part_counts_as_its_share_of_the_whole():
    whole = Told()
    nested = Nested(whole)
    nested(256, 1000)
    for done in (128, 512):  # two batches of 256 edges
        nested.part(256)(done, 512)
    assert whole.done == [256, 320, 512] and whole.totals == {1000}


def test_nobody_need_listen():
    assert unwatched("work", "parts") is silent
    assert list(told([1, 2], silent)) == [1, 2]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_self_check_tells_of_every_check(family, tiny_model):
    progress = Told()
    self_check(GatedModel(tiny_model(family)), progress=progress)
    assert progress.done == list(range(7)) and progress.totals == {6}
