"""Every method tells how far it is, by the number of passes that its record says."""

import pytest
import torch

from attribution.test_attribution import by_logit_diff, pairs, patched
from circuitprune.attribution import METHODS, per_example
from circuitprune.attribution.methods import names_with
from circuitprune.attribution.passes import watched

every_method = pytest.mark.parametrize("name", sorted({*names_with("function")} - {"random"}))
"""But for the one that looks at no pair."""
pytestmark = pytest.mark.usefixtures("untyped")  # the same calls as in test_attribution.py


class Watched:
    """A `Watch` that remembers every piece of work and what it was told of it."""

    def __init__(self):
        self.told = {}

    def __call__(self, what, unit):
        calls = self.told.setdefault((what, unit), [])
        return lambda done, total: calls.append((done, total))


@pytest.fixture
def references(tiny_model):
    return patched(tiny_model("gpt2"))


def asked(name, references, watch, steps=(2,), **options):
    graph, batches = references.gated.graph, [pairs([0, 1]), pairs([2])]
    return watched(
        METHODS[name], graph, batches, by_logit_diff, steps, watch, "attribution", **options
    )


@every_method
def test_a_method_takes_the_passes_that_its_record_says(name, references):
    method, watch = METHODS[name], Watched()
    batches, metric = asked(name, references, watch)
    found = method.score(references, batches, metric, 2)
    unit, first = ("batches", 0) if method.passes is None else ("passes", 1)
    calls = watch.told["attribution", unit]
    total = calls[-1][1]
    assert calls == [(done, total) for done in range(first, total + 1)]
    assert (total == 2) == (method.passes is None or method.passes(references.gated.graph, 2) == 1)
    plain = method.score(references, [pairs([0, 1]), pairs([2])], by_logit_diff, 2)
    assert torch.equal(found, plain)


def test_more_steps_are_more_passes(references):
    graph = references.gated.graph
    for name in names_with("steps"):
        few, many = (METHODS[name].passes(graph, steps) for steps in (1, 2))
        assert few < many, name


@pytest.mark.parametrize(("name", "last"), [("eap", 3), ("gate_ig", 6), ("magnitude", 2)])
def test_each_pair_alone_is_told_too(name, last, references):
    watch = Watched()
    batches, metric = asked(name, references, watch, alone=True)
    per_example(METHODS[name].score, references, batches, metric, 2)
    (calls,) = watch.told.values()
    assert calls[-1] == (last, last)


def test_several_calls_are_one_piece_of_work(references):
    watch = Watched()
    batches, metric = asked("gate_ig", references, watch, steps=(2, 4))
    for steps in (2, 4):
        METHODS["gate_ig"].score(references, batches, metric, steps)
    assert watch.told["attribution", "passes"][-1] == (12, 12)


def test_batches_that_tell_are_batches_to_any_method(references):
    """A method of one's own may count them, or go through them again."""
    watch = Watched()
    batches, metric = asked("magnitude", references, watch)
    assert len(batches) == 2 and len(batches[1]) == 1 and metric is by_logit_diff
    assert [len(batch) for batch in batches] == [len(batch) for batch in batches] == [2, 1]
    assert watch.told["attribution", "batches"] == 2 * [(0, 2), (1, 2), (2, 2)]
