"""Relevance propagation: the hand-written rules, unchanged values, conservation, and its limits."""

from contextlib import contextmanager
from copy import deepcopy

import pytest
import reference
import reference_attribution as slow
import torch
from torch import nn
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
from circuitprune.attribution import METHODS, eap
from circuitprune.attribution.lrp import _identity_rule, linear_norm, lrp_rules
from circuitprune.attribution.relp import relp, relp_ah
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ModelError

every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)


@contextmanager
def constant_patterns(frozen: bool):
    """Inside, the reference's queries and keys carry no gradient."""
    project = reference.project

    def projected(model, family, layer, port, index, value):
        result = project(model, family, layer, port, index, value)
        return result.detach() if frozen and port in "qk" else result

    reference.project = projected
    try:
        yield
    finally:
        reference.project = project


def metric_of(batch):
    return lambda logits: by_logit_diff(reference.at_last(logits, batch.last), batch).mean()


@every_graph
@pytest.mark.parametrize("method", [relp, relp_ah])
def test_relp_is_the_gradient_of_the_hand_written_model(
    tiny_model, family, kv_readers, method, tolerance
):
    model, batch = tiny_model(family), pairs()
    references = patched(model, kv_readers)
    graph = references.gated.graph
    with constant_patterns(method is relp_ah):
        expected = slow.gate_scores(
            slow.relp_model(model, family),
            family,
            graph,
            batch.clean,
            reference.writers(model, family, batch.corrupt, batch.mask),
            batch.mask,
            metric_of(batch),
        )
    scores = method(references, [batch], by_logit_diff)
    assert_close(scores, expected, **tolerance)
    assert (scores - eap(references, [batch], by_logit_diff)).abs().max() > 1e-2


def test_the_hand_written_rules_keep_the_values(model, family, tolerance):
    batch = pairs()
    copy = slow.relp_model(model, family)
    expected = reference.plain_logits(model, batch.clean, batch.mask)
    assert_close(reference.plain_logits(copy, batch.clean, batch.mask), expected, **tolerance)


def test_the_rules_change_no_logit(model):
    """Beyond rounding: without rules, an activation may be another kernel of the same function."""
    gated, batch = GatedModel(model), pairs()
    before = gated.plain(batch.clean, batch.mask)
    with gated.ports.intercept(lrp_rules(gated.ports)):
        assert_close(gated.plain(batch.clean, batch.mask), before, rtol=1e-12, atol=1e-12)


def test_frozen_patterns_leave_queries_and_keys_without_scores(references_of):
    references = references_of("llama")
    kinds = references.gated.graph.reader_kind
    scores = relp_ah(references, [pairs()], by_logit_diff)
    for reader, kind in enumerate(kinds):
        into = scores[references.gated.graph.edge_reader == reader]
        assert (into == 0).all() if kind in "qk" else (into != 0).any()


@pytest.fixture
def references_of(tiny_model):
    return lambda family: patched(tiny_model(family))


# ------------------------------------------------------------------ conservation


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_relevance_is_conserved_without_biases(tiny_model, family):
    """Under zero ablation, the rules with frozen patterns make the model linear in its input.

    Then the in-edges of each reader that writes pass on exactly the relevance of what it writes,
    and the in-edges of the logits add up to the metric itself.
    """
    model = deepcopy(tiny_model(family))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    model.config.final_logit_softcapping = None
    gated = GatedModel(model)
    graph, batch = gated.graph, pairs()
    references = References(gated, make_ablation("zero", gated.ports, []))
    scores = -relp_ah(references, [batch], by_logit_diff)
    metric = by_logit_diff(gated.plain(batch.clean, batch.mask, batch.last), batch).mean()
    tolerance = dict(rtol=1e-5, atol=1e-6)
    assert_close(scores[graph.logits_block.edges].sum(), metric, **tolerance)
    for layer in range(graph.n_layers):
        attention, first = graph.attention_block(layer), graph.head_writer(layer, 0)
        into_mlp = scores[graph.mlp_block(layer).edges].sum()
        assert_close(into_mlp, from_writers(graph, scores, [first + graph.n_heads]), **tolerance)
        heads = range(first, first + graph.n_heads)
        into_heads = scores[attention.edges].sum()
        assert_close(into_heads, from_writers(graph, scores, heads), **tolerance)
        assert into_mlp.abs() > 1e-3 and into_heads.abs() > 1e-3
    plain = -eap(references, [batch], by_logit_diff)
    out_of_mlp = from_writers(graph, plain, [graph.mlp_writer(1)])
    assert (plain[graph.mlp_block(1).edges].sum() - out_of_mlp).abs() > 1e-3


def from_writers(graph, scores, writers):
    return scores[torch.isin(graph.edge_writer, torch.tensor(list(writers)))].sum()


# ------------------------------------------------------------------ single rules and limits


def test_the_identity_rule_at_zero_is_the_slope():
    activation = nn.SiLU()
    x = torch.tensor([0.0, 1e-9, -1e-9, 2.0], dtype=torch.float64, requires_grad=True)
    y = _identity_rule(activation.forward)(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert_close(y, activation(x), rtol=0, atol=0)
    assert_close(slope[:3], torch.full((3,), 0.5, dtype=torch.float64), rtol=0, atol=1e-5)
    assert_close(slope[3], activation(x[3]).detach() / 2)


@pytest.mark.parametrize("method", [relp, relp_ah])
@pytest.mark.parametrize("what", ["MLP", "activation", "norm"])
def test_modules_without_a_rule_are_refused(tiny_model, method, what):
    model = deepcopy(tiny_model("gpt2"))
    block = model.transformer.h[1]
    if what == "MLP":
        block.mlp = nn.Sequential(block.mlp)
    elif what == "activation":
        block.mlp.act = nn.Sigmoid()
    else:
        block.ln_2 = nn.RMSNorm(32, dtype=torch.float64)
    names = {"MLP": "Sequential", "activation": "Sigmoid", "norm": "RMSNorm"}
    said = rf"{what} {names[what]}( is no LayerNorm|: it is neither|; it knows) .*eap"
    with pytest.raises(ModelError, match=said):
        method(patched(model), [pairs()], by_logit_diff)


def test_a_layer_norm_without_a_gain():
    norm = nn.LayerNorm(8, elementwise_affine=False, dtype=torch.float64)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    y = linear_norm(norm)(x)
    assert_close(y, norm(x), rtol=0, atol=0)
    (slope,) = torch.autograd.grad((y**2).sum(), x)
    assert_close((slope * x).sum(), 2 * (y**2).sum())  # linear: x * gradient gives it all back


def test_relp_is_a_method():
    assert METHODS["relp"].score is relp and METHODS["relp_ah"].score is relp_ah
