"""Attention patterns are what the model computes; probes know the heads of the hand-built model."""

import pytest
import torch
from attribution.test_attribution import pairs
from conftest import build_tiny_model
from engine.test_laws import state_of
from torch.testing import assert_close

from circuitprune.engine.gated import GatedModel
from circuitprune.errors import DataError
from circuitprune.lens.heads import Probes, attention_patterns, probe_heads
from circuitprune.models.zoo.handmade import SPECIAL
from circuitprune.models.zoo.induction import (
    DISTRACTORS,
    INDUCTION_HEAD,
    PREVIOUS_HEAD,
    induction_model,
)

LETTERS = torch.arange(len(SPECIAL), 16)


def place(name: str) -> tuple[int, int]:
    layer, head = name.removeprefix("a").split(".h")
    return int(layer), int(head)


def test_patterns_times_values_are_what_the_heads_pass_on(model, tolerance):
    gated, batch = GatedModel(model), pairs()
    ports, graph, seen, streams = gated.ports, gated.graph, {}, {}
    hooks = []
    for i, layer in enumerate(ports.layers):
        keep = lambda _, args, i=i: seen.update({i: args[0]})  # noqa: E731
        hooks.append(layer.output.register_forward_pre_hook(keep))
        take = lambda _, __, out, i=i: streams.update({i: out})  # noqa: E731
        hooks.append(layer.attention_norm.register_forward_hook(take))
    gated.model(batch.clean, attention_mask=batch.mask.long())
    for hook in hooks:
        hook.remove()
    patterns = attention_patterns(gated, batch.clean, batch.mask)
    n_pos, group = batch.clean.shape[1], graph.n_heads // graph.n_kv_readers
    assert patterns.shape == (graph.n_layers, len(batch), graph.n_heads, n_pos, n_pos)
    for layer in range(graph.n_layers):
        values = ports.projections(layer)[2]
        for head in range(graph.n_heads):
            made = streams[layer] @ values.weight[head // group]
            if values.bias is not None:
                made = made + values.bias[head // group]
            passed = patterns[layer][:, head].to(made.dtype) @ made
            columns = slice(head * ports.d_head, (head + 1) * ports.d_head)
            loose = dict(rtol=1e-5, atol=max(1e-6, tolerance["atol"]))
            assert_close(passed[batch.mask], seen[layer][..., columns][batch.mask], **loose)


def test_the_model_is_left_as_it_was(model):
    before, batch = state_of(model), pairs()
    attention_patterns(GatedModel(model), batch.clean, batch.mask)
    with pytest.raises(IndexError):
        attention_patterns(GatedModel(model), batch.clean + 10**6, batch.mask)
    assert state_of(model) == before


def test_patterns_are_causal_and_sum_to_one(model):
    gated, batch = GatedModel(model), pairs()
    before = model.config._attn_implementation
    patterns = attention_patterns(gated, batch.clean, batch.mask)
    assert model.config._attn_implementation == before
    assert patterns.triu(1).abs().max() == 0
    real = patterns.sum(-1).permute(1, 3, 0, 2)[batch.mask]
    assert_close(real, torch.ones_like(real))


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_probes_know_the_heads_of_the_hand_built_model(leak):
    gated = GatedModel(induction_model(leak))
    probes = probe_heads(gated, LETTERS, torch.Generator().manual_seed(0), n_sequences=16)
    assert probes.previous[place(PREVIOUS_HEAD)] > 0.99
    assert probes.induction[place(INDUCTION_HEAD)] > 0.99
    assert probes.copying[place(INDUCTION_HEAD)] == 1 > probes.anticopying[place(INDUCTION_HEAD)]
    assert probes.labels(*place(PREVIOUS_HEAD)) == ["previous"]
    assert probes.labels(*place(INDUCTION_HEAD)) == ["induction", "copying"]
    assert probes.duplicate.max() < 0.7
    for name in DISTRACTORS:
        assert "induction" not in probes.labels(*place(name))
        assert "previous" not in probes.labels(*place(name))


def test_a_head_that_writes_the_opposite_is_anticopying():
    model = induction_model(0.0)
    layer, head = place(INDUCTION_HEAD)
    model.transformer.h[layer].attn.c_proj.weight.data[head * 16 : (head + 1) * 16] *= -1
    probes = probe_heads(GatedModel(model), LETTERS, torch.Generator().manual_seed(0))
    assert probes.labels(layer, head) == ["induction", "anticopying"]


def test_attention_probes_by_a_loop(family):
    """On a model of random weights: the same means, position by position."""
    gated, n = GatedModel(build_tiny_model(family)), 6
    vocabulary = torch.arange(3, 50)
    probes = probe_heads(
        gated, vocabulary, torch.Generator().manual_seed(1), length=n, n_sequences=3
    )
    generator = torch.Generator().manual_seed(1)
    sequences = [vocabulary[torch.randperm(47, generator=generator)[:n]] for _ in range(3)]
    sums = {"previous": 0.0, "duplicate": 0.0, "induction": 0.0}
    for once in sequences:
        twice = torch.cat([once, once])[None]
        pattern = attention_patterns(gated, twice, torch.ones_like(twice, dtype=torch.bool))
        row = pattern[1, 0, 2].tolist()
        for at in range(1, 2 * n):
            sums["previous"] += row[at][at - 1] / (3 * (2 * n - 1))
        for at in range(n + 1, 2 * n):
            sums["duplicate"] += row[at][at - n] / (3 * (n - 1))
            sums["induction"] += row[at][at - n + 1] / (3 * (n - 1))
    for name, expected in sums.items():
        assert float(getattr(probes, name)[1, 2]) == pytest.approx(expected, abs=1e-5)


def test_copying_by_a_loop():
    """On GPT-2 of random weights: its own modules, head by head and token by token."""
    model, n = build_tiny_model("gpt2"), 6
    vocabulary, parts = torch.arange(3, 50), model.transformer
    probes = probe_heads(
        GatedModel(model), vocabulary, torch.Generator().manual_seed(1), length=n, n_sequences=20
    )
    generator, seen = torch.Generator().manual_seed(1), {}
    once = torch.stack([vocabulary[torch.randperm(47, generator=generator)[:n]] for _ in range(20)])
    hooks = [
        parts.drop.register_forward_hook(lambda _, __, out: seen.update(embedded=out)),
        parts.h[0].mlp.register_forward_hook(lambda _, __, out: seen.update(added=out)),
    ]
    model(once)
    for hook in hooks:
        hook.remove()
    for layer, head in ((0, 1), (1, 2), (2, 0)):
        stream = seen["embedded"] if layer == 0 else seen["embedded"] + seen["added"]
        block, columns = parts.h[layer], slice(64 + 8 * head, 64 + 8 * head + 8)
        projected = block.ln_1(stream) @ block.attn.c_attn.weight[:, columns]
        value = projected + block.attn.c_attn.bias[columns]
        out = value @ block.attn.c_proj.weight[8 * head : 8 * head + 8]
        for name, sign in (("copying", 1), ("anticopying", -1)):
            logits = model.lm_head(parts.ln_f(sign * out))
            rank = (logits > logits.gather(-1, once[..., None])).sum(-1)
            expected = (rank < 4).double().mean().item()  # of 47 tokens
            assert float(getattr(probes, name)[layer, head]) == pytest.approx(expected)
    assert 0 < probes.copying.mean() < 1 and not torch.equal(probes.copying, probes.anticopying)


def test_labels_by_threshold():
    zeros = torch.zeros(1, 2)
    probes = Probes(torch.tensor([[0.39, 0.4]]), zeros, zeros, zeros, torch.tensor([[0.5, 0.0]]))
    assert probes.labels(0, 0) == ["anticopying"] and probes.labels(0, 1) == ["previous"]


def test_too_short_for_a_probe():
    gated = GatedModel(induction_model())
    with pytest.raises(DataError, match="there is room for 2"):
        probe_heads(gated, LETTERS[:2], torch.Generator())


def test_three_tokens_are_enough_for_a_probe():
    probes = probe_heads(GatedModel(induction_model()), LETTERS[:3], torch.Generator())
    assert probes.previous.isfinite().all()
