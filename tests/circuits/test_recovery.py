"""Recovery of a known circuit against scipy, double loops and numbers worked by hand."""

import math

import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import tensor
from torch.testing import assert_close

from circuitprune.circuits.recovery import (
    auroc,
    average_precision,
    circuit_recovery,
    precision_recall,
    recovery,
    roc,
)
from circuitprune.errors import MetricError

FEW_VALUES, MANY_VALUES = 4, 10_000


def sample(seed: int, n_values: int, n: int = 40):
    """Scores with many or hardly any ties, and a reference with both kinds of edges."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(n_values, (n,), generator=generator).double() - n_values / 2
    reference = torch.rand(n, generator=generator) < 0.3
    reference[:2] = tensor([True, False])
    return scores, reference


many_samples = pytest.mark.parametrize(
    ("seed", "n_values"), [(s, v) for s in range(4) for v in (FEW_VALUES, MANY_VALUES)]
)


def slow_auroc(scores, reference):
    """Wins of positives over negatives, one pair at a time; a tie is half a win."""
    wins = pairs = 0
    for a, positive in zip(scores.tolist(), reference.tolist(), strict=True):
        for b, other in zip(scores.tolist(), reference.tolist(), strict=True):
            if positive and not other:
                pairs += 1
                wins += 1 if a > b else 0.5 if a == b else 0
    return wins / pairs


def slow_counts(scores, reference, threshold):
    """Edges of at least the threshold: how many of the reference, how many others."""
    taken = [bool(r) for s, r in zip(scores.tolist(), reference, strict=True) if s >= threshold]
    return sum(taken), len(taken) - sum(taken)


@many_samples
def test_auroc_is_mann_whitneys_statistic_and_the_share_of_won_pairs(seed, n_values):
    scores, reference = sample(seed, n_values)
    u = mannwhitneyu(scores[reference].numpy(), scores[~reference].numpy()).statistic
    n_pairs = int(reference.sum()) * int((~reference).sum())
    assert auroc(scores, reference) == pytest.approx(u / n_pairs, abs=1e-12)
    assert auroc(scores, reference) == pytest.approx(slow_auroc(scores, reference), abs=1e-12)


@many_samples
def test_the_area_under_the_curve_is_the_auroc(seed, n_values):
    scores, reference = sample(seed, n_values)
    curve = roc(scores, reference)
    area = torch.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert float(area) == pytest.approx(auroc(scores, reference), abs=1e-12)
    assert_close(curve.true_positive_rate[[0, -1]], tensor([0.0, 1.0]).double())
    assert_close(curve.false_positive_rate[[0, -1]], tensor([0.0, 1.0]).double())


@many_samples
def test_every_point_is_what_counting_gives(seed, n_values):
    scores, reference = sample(seed, n_values)
    n_true, n_false = int(reference.sum()), int((~reference).sum())
    curve, points = roc(scores, reference), precision_recall(scores, reference)
    assert len(points.thresholds) == len(set(scores.tolist())) == len(curve.thresholds) - 1
    for i, threshold in enumerate(points.thresholds.tolist()):
        hits, misses = slow_counts(scores, reference, threshold)
        assert curve.thresholds[i + 1] == threshold
        assert curve.true_positive_rate[i + 1] == pytest.approx(hits / n_true)
        assert curve.false_positive_rate[i + 1] == pytest.approx(misses / n_false)
        assert points.recall[i] == pytest.approx(hits / n_true)
        assert points.precision[i] == pytest.approx(hits / (hits + misses))


@pytest.mark.parametrize("seed", range(3))
def test_without_ties_average_precision_is_the_mean_precision_at_each_hit(seed):
    scores, reference = sample(seed, MANY_VALUES)
    assert len(scores.unique()) == len(scores)
    precisions = []
    for threshold in scores[reference].tolist():
        hits, misses = slow_counts(scores, reference, threshold)
        precisions.append(hits / (hits + misses))
    expected = sum(precisions) / len(precisions)
    assert average_precision(scores, reference) == pytest.approx(expected, abs=1e-12)


def test_numbers_worked_by_hand():
    # in order + - + with a tie of - and + at the end: pairs won 2 + 1.5 + 0.5 of 6
    scores = tensor([5.0, 4.0, 3.0, 2.0, 2.0])
    reference = tensor([True, False, True, False, True])
    assert auroc(scores, reference) == pytest.approx((2 + 1 + 0.5) / 6)
    by_hand = 1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 5
    assert average_precision(scores, reference) == pytest.approx(by_hand)
    found = recovery(scores, reference)
    assert found["precision_at_size"] == pytest.approx(2 / 3)
    assert found["auroc"] == auroc(scores, reference)


@pytest.mark.parametrize(
    ("scores", "expected"), [([2.0, 1.0, 0.0], 1.0), ([0.0, 1.0, 2.0], 0.0), ([7.0, 7.0, 7.0], 0.5)]
)
def test_perfect_reversed_and_blind(scores, expected):
    assert auroc(tensor(scores), tensor([True, False, False])) == expected


def test_scores_that_are_missing_rank_last():
    reference = tensor([True, False, False])
    assert auroc(tensor([math.nan, -5.0, 1.0]), reference) == 0.0
    assert auroc(tensor([0.0, math.nan, math.nan]), reference) == 1.0


def test_order_is_all_that_counts():
    scores, reference = sample(0, MANY_VALUES)
    assert auroc(scores.exp() if scores.max() < 100 else scores * 1e-4, reference) == auroc(
        scores, reference
    )
    assert auroc(-scores, reference) == pytest.approx(1 - auroc(scores, reference))


def test_a_circuit_against_the_reference():
    reference = tensor([True, True, False, False])
    found = tensor([True, False, True, True])
    assert circuit_recovery(found, reference) == {
        "precision": 1 / 3,
        "recall": 1 / 2,
        "jaccard": 1 / 4,
    }
    assert circuit_recovery(reference, reference) == dict.fromkeys(
        ("precision", "recall", "jaccard"), 1.0
    )
    assert circuit_recovery(~(reference | ~reference), reference)["precision"] == 0


@pytest.mark.parametrize("function", [auroc, roc, precision_recall, average_precision, recovery])
def test_what_cannot_be_compared_is_refused(function):
    with pytest.raises(MetricError, match="reference of 4 edges"):
        function(torch.zeros(3), torch.ones(4, dtype=torch.bool))
    for fill in (True, False):
        with pytest.raises(MetricError, match="nothing to tell apart"):
            function(torch.zeros(3), torch.full((3,), fill))
