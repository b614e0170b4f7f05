"""Integrated gradients along each writer's own output."""

import pytest
import reference
import reference_attribution as slow
import torch
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
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
