"""Targets as text, and bisection against looking at every size."""

import pytest

from circuitprune.errors import ConfigError
from circuitprune.training.target import Target, smallest


@pytest.mark.parametrize("text", ["kl<=0.1", "faithfulness>=0.95", "accuracy>=1", "metric>=-2.5"])
def test_a_target_is_read_and_said_again(text):
    assert str(Target.read(text)) == text
    assert Target.read(f" {text.replace('=', '= ')} ") == Target.read(text)


@pytest.mark.parametrize(
    "text", ["", "kl", "kl>=0.1", "accuracy<=0.5", "kl<0.1", "size<=3", "kl<=x", "kl<=nan"]
)
def test_what_is_no_target_is_refused(text):
    with pytest.raises(ConfigError, match=r"gates\.target"):
        Target.read(text)


def test_limits_are_kept_up_to_themselves():
    low, high = Target.read("kl<=0.1"), Target.read("exact_match>=0.9")
    assert low.holds(0.1) and not low.holds(0.1001) and not low.holds(None)
    assert high.holds(0.9) and not high.holds(0.8999)


@pytest.mark.parametrize("n_edges", [1, 2, 37, 1000])
def test_bisection_finds_what_looking_at_every_size_finds(n_edges):
    for needed in range(1, n_edges + 1, max(1, n_edges // 50)):
        asked = []

        def value_of(size, needed=needed, asked=asked):
            asked.append(size)
            return 1.0 if size < needed else 0.01

        assert smallest(Target.read("kl<=0.1"), n_edges, value_of) == needed
        assert len(asked) <= 12 and set(asked) <= set(range(1, n_edges + 1))


def test_where_evidence_goes_up_and_down_one_edge_less_does_not_reach():
    values = {n: (n * 7919 % 101) / 100 for n in range(1, 201)} | {200: 0.0}
    found = smallest(Target.read("kl<=0.3"), 200, values.__getitem__)
    assert values[found] <= 0.3 and (found == 1 or values[found - 1] > 0.3)


def test_nothing_reaches_what_the_model_does_not():
    assert smallest(Target.read("accuracy>=0.99"), 50, lambda n: n / 100) is None
    assert smallest(Target.read("faithfulness>=0.5"), 50, lambda n: None) is None
