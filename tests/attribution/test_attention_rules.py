"""AttnLRP and GIM: the hand-written rules, unchanged values, laws, and what they refuse."""

from copy import deepcopy

import pytest
import reference
import reference_attribution as slow
import torch
from family_configs import build
from torch import nn
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, pairs, patched
from attribution.test_relp import metric_of
from circuitprune.attribution.attn_lrp import attn_lrp
from circuitprune.attribution.eap import eap
from circuitprune.attribution.gim import _warm_gradient, gim
from circuitprune.attribution.relp import relp
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ModelError
from circuitprune.models.softmax import through_softmax

BY_HAND = {attn_lrp: (slow.PropagatingMlp, 1.0), gim: (slow.HalvingMlp, 2.0)}
"""The MLP of either, and the temperature of its softmax's backward pass."""


@pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
@pytest.mark.parametrize("method", BY_HAND)
def test_scores_are_the_gradient_of_the_hand_written_model(
    tiny_model, family, kv_readers, method, tolerance, monkeypatch
):
    model, batch = tiny_model(family), pairs()
    references = patched(model, kv_readers)
    mlp, temperature = BY_HAND[method]
    ablated = reference.writers(model, family, batch.corrupt, batch.mask)
    monkeypatch.setattr(reference, "attend", slow.attend_by_rules(temperature))
    expected = slow.gate_scores(
        slow.relp_model(model, family, mlp),
        family,
        references.gated.graph,
        batch.clean,
        ablated,
        batch.mask,
        metric_of(batch),
    )
    scores = method(references, [batch], by_logit_diff)
    assert_close(scores, expected, **tolerance)
    for other in (eap, relp):
        assert (scores - other(references, [batch], by_logit_diff)).abs().max() > 1e-2


def test_a_warm_gradient_by_hand():
    """Two keys with p = (.9, .1): at temperature 2 they are as 3 : 1, and 3/4 x 1/4 is 3/16."""
    scores = torch.tensor([9.0, 1.0], dtype=torch.float64).log().requires_grad_()
    pattern = _warm_gradient(0, lambda x: torch.softmax(x, -1), scores)
    assert_close(pattern, torch.tensor([0.9, 0.1], dtype=torch.float64))
    (slope,) = torch.autograd.grad(pattern[0], scores)
    assert_close(slope, torch.tensor([3 / 16, -3 / 16], dtype=torch.float64))


# ------------------------------------------------------------------ a law: products share alike


@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_both_factors_of_a_product_get_the_same(tiny_model, method, name):
    """Under zero ablation without biases all rules are linear between two products.

    Then queries and keys of a layer, the factors of one product, score the same together; and what
    the values score is half of what their heads are worth. Frozen norms of queries and keys in
    between (qwen3) are part of that: with their own gradient both would be 0.
    """
    model = deepcopy(build(name) if name == "qwen3" else tiny_model(name))
    for parameter in (p for n, p in model.named_parameters() if n.endswith("bias")):
        parameter.data.zero_()
    gated = GatedModel(model)
    graph, batch = gated.graph, pairs()
    references = References(gated, make_ablation("zero", gated.ports, []))
    scores = method(references, [batch], by_logit_diff)
    kinds = [graph.reader_kind[reader] for reader in graph.edge_reader.tolist()]
    layers = torch.tensor([graph.block_of_reader(r).layer for r in graph.edge_reader.tolist()])
    for layer in range(graph.n_layers):
        q, k, v = (
            scores[torch.tensor([kind == port for kind in kinds]) & (layers == layer)].sum()
            for port in "qkv"
        )
        close = dict(rtol=1e-4, atol=1e-5)
        assert_close(q, k, **close)
        out = (graph.edge_writer >= graph.heads(layer).start) & (
            graph.edge_writer < graph.heads(layer).stop
        )
        assert_close(2 * v, scores[out].sum(), **close)
        assert q.abs() > 1e-4 and v.abs() > 1e-4


# ------------------------------------------------------------------ values and refusals


def test_a_rule_for_the_softmax_changes_no_logit_and_leaves_nothing(model):
    gated, batch, seen = GatedModel(model), pairs(), []

    def same(layer, softmax, scores):
        seen.append((layer, tuple(scores.shape[-2:])))
        return softmax(scores)

    before, kind = gated.plain(batch.clean, batch.mask), model.config._attn_implementation
    with through_softmax(gated.ports, same):
        now = gated.plain(batch.clean, batch.mask)
    assert_close(now[batch.mask], before[batch.mask], rtol=1e-6, atol=1e-6)
    width = batch.clean.shape[1]
    assert seen == [(layer, (width, width)) for layer in range(gated.graph.n_layers)]
    assert model.config._attn_implementation == kind
    assert all("forward" not in vars(layer.attention) for layer in gated.ports.layers)


@pytest.mark.parametrize("method", BY_HAND)
def test_an_mlp_without_a_rule_is_refused_by_name(tiny_model, method):
    model = deepcopy(tiny_model("gpt2"))
    model.transformer.h[1].mlp = nn.Sequential(model.transformer.h[1].mlp)
    with pytest.raises(ModelError, match=r"no rule for the MLP Sequential: it is neither .*eap"):
        method(patched(model), [pairs()], by_logit_diff)


@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mixtral", "no rule for the MLP MixtralSparseMoeBlock"),
        ("cohere_qk_norm", "the norm CohereLayerNorm is no LayerNorm or RMSNorm"),
    ],
)
def test_families_without_a_rule_are_refused_by_name(method, name, said):
    with pytest.raises(ModelError, match=said):
        method(patched(build(name)), [pairs()], by_logit_diff)


def test_attention_without_a_softmax_is_refused(tiny_model):
    ports = GatedModel(tiny_model("gpt2")).ports
    with (
        pytest.raises(ModelError, match=r"layer 0 called softmax 0 times.*attn_lrp"),
        ports.intercept([(ports.layers[0].attention, "forward", lambda h, *a, **k: (h, None))]),
        through_softmax(ports, lambda layer, softmax, scores: softmax(scores)),
    ):
        ports.run(pairs().clean, pairs().mask, None)


def test_gim_refuses_the_one_family_whose_attention_is_not_told_to_be_eager():
    with pytest.raises(ModelError, match=r"softmax 0 times.* Use a method without one"):
        gim(patched(build("falcon_rw")), [pairs()], by_logit_diff)
    assert attn_lrp(patched(build("falcon_rw")), [pairs()], by_logit_diff).abs().max() > 1e-2
