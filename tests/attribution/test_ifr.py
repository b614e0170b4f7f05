"""Information flow routes against a slow loop, and the law of shares."""

import pytest
import reference
import reference_attribution as slow
import torch
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
from circuitprune.attribution import METHODS
from circuitprune.attribution.ifr import ifr, proximity

every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)


@every_graph
def test_shares_are_the_slow_loop(tiny_model, family, kv_readers, tolerance):
    model, batch = tiny_model(family), pairs([1, 2, 3])
    references = patched(model, kv_readers)
    expected = slow.flow_shares(model, family, references.gated.graph, batch.clean, batch.mask)
    assert_close(ifr(references, [batch], by_logit_diff), expected, **tolerance)


@every_graph
def test_the_shares_of_a_reader_sum_to_one(tiny_model, family, kv_readers):
    references = patched(tiny_model(family), kv_readers)
    graph = references.gated.graph
    scores = ifr(references, [pairs()], by_logit_diff)
    total = torch.zeros(graph.n_readers, dtype=torch.float64)
    total.index_add_(0, graph.edge_reader, scores)
    assert (total[graph.reader_layer > 0] - 1).abs().max() < 1e-6
    assert_close(total[0], torch.ones(()).double())  # the first layer reads the input alone
    assert scores.min() >= 0 and scores.max() <= 1


def test_proximity_by_hand():
    """Of (4, -2): (4, 0) leaves 2 of 6, (0, -2) leaves 4, and (-1, 0) points away."""
    stream = torch.tensor([4.0, -2.0]).view(1, 1, 2)
    parts = torch.tensor([[4.0, 0.0], [0.0, -2.0], [-1.0, 0.0]]).view(3, 1, 1, 2)
    shares = proximity(parts, stream).flatten()
    assert_close(shares, torch.tensor([4 / 6, 2 / 6, 0.0]))


def test_nothing_near_is_nothing_not_a_division_by_zero():
    stream = torch.ones(1, 1, 4)
    assert_close(proximity(-torch.ones(2, 1, 1, 4), stream), torch.zeros(2, 1, 1))


def test_ifr_is_a_method():
    assert METHODS["ifr"].score is ifr
