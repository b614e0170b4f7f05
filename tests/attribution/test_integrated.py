"""Integrated gradients: along a writer's own output, at random points, with writers' own moves."""

from importlib import import_module

import pytest
import reference
import reference_attribution as slow
import torch
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
from circuitprune.attribution.conductance import conductance
from circuitprune.attribution.eap_ig_inputs import eap_ig_inputs
from circuitprune.attribution.mc_ig import mc_ig, place
from circuitprune.attribution.nodes import node_scores
from circuitprune.attribution.per_writer_ig import per_writer_ig


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_per_writer_ig_is_the_slow_loop(model, family, tolerance):
    references, batch = patched(model), pairs([1, 2])
    expected = slow.writer_ig(
        model,
        family,
        references.gated.graph,
        batch.clean,
        batch.corrupt,
        batch.mask,
        lambda logits: by_logit_diff(reference.at_last(logits, batch.last), batch).mean(),
        (0.25, 0.75),
    )
    assert_close(per_writer_ig(references, [batch], by_logit_diff, 2), expected, **tolerance)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])  # the slow half of the law: on a few
def test_a_writers_scores_sum_to_the_change_when_it_is_ablated(model, family):
    """By a hook on the untouched model; to the error of the midpoint rule."""
    references, batch = patched(model), pairs([0, 2])
    graph = references.gated.graph
    ablated = reference.writers(model, family, batch.corrupt, batch.mask)

    def worth(logits):
        return by_logit_diff(reference.at_last(logits, batch.last), batch).mean()

    clean = worth(reference.plain_logits(model, batch.clean, batch.mask))
    changes = []
    for writer in graph.writers:
        cut = reference.patched_logits(
            model, family, batch.clean, batch.mask, writer, ablated[writer]
        )
        changes.append(worth(cut) - clean)
    expected = torch.stack(changes)
    errors = [
        node_scores(graph, per_writer_ig(references, [batch], by_logit_diff, steps)) - expected
        for steps in (1, 5)
    ]
    # the input's path passes so near 0 in front of an RMSNorm that it takes dozens of steps
    first = 0 if family == "gpt2" else 1
    errors = [error[first:].norm() for error in errors]
    assert errors[1] < 0.05 * expected[first:].norm()
    assert errors[1] < errors[0] / 4


# ------------------------------------------------------------------ one random point an example


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_mc_ig_is_the_gradient_at_each_examples_own_point(model, family, tolerance):
    references, rows = patched(model), (0, 2)
    graph, total = references.gated.graph, 0
    for row in rows:
        one = pairs([row])
        score = lambda logits, one=one: by_logit_diff(  # noqa: E731
            reference.at_last(logits, one.last), one
        ).mean()
        tokens = one.clean, one.corrupt, one.mask
        at = (place(int(one.index)),)
        total = total + reference.eap_on_path(model, family, graph, *tokens, score, at)
    assert_close(mc_ig(references, [pairs(rows)], by_logit_diff), total / 2, **tolerance)


def test_the_points_are_spread_evenly_and_belong_to_the_example():
    points = torch.tensor([place(example) for example in range(2000)])
    assert points.min() >= 0 and points.max() < 1 and place(7) == place(7) != place(8)
    counts = torch.histc(points, bins=10, min=0, max=1)
    assert counts.min() > 160 and counts.max() < 240  # 200 each, give or take three deviations


def test_the_mean_of_many_draws_is_the_integral(tiny_model, monkeypatch):
    """With the draws replaced by a grid, it is the midpoint rule itself."""
    references, batch = patched(tiny_model("gpt2")), pairs([0, 1])
    total = 0
    for k in range(4):
        module = import_module("circuitprune.attribution.mc_ig")  # the package has the function
        monkeypatch.setattr(module, "place", lambda _, k=k: (k + 0.5) / 4)
        total = total + mc_ig(references, [batch], by_logit_diff)
    assert_close(total / 4, eap_ig_inputs(references, [batch], by_logit_diff, 4, rule="midpoint"))


# ------------------------------------------------------------------ conductance


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_conductance_is_the_slow_loop(model, family, tolerance):
    references, batch = patched(model), pairs([1, 2])
    expected = slow.conductance_by_hooks(
        model,
        family,
        references.gated.graph,
        batch.clean,
        batch.corrupt,
        batch.mask,
        lambda logits: by_logit_diff(reference.at_last(logits, batch.last), batch).mean(),
        2,
    )
    assert_close(conductance(references, [batch], by_logit_diff, 2), expected, **tolerance)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_every_cut_of_the_conductance_sums_to_the_change_of_the_metric(model, family):
    """Into the logits, and out of the input: both separate the two. The error falls as 1 / m."""
    references, batch = patched(model), pairs([0])
    graph, gated = references.gated.graph, references.gated
    ends = [gated.plain(tokens, batch.mask, batch.last) for tokens in (batch.corrupt, batch.clean)]
    change = (by_logit_diff(ends[0], batch) - by_logit_diff(ends[1], batch)).mean()
    cuts = (graph.edge_reader == graph.n_readers - 1, graph.edge_writer == 0)
    errors = {}
    for steps in (8, 32):
        scores = conductance(references, [batch], by_logit_diff, steps)
        errors[steps] = [abs(scores[cut].sum() - change).item() for cut in cuts]
    assert abs(change) > 1e-2
    assert all(fine < coarse / 3 for coarse, fine in zip(*errors.values(), strict=True))
    assert max(errors[32]) < 0.1 * abs(change)


def test_one_step_of_conductance_is_eap(tiny_model):
    references, batch = patched(tiny_model("gpt2")), pairs([0, 1])
    expected = eap_ig_inputs(references, [batch], by_logit_diff, 1, rule="right")
    assert_close(conductance(references, [batch], by_logit_diff, 1), expected)
