"""What every kind of evidence has in common."""

import pytest
from evidence_cases import tiny_case

from circuitprune.evidence import EVIDENCE


@pytest.mark.parametrize("name", EVIDENCE)
def test_every_kind_of_evidence_tells_how_far_it_is(name):
    """Each piece of work in order, under one total; a search alone may end before it."""
    pieces = {}

    def watch(what, unit):
        return lambda *told: pieces.setdefault((what, unit), []).append(told)

    EVIDENCE[name](
        tiny_case(watch=watch, n_bootstrap=10, n_random=3, n_knockouts=4, n_adversarial=2)
    )
    assert pieces
    for (what, _), calls in pieces.items():
        assert calls == sorted(calls) and len({total for _, total in calls}) == 1
        assert calls[-1][0] == calls[-1][1] or what == "greedy"
