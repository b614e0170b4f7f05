"""The stream put back by hooks, directions by hand, and the tokens of a review."""

import copy

import pytest
import torch
from patching.test_head_runs import layers_of
from tiny import tiny_lm
from torch.testing import assert_close

from circuitprune.data.batches import Batch
from circuitprune.data.tasks.sentiment import Sentiment
from circuitprune.errors import DataError, GraphError
from circuitprune.evidence.sentiment import (
    Reviews,
    halves,
    sentiment_direction,
    tokens_of,
)
from circuitprune.lens.directions import direction
from circuitprune.metrics import logit_diff
from circuitprune.models.ports import Ports
from circuitprune.patching.stream_runs import StreamSwap, run_streams


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    return copy.deepcopy(tiny_lm(request.param)).double().requires_grad_(False)


def reviews(n=6, seed=0):
    """Prompts of 9 tokens that differ from their partners at 2 and at 4."""
    random = torch.Generator().manual_seed(seed)
    clean = torch.randint(2, 20, (n, 9), generator=random)
    corrupt = clean.clone()
    for at in (2, 4):
        corrupt[:, at] = (clean[:, at] - 2 + 7) % 18 + 2
    rows = torch.arange(n)
    mask = torch.ones_like(clean, dtype=torch.bool)
    batch = Batch(rows, clean, corrupt, mask, rows * 0 + 8, clean[:, :1], corrupt[:, 2:3])
    return Reviews(batch, rows % 3 > 0)


def by_hooks(model, tokens, edits):
    """Logits at the last token with `(layer, row, position, value)` put in front of layers."""
    handles, streams = [], {}
    for layer, block in enumerate(layers_of(model)):

        def hook(module, args, layer=layer):
            hidden = args[0].clone()
            for at, row, position, value in edits:
                if at == layer:
                    hidden[row, position] = value
            streams[layer] = hidden
            return (hidden, *args[1:])

        handles.append(block.register_forward_pre_hook(hook))
    try:
        return model(tokens).logits[:, -1], streams
    finally:
        for handle in handles:
            handle.remove()


def test_the_tokens_of_a_review_are_found():
    at = {
        name: where.nonzero()[:, 1].tolist() for name, where in tokens_of(reviews().batch).items()
    }
    expected = {"adjective": 2, "verb": 4, "comma": 3, "noun": 7, "last": 8}
    assert at == {name: [position] * 6 for name, position in expected.items()}
    batch = reviews().batch
    batch.corrupt[0, 2] = batch.clean[0, 2]
    with pytest.raises(DataError, match="two tokens"):
        tokens_of(batch)


@pytest.mark.parametrize("whole", [True, False])
def test_a_swap_of_streams_is_that_of_hooks(model, whole):
    batch, ports = reviews().batch, Ports(model)
    _, others = by_hooks(model, batch.clean, [])
    _, own = by_hooks(model, batch.corrupt, [])
    line = torch.nn.functional.normalize(torch.ones(32, dtype=torch.float64), dim=0)
    edits = []
    for row in range(6):
        change = others[1][row, 2] - own[1][row, 2]
        change = change if whole else (change @ line) * line
        edits.append((1, row, 2, own[1][row, 2] + change))
    expected, _ = by_hooks(model, batch.corrupt, edits)
    where = tokens_of(batch)["adjective"]
    swap = StreamSwap(1, others[1], where, None if whole else line[None])
    found, streams = run_streams(ports, batch.corrupt_prompts, [swap])
    assert_close(found, expected)
    assert_close(streams[1][0, 2], edits[0][3])
    with pytest.raises(GraphError, match="0 to 1"):
        run_streams(ports, batch.corrupt_prompts, [StreamSwap(2, others[1], where)])


def test_effects_and_shares_are_those_of_hooks(model):
    train, test, ports = reviews(8, seed=1), reviews(6), Ports(model)
    found = sentiment_direction("m", ports, train, test, layers=[1])
    _, clean = by_hooks(model, test.batch.clean, [])
    _, corrupt = by_hooks(model, test.batch.corrupt, [])

    def metric(tokens, edits=()):
        return float(logit_diff(by_hooks(model, tokens, edits)[0], test.batch).mean())

    ends = metric(test.batch.clean), metric(test.batch.corrupt)
    assert (found.clean, found.corrupt) == pytest.approx(ends)
    streams = [
        by_hooks(model, of, [])[1][1][:, 2] for of in (train.batch.clean, train.batch.corrupt)
    ]
    values, positive = torch.cat(streams), torch.cat([train.positive, ~train.positive])
    line = values[positive].mean(0) - values[~positive].mean(0)
    line /= line.norm()
    whole, along = [], []
    for row in range(6):
        for at in (2, 4):
            change = clean[1][row, at] - corrupt[1][row, at]
            whole.append((1, row, at, corrupt[1][row, at] + change))
            along.append((1, row, at, corrupt[1][row, at] + (change @ line) * line))
    full, part = (
        (metric(test.batch.corrupt, edits) - ends[1]) / (ends[0] - ends[1])
        for edits in (whole, along)
    )
    (row,) = [one for one in found.directed if one.method == "mean_difference"]
    assert row.full.value == pytest.approx(full) and row.along.value == pytest.approx(part)
    assert row.share.value == pytest.approx(part / full)
    assert row.full.low <= row.full.value <= row.full.high
    comma = [(layer, row, 3, clean[layer][row, 3]) for layer in range(2) for row in range(6)]
    effect = (metric(test.batch.corrupt, comma) - ends[1]) / (ends[0] - ends[1])
    away = [(layer, row, 3, corrupt[layer][row, 3]) for layer in range(2) for row in range(6)]
    lost = (metric(test.batch.clean, away) - ends[0]) / (ends[1] - ends[0])
    (summary,) = [one for one in found.summarised if one.token == "comma"]
    assert summary.restored.value == pytest.approx(effect)
    assert summary.lost.value == pytest.approx(lost)


def test_the_first_stream_puts_everything_back(model):
    """In front of layer 0 nothing else differs: the whole stream there is the whole effect."""
    found = sentiment_direction("m", Ports(model), reviews(8, seed=1), reviews(6), layers=[0])
    for row in found.directed:
        assert row.full.value == pytest.approx(1) and row.full.low == pytest.approx(1)
    assert found.best().layer == 0 and found.n_layers == 2


def test_directions_by_hand():
    values = torch.tensor([[3.0, 1.0], [5.0, 1.0], [-4.0, -1.0], [-4.0, -1.0]])
    positive = torch.tensor([True, True, False, False])
    mean = direction(values, positive)
    assert_close(mean, torch.tensor([8.0, 2.0]) / torch.tensor([8.0, 2.0]).norm())
    pca = direction(values, positive, "pca")
    centred = values - values.mean(0)
    assert float((centred @ pca).var()) >= float((centred @ mean).var())
    assert float(pca @ mean) > 0.9 and float(pca.norm()) == pytest.approx(1)
    assert torch.equal(
        direction(values, positive, "random", 1), direction(values, positive, "random", 1)
    )
    assert not torch.equal(mean, direction(values, ~positive))
    with pytest.raises(DataError, match="two kinds"):
        direction(values, positive | True)
    with pytest.raises(DataError, match="same mean"):
        direction(values[:1].repeat(4, 1), positive)
    with pytest.raises(DataError, match="pca, random, got 'das'"):
        direction(values, positive, "das")


def test_training_and_test_words_have_nothing_in_common():
    one, two = halves(Sentiment())
    for kind in ("adjectives", "verbs"):
        for mine, theirs in zip(getattr(one, kind), getattr(two, kind), strict=True):
            assert mine and theirs and not {*mine} & {*theirs}
    with pytest.raises(DataError, match="fewer than two"):
        halves(Sentiment(verbs=(("liked",), ("hated",))))
