"""Sides have the sizes asked for, and what belongs together stays together."""

import pytest
from pairs import examples_of, pair

from circuitprune.data.encoding import Example
from circuitprune.data.splits import counts, split
from circuitprune.errors import DataError


def names(side):
    return {example.pair.id for example in side}


@pytest.mark.parametrize("sizes", [(6, 2, 2), (10, 0, 0), (0, 0, 3), (5, 0, 5), (1, 1, 1)])
def test_sides_have_the_sizes_asked_for_and_share_nothing(sizes):
    sides = split(examples_of(10), *sizes, seed=0)
    assert tuple(len(sides[name]) for name in ("train", "val", "test")) == sizes
    assert len(set.union(*map(names, sides.values()))) == sum(sizes)


def test_the_seed_decides_the_split():
    one, same, other = (split(examples_of(30), 10, 10, 10, seed=s) for s in (0, 0, 1))
    assert one == same
    assert names(one["train"]) != names(other["train"])


@pytest.mark.parametrize("seed", range(10))
def test_pairs_that_share_a_clean_prompt_or_are_mirror_images_stay_together(seed):
    a, b, c, d = ((1, 2), (3, 4), (5, 6), (7, 8))
    tied = [Example(pair(), x, y, (7,), (8,)) for x, y in [(a, b), (a, c), (c, a), (d, b)]]
    sides = split([*tied, *examples_of(8)], 6, 3, 3, seed=seed)
    where = [next(name for name in sides if example in sides[name]) for example in tied]
    assert where[0] == where[1] == where[2]


@pytest.mark.parametrize("seed", range(10))
def test_a_split_by_group_never_parts_a_group(seed):
    sides = split(examples_of(60, group=lambda i: f"g{i % 6}"), 20, 10, 10, seed=seed, by="group")
    groups = [{example.pair.group for example in side} for side in sides.values()]
    assert [len(side) for side in sides.values()] == [20, 10, 10]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_a_split_by_pair_may_part_a_group():
    sides = split(examples_of(60, group=lambda i: f"g{i % 6}"), 20, 20, 20, seed=0)
    assert {e.pair.group for e in sides["train"]} & {e.pair.group for e in sides["test"]}


@pytest.mark.parametrize(
    ("sizes", "by", "message"),
    [
        ((-1, 0, 1), "pair", "n_train must be 0 or more, got -1"),
        ((1, -2, 1), "pair", "n_val must be 0 or more, got -2"),
        ((0, 0, 0), "pair", "all 0"),
        ((9, 1, 1), "pair", "10 examples .* cannot be split by pair"),
        ((4, 1, 1), "group", "in 2 inseparable sets cannot be split by group"),
        ((1, 1, 1), "template", "by 'pair' or by 'group', got 'template'"),
    ],
)
def test_a_split_that_cannot_be(sizes, by, message):
    with pytest.raises(DataError, match=message):
        split(examples_of(10, group=lambda i: f"g{i % 2}"), *sizes, seed=0, by=by)


def test_a_split_by_group_needs_groups():
    with pytest.raises(DataError, match="2 of 10 pairs have no group, such as 'p0'"):
        split(examples_of(10, group=lambda i: "g" * (i > 1)), 4, 0, 0, seed=0, by="group")


@pytest.mark.parametrize(
    ("wanted", "n_pairs", "expected"),
    [
        ([5, 0, 7], 3, [5, 0, 7]),
        ([0.5, 0, 0.25], 61, [30, 0, 15]),
        (["auto", 0, "auto"], 61, [31, 0, 30]),
        (["auto", 10, 0.5], 60, [20, 10, 30]),
        (["auto", 70, "auto"], 60, [0, 70, 0]),
    ],
)
def test_sizes_may_be_fractions_and_shares(wanted, n_pairs, expected):
    assert counts(wanted, n_pairs) == expected
