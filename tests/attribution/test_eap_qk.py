"""The QK rule: patterns recomputed as a slow loop over hooks does, and where EAP sees nothing."""

from copy import deepcopy

import pytest
import reference
import torch
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
from circuitprune.attribution import eap
from circuitprune.attribution.eap_qk import eap_qk
from circuitprune.patching import edge_effects


def kinds_of(graph):
    return [graph.reader_kind[reader] for reader in graph.edge_reader.tolist()]


@pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
def test_heads_are_recomputed_as_by_hand(tiny_model, family, kv_readers, tolerance):
    """Heads are written out with one input changed; behind them a gradient by a hook."""
    model, batch = tiny_model(family), pairs((0, 1))
    references = patched(model, kv_readers)
    graph = references.gated.graph
    scores = eap_qk(references, [batch], by_logit_diff)
    plain = eap(references, [batch], by_logit_diff)
    into = torch.tensor([kind in ("q", "k") for kind in kinds_of(graph)])
    assert_close(scores[~into], plain[~into], **tolerance)
    some = [edge for edge in graph.edges if edge.endswith(("<q>", "<k>"))]
    for edge in some[:: 1 + len(some) // 6]:
        expected = by_hand(model, family, batch, edge)
        assert_close(scores[graph.edge_index(edge)], expected, **tolerance)
    assert (scores - plain)[into].abs().max() > 1e-2


def by_hand(model, family, batch, edge):
    """What the heads write with the edge's writer replaced in one input, times the gradient there.

    A weight that writes is linear, so values may be compared behind it.
    """
    writer, reader = edge.split("->")
    layer, index, port = reference.parse_port(reader)
    size, parts = reference.sizes(model, family), reference.layers(model, family)[layer]
    group = [index]
    if "kv" in reader:
        group = range(index * size.n_heads // size.n_kv, (index + 1) * size.n_heads // size.n_kv)
    tokens = batch.clean, batch.mask
    stream = reference.seen(model, *tokens, reference.changed_input, parts.attention_norm)
    change = replaced(model, family, batch, writer)
    allowed = reference.visible(batch.mask, reference.window(model, layer))
    slope = output_gradient(model, parts.output, batch)
    total = torch.zeros((), dtype=model.dtype)
    for head in group:
        inputs = [parts.attention_norm(stream) for _ in range(3)]
        before = values_of(model, family, layer, head, inputs, allowed)
        inputs["qkv".index(port)] = parts.attention_norm(stream + change)
        after = values_of(model, family, layer, head, inputs, allowed)
        total += ((after - before) * slope).sum()
    return total / len(batch)


def values_of(model, family, layer, head, inputs, allowed):
    return reference.attend(model, family, layer, head, inputs, allowed).detach()


def replaced(model, family, batch, writer):
    """How the stream changes when the writer is replaced; a norm behind heads is taken whole."""
    now = reference.writers(model, family, batch.clean, batch.mask)
    other = reference.writers(model, family, batch.corrupt, batch.mask)
    number, head = (None, None) if writer == "input" else reference.parse_node(writer)
    if head is None:
        return other[writer] - now[writer]
    parts = reference.layers(model, family)[number]
    heads = [f"a{number}.h{i}" for i in range(reference.sizes(model, family).n_heads)]
    total = reference.bias(parts.output) + sum(now[name] for name in heads)
    moved = total + other[writer] - now[writer]
    return (parts.post_attention(moved) - parts.post_attention(total)).detach()


def output_gradient(model, output, batch):
    """Of the summed metric at what an output projection writes, bias included."""
    nothing = torch.zeros(*batch.clean.shape, model.config.hidden_size, dtype=model.dtype)
    nothing.requires_grad_()
    with reference.changed_output(output, lambda value: value + nothing):
        logits = reference.plain_logits(model, batch.clean, batch.mask)
    score = by_logit_diff(reference.at_last(logits, batch.last), batch).sum()
    return torch.autograd.grad(score, nothing)[0]


def test_a_saturated_pattern_has_no_gradient_but_moves(tiny_model):
    """Sharp queries: exact patching sees an edge that EAP does not, and so does the rule."""
    model = deepcopy(tiny_model("gpt2"))
    width = model.config.n_embd
    for block in model.transformer.h:
        block.attn.c_attn.weight.data[:, :width] *= 60
        block.attn.c_attn.bias.data[:width] *= 60
    references, batches = patched(model), [pairs()]
    into = torch.tensor([kind == "q" for kind in kinds_of(references.gated.graph)])
    exact = edge_effects(references, batches, by_logit_diff)[into]
    plain, exactly = (m(references, batches, by_logit_diff)[into] for m in (eap, eap_qk))
    strong = exact.abs() > 0.1
    assert strong.sum() > 3
    missed = [((scores - exact)[strong].abs() / exact[strong].abs()) for scores in (plain, exactly)]
    assert missed[1].median() < 0.5 * missed[0].median()
