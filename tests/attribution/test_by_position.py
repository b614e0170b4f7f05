"""Scores by position: each example's cells sum to its score, and each cell is what it says."""

import family_configs
import pytest
import reference
import torch
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
from circuitprune.attribution import METHODS, per_example
from circuitprune.attribution.by_position import score_by_position
from circuitprune.errors import ConfigError, GraphError, ModelError
from circuitprune.models.softmax import through_softmax

PATTERN = ("<q>", "<k>")


@pytest.mark.parametrize("method", ["eap", "eap_qk"])
@pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
def test_cells_sum_to_each_examples_score(tiny_model, family, kv_readers, method):
    references, batch = patched(tiny_model(family), kv_readers), pairs((0, 1, 2))
    graph = references.gated.graph
    scores = per_example(METHODS[method].score, references, [batch], by_logit_diff)
    into = [edge for edge in graph.edges if edge.endswith(PATTERN)]
    for edge in into[:: 1 + len(into) // 5]:
        cells = score_by_position(references, batch, by_logit_diff, edge, method)
        heads = graph.heads_of_reader(int(graph.edge_reader[graph.edge_index(edge)]))
        width = batch.clean.shape[1]
        assert cells.shape == (3, len(heads), width, width)
        assert_close(cells.sum((1, 2, 3)), scores[:, graph.edge_index(edge)], rtol=1e-5, atol=1e-6)
        assert (cells.triu(1) == 0).all()  # nobody attends to what comes later


@pytest.mark.parametrize("name", ["olmo2", "qwen3", "gpt_oss", "bloom"])
def test_so_they_do_where_heads_are_coupled_normed_or_have_sinks(name):
    references, batch = patched(family_configs.build(name)), pairs((0, 1))
    graph = references.gated.graph
    scores = per_example(METHODS["eap"].score, references, [batch], by_logit_diff)
    into = [edge for edge in graph.edges if edge.endswith(PATTERN)]
    for edge in (into[1], into[-1]):
        cells = score_by_position(references, batch, by_logit_diff, edge)
        assert_close(cells.sum((1, 2, 3)), scores[:, graph.edge_index(edge)], rtol=1e-4, atol=1e-5)


def test_a_cell_is_the_move_of_one_score_times_what_it_is_worth(tiny_model):
    """Both by finite differences: scores written out, and the metric with one score moved."""
    model, batch, (layer, head) = tiny_model("gpt2"), pairs((0,)), (1, 2)
    references, edge = patched(model), f"a0.h1->a{layer}.h{head}<q>"
    cells = score_by_position(references, batch, by_logit_diff, edge)[0, 0]
    change = reference.writer_changes(model, "gpt2", batch.clean, batch.corrupt, batch.mask)[
        "a0.h1"
    ]
    norm = reference.layers(model, "gpt2")[layer].attention_norm
    stream = reference.seen(model, batch.clean, batch.mask, reference.changed_input, norm)

    def attention_scores(share):
        q = reference.project(model, "gpt2", layer, "q", head, norm(stream + share * change))
        k = reference.project(model, "gpt2", layer, "k", head, norm(stream))
        return (q @ k.transpose(1, 2) * reference.sizes(model, "gpt2").scale)[0]

    def metric_with(query, key, step):
        def rule(number, softmax, scores):
            scores = scores.clone()
            scores[0, head, query, key] += step * (number == layer)
            return softmax(scores)

        with torch.no_grad(), through_softmax(references.gated.ports, rule):
            logits = references.gated.plain(batch.clean, batch.mask, batch.last)
        return by_logit_diff(logits, batch).item()

    step = 1e-4
    moves = (attention_scores(step) - attention_scores(-step)) / (2 * step)
    for query, key in ((8, 0), (8, 3), (5, 5), (7, 2)):
        worth = (metric_with(query, key, step) - metric_with(query, key, -step)) / (2 * step)
        assert_close(
            cells[query, key].item(), moves[query, key].item() * worth, rtol=1e-4, atol=1e-8
        )
    assert cells.abs().max() > 1e-4


def test_what_has_no_pattern_on_its_way_is_refused(tiny_model):
    references = patched(tiny_model("gpt2"))
    for edge in ("input->a0.h0<v>", "input->m0", "m1->logits"):
        with pytest.raises(GraphError, match=f"{edge} is no edge into queries or keys"):
            score_by_position(references, pairs(), by_logit_diff, edge)
    with pytest.raises(ConfigError, match="got method='gim'"):
        score_by_position(references, pairs(), by_logit_diff, "input->a0.h0<q>", "gim")
    falcon = patched(family_configs.build("falcon_rw"))
    with pytest.raises(ModelError, match="softmax 0 times"):
        score_by_position(falcon, pairs(), by_logit_diff, "input->a0.h0<q>")
