"""Targets by hand, and multipliers that move the way a constraint needs."""

import pytest
import torch
from torch.testing import assert_close

from circuitprune.errors import ConfigError
from circuitprune.training.density import (
    PENALTIES,
    DensitySchedule,
    FixedPenalty,
    Lagrangian,
    make_penalty,
)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.0), (1, 0.905), (5, 0.525), (10, 0.05), (11, 0.05), (999, 0.05)]
)
def test_the_target_moves_linearly_and_stays(step, expected):
    assert DensitySchedule(start=1.0, end=0.05, warmup=10)(step) == pytest.approx(expected)


def test_the_target_may_rise():
    assert DensitySchedule(start=0.1, end=0.5, warmup=4)(3) == pytest.approx(0.4)


@pytest.mark.parametrize("step", [0, 1, 50])
def test_without_warmup_the_target_is_the_end(step):
    assert DensitySchedule(start=1.0, end=0.2, warmup=0)(step) == pytest.approx(0.2)


@pytest.mark.parametrize(("start", "end"), [(1.1, 0.5), (0.5, -0.1), (-0.1, 0.5), (0.5, 1.2)])
def test_densities_outside_0_to_1_are_errors(start, end):
    with pytest.raises(ConfigError, match=rf"\[0, 1\], got {start} to {end}"):
        DensitySchedule(start, end, 10)


@pytest.mark.parametrize(("density", "target"), [(0.7, 0.2), (0.1, 0.4), (0.3, 0.3)])
def test_the_lagrangian_is_its_formula(density, target):
    penalty = Lagrangian()
    assert_close(penalty(torch.tensor(density), target), torch.tensor(0.0))
    penalty.multipliers.data = torch.tensor([2.0, 3.0])
    gap = density - target
    expected = torch.tensor(2 * gap + 3 * gap**2)
    assert_close(penalty(torch.tensor(density), target), expected)


def ascend(density, target, steps=20):
    """Multipliers after Adam has maximised the penalty of a density that does not move."""
    penalty = Lagrangian()
    optimizer = torch.optim.Adam(penalty.parameters(), lr=0.1, maximize=True)
    for _ in range(steps):
        optimizer.zero_grad()
        penalty(torch.tensor(density), target).backward()
        optimizer.step()
    return penalty


@pytest.mark.parametrize(("density", "target", "sign"), [(0.8, 0.1, 1), (0.1, 0.8, -1)])
def test_multipliers_grow_against_a_violation_of_either_sign(density, target, sign):
    penalty = ascend(density, target)
    first, second = penalty.multipliers.tolist()
    assert sign * first > 1 and second > 1
    moving = torch.tensor(density, requires_grad=True)
    penalty(moving, target).backward()
    assert sign * moving.grad > 0  # descent closes the gap


def test_multipliers_rest_where_the_target_is_met():
    assert_close(ascend(0.3, 0.3).multipliers.detach(), torch.zeros(2))


def test_a_lagrangian_drives_a_density_to_its_target():
    penalty, logit = Lagrangian(), torch.tensor(3.0, requires_grad=True)
    groups = [{"params": [logit]}, {"params": penalty.parameters(), "maximize": True}]
    optimizer = torch.optim.Adam(groups, lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        penalty(logit.sigmoid(), 0.2).backward()
        optimizer.step()
    assert abs(logit.sigmoid().item() - 0.2) < 0.05


@pytest.mark.parametrize(
    ("density", "value", "slope"), [(0.7, 1.2, 4.0), (0.5, 0.4, 4.0), (0.3, 0.0, 0.0)]
)
def test_a_fixed_penalty_charges_only_above_the_target(density, value, slope):
    at = torch.tensor(density, requires_grad=True)
    price = FixedPenalty(4.0)(at, 0.4)
    price.backward()
    assert_close(price.detach(), torch.tensor(value))
    assert_close(at.grad, torch.tensor(slope))


def test_penalties_by_name():
    assert PENALTIES == ("lagrangian", "fixed")
    assert isinstance(make_penalty("lagrangian", 1.0), Lagrangian)
    fixed = make_penalty("fixed", 3.0)
    assert isinstance(fixed, FixedPenalty) and fixed.weight == 3.0
    assert list(fixed.parameters()) == []  # nothing to learn, so nothing to ascend
    with pytest.raises(ConfigError, match="one of lagrangian, fixed, got 'l0'"):
        make_penalty("l0", 1.0)
