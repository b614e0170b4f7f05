"""The check at load time accepts every declared family, and names the law that others break."""

from copy import deepcopy
from dataclasses import replace

import pytest
import reference
import torch
from conftest import build_tiny_model
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from circuitprune.engine.gated import GatedModel
from circuitprune.engine.selfcheck import (
    FORWARDS,
    LENGTH,
    PROMPTS,
    _distance,
    _rounded_again,
    self_check,
)
from circuitprune.errors import ModelError
from circuitprune.models.families import FAMILIES

every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
again = pytest.mark.usefixtures("untyped")
"""The same calls as in the first test, of the same shapes."""


@every_graph
@pytest.mark.parametrize("seed", [0, 1])
def test_every_declared_family_passes(model, kv_readers, seed):
    self_check(GatedModel(model, kv_readers), seed)


@again
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_declared_family_passes_in_lower_precision(model, dtype):
    self_check(GatedModel(deepcopy(model).to(dtype)))


def test_in_half_precision_the_models_own_rounding_is_the_measure():
    """Logits that move by a tenth of their spread, as real models' do, say nothing wrong."""
    model = deepcopy(build_tiny_model("llama"))
    for parameter in model.parameters():
        parameter.data *= 3
    gated = GatedModel(model.to(torch.bfloat16))
    self_check(gated)
    tokens = torch.randint(0, 31, (3, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    plain, again = gated.plain(tokens, mask), _rounded_again(gated, tokens, mask)
    assert (again - plain).abs().max() > 0.05 * plain.std()


@again
def test_the_model_is_left_as_it_was(model):
    tokens = torch.tensor([[5, 6, 7]])
    before = model(tokens).logits
    self_check(GatedModel(model))
    assert not any(vars(m).get("forward") or m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=0)


def deep(build):
    """Fourteen layers, far more edges than weights."""
    sizes = dict(num_attention_heads=8, hidden_size=32, num_hidden_layers=14, vocab_size=60)
    config = build(**sizes, intermediate_size=32, max_position_embeddings=64, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64)


@again
@pytest.mark.parametrize("build", [GPTNeoXConfig, LlamaConfig])
def test_it_costs_the_forwards_that_it_says_however_deep_the_model_is(build):
    gated = GatedModel(deep(build))
    seen = {0: [], 13: []}
    for layer, tokens in seen.items():
        gated.ports.blocks[layer].register_forward_pre_hook(
            lambda _, args, tokens=tokens: tokens.append(args[0][..., 0].numel())
        )
    self_check(gated)
    for tokens in seen.values():
        assert sum(tokens) == FORWARDS * PROMPTS * LENGTH <= 20 * 3 * 8
    assert (PROMPTS, LENGTH) == (3, 8)


WRONG = {
    "neox_parallel": ("gpt_neox", dict(parallel=lambda c: not c.use_parallel_residual)),
    "neox_sequential": (
        "gpt_neox_sequential",
        dict(parallel=lambda c: not c.use_parallel_residual),
    ),
    "llama_parallel": ("llama", dict(parallel=lambda c: True)),
    "llama_norms": (
        "llama",
        dict(attention_norm="post_attention_layernorm", mlp_norm="input_layernorm"),
    ),
    "qwen2_mlp_norm": ("qwen2", dict(mlp_norm="input_layernorm")),
    "gpt2_attention_norm": ("gpt2", dict(attention_norm="ln_2")),
    "gemma2_no_attention_post_norm": ("gemma2", dict(attention_post_norm=None)),
    "gemma2_no_mlp_post_norm": ("gemma2", dict(mlp_post_norm=None)),
}
WRONG_PORTS = {
    "neox_layout": ("gpt_neox", dict(fused="blocks")),
    "gpt2_layout": ("gpt2", dict(fused="per_group")),
    "llama_swapped_k_and_v": ("llama", dict(projections=("q_proj", "v_proj", "k_proj"))),
}
"""Right as long as all readers of a layer see the same, and every q, k or v edge misnamed."""


@again
@pytest.mark.parametrize(("name", "change"), WRONG.values(), ids=WRONG)
def test_a_wrong_declaration_is_refused(tiny_model, monkeypatch, name, change):
    model = tiny_model(name)
    model_type = model.config.model_type
    monkeypatch.setitem(FAMILIES, model_type, replace(FAMILIES[model_type], **change))
    with pytest.raises(ModelError) as error:
        self_check(GatedModel(model))
    message = str(error.value)
    assert f"family {model_type!r}" in message
    assert "with all gates" in message or "with out-edges of a1.h3 closed" in message
    assert "limit 1e-06" in message and "docs/extending.md" in message


@pytest.mark.parametrize(("name", "change"), WRONG_PORTS.values(), ids=WRONG_PORTS)
def test_a_declaration_that_misnames_q_k_or_v_readers_is_refused(
    tiny_model, monkeypatch, name, change
):
    monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], **change))
    with pytest.raises(ModelError, match=f"self-check failed for family {name!r}"):
        self_check(GatedModel(tiny_model(name)))


def test_a_declaration_that_fits_again_passes(tiny_model, monkeypatch):
    """The refusals above come from the declaration alone."""
    family = FAMILIES["gpt_neox"]
    monkeypatch.setitem(FAMILIES, "gpt_neox", replace(family, parallel=lambda config: True))
    self_check(GatedModel(tiny_model("gpt_neox")))
    with pytest.raises(ModelError, match="with all gates"):
        self_check(GatedModel(tiny_model("gpt_neox_sequential")))


@again
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(model, family, bad):
    model = deepcopy(model)
    reference.layers(model, family)[1].output.weight.data[0, 0] = bad
    with pytest.raises(ModelError, match=r"with all gates open.*weights are not finite"):
        self_check(GatedModel(model))


def engine_off_at(monkeypatch, wrong_when):
    """An engine that is wrong only for some gates."""
    call = GatedModel.__call__

    def off(self, gates, *args):
        logits = call(self, gates, *args)
        return logits + torch.linspace(0, 1, logits.shape[-1]) * float(wrong_when(gates))

    monkeypatch.setattr(GatedModel, "__call__", off)


@again
@pytest.mark.parametrize(
    ("law", "wrong_when"),
    [
        ("all gates open", lambda gates: gates.min() == 1),
        ("all gates closed", lambda gates: gates.max() == 0),
        ("out-edges of a1.h3 closed", lambda gates: 0 < gates.mean() < 1),
    ],
)
def test_each_law_is_tested_and_named(model, monkeypatch, law, wrong_when):
    gated = GatedModel(model)
    engine_off_at(monkeypatch, wrong_when)
    with pytest.raises(ModelError, match=f"family {model.config.model_type!r}: with {law}, the"):
        self_check(gated)


def test_logits_are_compared_in_units_of_their_spread():
    """A model with large logits is judged as one with small ones."""
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    got = expected.clone()
    got[1, 2, 3] += 0.25
    for scale in (1e-3, 1.0, 50.0):
        found = _distance(scale * got, scale * expected)
        assert found == pytest.approx(0.25 / expected.std().item())
    assert _distance(expected, expected) == 0
    flat = torch.zeros(4)
    assert _distance(flat, flat) == 0 and _distance(flat + 1, flat) > 1e6
