"""Agreement of two scorings: against scipy, by hand, and at its edges."""

import math

import pytest
import torch
from scipy import stats

from circuitprune.circuits.agreement import average_ranks, sign_agreement, spearman, top_overlap
from circuitprune.errors import MetricError


def scorings(seed: int, n: int = 200):
    """Two related scorings with many ties."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, generator=generator, dtype=torch.float64)
    b = a + torch.randn(n, generator=generator, dtype=torch.float64)
    return (a * 2).round(), (b * 3).round()


@pytest.mark.parametrize("seed", range(3))
def test_ranks_and_spearman_are_those_of_scipy(seed):
    a, b = scorings(seed)
    assert len(a.unique()) < 20
    assert average_ranks(a).tolist() == stats.rankdata(a.numpy()).tolist()
    expected = stats.spearmanr(a.numpy(), b.numpy()).statistic
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)
    assert 0.1 < spearman(a, b) < 0.95
    magnitude = stats.spearmanr(a.abs().numpy(), b.abs().numpy()).statistic
    assert spearman(a.abs(), b.abs()) == pytest.approx(magnitude, abs=1e-12)


def test_spearman_sees_order_alone():
    a, _ = scorings(0)
    assert spearman(a, a.exp()) == 1.0
    assert spearman(a, -a) == -1.0


def test_the_top_by_magnitude():
    a = torch.tensor([5.0, -4.0, 3.0, 2.0, 0.0])
    b = torch.tensor([-9.0, 0.0, 1.0, 8.0, 0.0])
    assert top_overlap(a, b, 0.2) == 1.0  # edge 0 and edge 0
    assert top_overlap(a, b, 0.4) == 0.5  # 0, 1 and 0, 3
    assert top_overlap(a, b, 0.001) == 1.0  # never fewer than one
    assert top_overlap(a, b, 1.0) == 1.0


def test_ties_at_the_border_come_in_the_order_of_the_graph():
    a, b = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, -1.0, 1.0])
    assert top_overlap(a, b, 1 / 3) == 0.0
    assert top_overlap(a, b.flip(0), 1 / 3) == 1.0


def test_signs_where_both_have_one():
    a = torch.tensor([1.0, -2.0, 3.0, 0.0, 5.0, -1.0])
    b = torch.tensor([2.0, 2.0, 1.0, 4.0, 0.0, -7.0])
    assert sign_agreement(a, b) == 0.75


def test_edges_that_one_side_did_not_score_are_left_out():
    a, b = scorings(4)
    gaps = torch.full((5,), math.nan, dtype=torch.float64)
    ones = torch.ones(5, dtype=torch.float64)
    wide_a, wide_b = torch.cat([gaps, a, ones]), torch.cat([-ones, b, gaps])
    assert spearman(wide_a, wide_b) == spearman(a, b)
    assert top_overlap(wide_a, wide_b, 0.1) == top_overlap(a, b, 0.1)
    assert sign_agreement(wide_a, wide_b) == sign_agreement(a, b)


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (lambda: spearman(torch.ones(4), torch.arange(4.0)), "no order"),
        (lambda: spearman(torch.ones(1), torch.ones(1)), "at least 2"),
        (lambda: spearman(torch.ones(4), torch.ones(5)), "4 and of 5 edges"),
        (lambda: top_overlap(torch.ones(4), torch.ones(4), 5.0), r"\(0, 1\], got 5"),
        (lambda: top_overlap(torch.ones(0), torch.ones(0), 0.5), "at least 1"),
        (lambda: sign_agreement(torch.tensor([0.0, 1]), torch.tensor([1.0, 0])), "no edge"),
    ],
)
def test_what_is_undefined_is_an_error(compare, message):
    with pytest.raises(MetricError, match=message):
        compare()
