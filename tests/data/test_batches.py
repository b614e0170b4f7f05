"""Padding, answer positions, and the order in which training draws examples."""

from collections import Counter
from dataclasses import replace

import pytest
from pairs import examples_of

from circuitprune.data.batches import Batch, TrainOrder, by_group, collate, draw
from circuitprune.data.encoding import Example
from circuitprune.errors import DataError


def test_a_batch_is_padded_on_the_right_and_knows_where_the_answer_is():
    short, long = examples_of(1, length=2) + examples_of(2, length=4)[1:]
    wide = Example(long.pair, long.clean, long.corrupt, (7, 9), (8, 11, 12))
    batch = collate([short, wide], [4, 9], pad_id=99)
    assert batch.index.tolist() == [4, 9]
    assert batch.clean.tolist() == [[0, 1, 99, 99], [10, 11, 12, 13]]
    assert batch.corrupt.tolist() == [[5, 6, 99, 99], [15, 16, 17, 18]]
    assert batch.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.last.tolist() == [1, 3]
    assert batch.answers.tolist() == [[7, -1], [7, 9]]
    assert batch.wrong.tolist() == [[8, -1, -1], [8, 11, 12]]


def test_a_batch_moves_between_devices():
    batch = collate(examples_of(2), [0, 1], 0).to("meta")
    assert isinstance(batch, Batch) and len(batch) == 2
    assert {tensor.device.type for tensor in vars(batch).values()} == {"meta"}


def test_a_batch_larger_than_the_data_runs_over_epochs():
    assert Counter(draw(4, 10, seed=0, step=0) + draw(4, 10, seed=0, step=1)) == dict.fromkeys(
        range(4), 5
    )


def test_draws_are_what_they_were():
    """By these a run that began under an older version goes on with the batches it would have."""
    assert [draw(10, 4, 0, step) for step in (0, 2)] == [[5, 8, 3, 2], [6, 9, 3, 4]]


def test_ranks_share_every_draw():
    ranks = [iter(TrainOrder(10, 6, 0, start=2, rank=rank, world_size=3)) for rank in range(3)]
    for step in range(2, 6):
        shares = [next(rank) for rank in ranks]
        assert {len(share) for share in shares} == {2}
        assert sorted(i for share in shares for i in share) == sorted(draw(10, 6, 0, step))


def test_a_draw_takes_groups_whole():
    order = iter(TrainOrder(14, 7, seed=0, start=1, together=3))  # 4 groups, 2 of them a step
    for step in range(1, 5):
        batch = next(order)
        assert batch == [3 * first + i for first in draw(4, 2, 0, step) for i in range(3)]


def grouped(*groups):
    examples = examples_of(len(groups))
    return [
        replace(one, pair=replace(one.pair, group=group))
        for one, group in zip(examples, groups, strict=True)
    ]


def test_whole_groups_are_put_behind_each_other():
    examples = grouped("b", "a", "b", "d", "a", "c", "c")
    ordered, size = by_group(examples, 4)
    assert size == 2 and ordered == [examples[i] for i in (0, 2, 1, 4, 5, 6)]


def test_a_batch_of_broken_groups_is_refused():
    with pytest.raises(DataError, match="3 is no whole number of groups of 2"):
        by_group(grouped("a", "a"), 3)
