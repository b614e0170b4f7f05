"""Bootstrap intervals against scipy with the same resamples, against loops, and their coverage."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from circuitprune.errors import MetricError
from circuitprune.evidence.bootstrap import UNDEFINED, Bootstrap, Interval, finite, ratio, spell


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def three(n=40, seed=0):
    drawn = torch.randn(3, n, dtype=torch.float64, generator=generator(seed))
    return drawn[0] + 1, drawn[1] + 3, drawn[2]


def scipy_resamples(n, n_resamples, seed):
    """The positions that scipy.stats.bootstrap draws from a generator of this seed."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, n, (n_resamples, n)))


def scipy_interval(data, statistic, n_resamples, seed, **kw):
    result = stats.bootstrap(
        data,
        statistic,
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
        vectorized=False,
        **kw,
    )
    return result.confidence_interval


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_mean_is_scipys_on_the_same_resamples(level):
    values = three()[0]
    found = Bootstrap.of_indices(scipy_resamples(40, 500, seed=1), level).mean(values)
    low, high = scipy_interval((values.numpy(),), np.mean, 500, 1, confidence_level=level)
    assert found.low == pytest.approx(low, rel=1e-12)
    assert found.high == pytest.approx(high, rel=1e-12)
    assert found.value == pytest.approx(values.mean().item())


def test_faithfulness_is_scipys_to_monte_carlo_error():
    circuit, full, empty = three(n=200)

    def statistic(c, f, e):
        return (c.mean() - e.mean()) / (f.mean() - e.mean())

    data = tuple(v.numpy() for v in (circuit, full, empty))
    low, high = scipy_interval(data, statistic, 4000, 1, paired=True)
    found = Bootstrap.draw(200, 4000, generator()).faithfulness(circuit, full, empty)
    spread = (high - low) / 4  # a standard error; a quantile of 4000 is off by about 4 % of it
    assert found.low == pytest.approx(low, abs=0.2 * spread)
    assert found.high == pytest.approx(high, abs=0.2 * spread)


def test_every_statistic_is_that_of_the_resampled_pairs():
    circuit, full, empty = three(n=7)
    full[2] = empty[2]  # no ratio of its own
    indices = torch.randint(7, (50, 7), generator=generator())
    bootstrap = Bootstrap.of_indices(indices)
    means, ratios, medians = [], [], []
    for row in indices.tolist():
        c, f, e = (sum(v[i].item() for i in row) / 7 for v in (circuit, full, empty))
        means.append((c - e) / (f - e))
        own = [((circuit[i] - empty[i]) / (full[i] - empty[i])).item() for i in row if i != 2]
        ratios.append(sum(own) / len(own))
        medians.append(np.median(own))
    slow_ones = {"faithfulness": means, "median_of_ratios": medians, "mean_of_ratios": ratios}
    for name, slow in slow_ones.items():
        found = getattr(bootstrap, name)(circuit, full, empty)
        assert found.low == pytest.approx(np.quantile(slow, 0.025), rel=1e-9)
        assert found.high == pytest.approx(np.quantile(slow, 0.975), rel=1e-9)
    kept = [i for i in range(7) if i != 2]
    own = ((circuit - empty) / (full - empty))[kept]
    assert found.value == pytest.approx(own.mean().item())
    middle = bootstrap.median_of_ratios(circuit, full, empty)
    assert middle.value == pytest.approx(np.median(own.numpy()))


def test_ratio_of_means_and_mean_of_ratios_differ_where_pairs_do():
    full = torch.tensor([10.0, 1.0], dtype=torch.float64)
    circuit, empty = torch.tensor([10.0, 0.0]).double(), torch.zeros(2).double()
    bootstrap = Bootstrap.draw(2, 10, generator())
    assert bootstrap.faithfulness(circuit, full, empty).value == pytest.approx(10 / 11)
    assert bootstrap.mean_of_ratios(circuit, full, empty).value == pytest.approx(0.5)


def test_intervals_cover_the_mean_as_often_as_they_say():
    covered, trials = 0, 400
    for seed in range(trials):
        values = torch.randn(60, dtype=torch.float64, generator=generator(seed))
        found = Bootstrap.draw(60, 300, generator(1000 + seed)).mean(values)
        covered += found.low <= 0 <= found.high
    assert 0.90 < covered / trials < 0.97


def test_what_is_undefined_is_none():
    values = torch.ones(4, dtype=torch.float64)
    bootstrap = Bootstrap.draw(4, 20, generator())
    assert bootstrap.faithfulness(values, values, values) == UNDEFINED
    assert bootstrap.mean_of_ratios(values, values, values) == UNDEFINED
    assert bootstrap.median_of_ratios(values, values, values) == UNDEFINED
    assert spell(UNDEFINED) == "undefined"
    assert not UNDEFINED.exceeds(0.0) and not UNDEFINED.is_at_most(0.0)
    with pytest.raises(MetricError, match="not finite"):
        bootstrap.mean(values / 0)
    assert finite(math.inf) is None and finite(1.0) == 1.0
    assert ratio(values, 1e-9 * values, values).isnan().all()


def test_a_resample_that_is_undefined_is_left_out():
    """Of two pairs one has no span: the resamples of it alone have no ratio, and are not 0."""
    full, circuit = torch.tensor([2.0, 0.0]).double(), torch.tensor([1.0, 5.0]).double()
    empty = torch.zeros(2, dtype=torch.float64)
    every = Bootstrap.of_indices(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]))
    known = np.quantile([0.5, 3.0, 3.0], [0.025, 0.975])
    found = every.faithfulness(circuit, full, empty)
    assert (found.value, found.low, found.high) == pytest.approx((3.0, *known))
    own = every.mean_of_ratios(circuit, full, empty)
    assert (own.value, own.low, own.high) == pytest.approx((0.5, 0.5, 0.5))
    middle = every.median_of_ratios(circuit, full, empty)
    assert (middle.value, middle.low, middle.high) == pytest.approx((0.5, 0.5, 0.5))
    nowhere = every.interval(1.0, torch.tensor([math.nan, math.inf]).double())
    assert nowhere == Interval(1.0, None, None)
    assert every.interval(math.nan, torch.ones(4).double()) == UNDEFINED


def test_a_limit_is_exceeded_by_more_than_itself():
    interval = Interval(0.5, 0.4, 0.6)
    assert interval.exceeds(0.39) and not interval.exceeds(0.4) and not interval.exceeds(0.5)
    assert interval.is_at_most(0.6) and not interval.is_at_most(0.59)


def test_a_span_is_nothing_at_a_millionth_of_what_it_is_between():
    gained, size = torch.ones(3).double(), torch.full((3,), 1e6).double()
    found = ratio(gained, torch.tensor([1.0, -1.0, 1.1]).double(), size)
    assert found[:2].isnan().all() and found[2] == pytest.approx(1 / 1.1)


def test_an_interval_is_spelled():
    assert spell(Interval(0.934, 0.9, 0.96)) == "0.93 [0.90, 0.96]"
    assert spell(Interval(0.934, None, None)) == "0.93"
    assert spell(Interval(-1e-4, -2e-3, 1e-9)) == "0.00 [0.00, 0.00]"


def test_rows_of_weights_add_up_to_one():
    weights = Bootstrap.draw(9, 30, generator()).weights
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(30, dtype=torch.float64))


def test_one_pair_has_no_interval():
    """Every resample of it is itself: an interval without width would pass any verdict."""
    bootstrap = Bootstrap.draw(1, 50, torch.Generator().manual_seed(0))
    ends = (torch.tensor([value], dtype=torch.float64) for value in (0.9, 1.0, 0.0))
    assert bootstrap.faithfulness(*ends) == Interval(0.9, None, None)
