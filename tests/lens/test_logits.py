"""The logit lens against Hugging Face's own hidden states; direct attribution adds up."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from attribution.test_attribution import pairs
from conftest import build_tiny_model
from torch.testing import assert_close

from circuitprune.data.pairs import prepare
from circuitprune.engine.gated import GatedModel
from circuitprune.errors import MetricError, ModelError
from circuitprune.lens.logits import direct_logit_attribution, logit_lens, ranks, residual_streams
from circuitprune.metrics import logit_diff
from circuitprune.models.zoo.induction import (
    DISTRACTORS,
    INDUCTION_HEAD,
    LENGTH,
    Induction,
    induction_model,
    induction_tokenizer,
)


@pytest.mark.parametrize("prompts", ["clean", "corrupt"])
def test_at_the_logits_the_lens_is_the_model(model, tolerance, prompts):
    gated, batch = GatedModel(model), pairs()
    stream = residual_streams(gated, batch, prompts)["logits"]
    expected = gated.plain(getattr(batch, prompts), batch.mask, batch.last)
    assert_close(logit_lens(gated, stream), expected, **tolerance)


def test_streams_are_the_hidden_states_of_hugging_face(model, tolerance):
    gated, batch = GatedModel(model), pairs()
    copy = deepcopy(model)  # asked for hidden states, a model keeps hooks for them
    out = copy(batch.clean, attention_mask=batch.mask.long(), output_hidden_states=True)
    streams, rows = residual_streams(gated, batch), torch.arange(len(batch))
    assert list(streams) == ["a0", "m0", "a1", "m1", "a2", "m2", "logits"]
    for layer in range(3):
        expected = out.hidden_states[layer][rows, batch.last]
        assert_close(streams[f"a{layer}"], expected, **tolerance)
        same = torch.equal(streams[f"m{layer}"], streams[f"a{layer}"])
        assert same == gated.graph.parallel


def test_hooks_are_gone_afterwards(model):
    gated, batch = GatedModel(model), pairs()
    before = gated.plain(batch.clean, batch.mask, batch.last)
    residual_streams(gated, batch)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(gated.plain(batch.clean, batch.mask, batch.last), before)


def test_ranks_count_what_is_larger():
    logits = torch.tensor([[0.1, 3.0, 2.0, 3.0], [5.0, 1.0, 0.0, -1.0]])
    assert ranks(logits, torch.tensor([2, 0])).tolist() == [2, 0]
    assert ranks(logits, torch.tensor([1, 3])).tolist() == [0, 3]


def test_direct_attributions_sum_to_the_logit_difference(model, tolerance):
    gated, batch = GatedModel(model), pairs()
    shares, constant = direct_logit_attribution(gated, batch)
    assert shares.shape == (gated.graph.n_writers, len(batch))
    expected = logit_diff(gated.plain(batch.clean, batch.mask, batch.last), batch)
    assert_close(shares.sum(0) + constant, expected, rtol=1e-5, atol=max(1e-9, tolerance["atol"]))
    assert shares.abs().mean() > 0.01


def test_one_share_is_the_frozen_norms_dot_product():
    """Of one MLP of GPT-2, by the norm's formula written out."""
    model, batch = build_tiny_model("gpt2"), pairs()
    gated = GatedModel(model)
    writer = gated.graph.mlp_writer(1)
    shares, _ = direct_logit_attribution(gated, batch)
    norm, table = model.transformer.ln_f, model.lm_head.weight
    stream = residual_streams(gated, batch)["logits"]
    written = gated.record(batch.clean, batch.mask)[writer]
    for row in range(len(batch)):
        part = written[row, batch.last[row]]
        scale = (stream[row].var(correction=0) + norm.eps).sqrt()
        passed = (part - part.mean()) / scale * norm.weight
        answers = [table[t] for t in batch.answers[row].tolist() if t >= 0]
        wrong = [table[t] for t in batch.wrong[row].tolist() if t >= 0]
        direction = torch.stack(answers).mean(0) - torch.stack(wrong).mean(0)
        assert_close(shares[writer, row], passed @ direction)


def test_the_token_of_number_0_is_an_answer_like_any_other():
    gated, batch = GatedModel(build_tiny_model("gpt2")), pairs()
    first = replace(batch, answers=torch.zeros_like(batch.answers[:, :1]))
    shares, constant = direct_logit_attribution(gated, first)
    expected = logit_diff(gated.plain(batch.clean, batch.mask, batch.last), first)
    assert_close(shares.sum(0) + constant, expected, rtol=1e-5, atol=1e-9)


def test_on_the_hand_built_model_one_head_says_it_all():
    gated = GatedModel(induction_model(leak=0.0, dtype=torch.float64))
    data = prepare(
        Induction(), induction_tokenizer(), n_train=32, n_val=0, n_test=0, seed=0, max_length=LENGTH
    )
    (batch,) = data.batches("train")
    shares, constant = direct_logit_attribution(gated, batch)
    by_name = dict(zip(gated.graph.writers, shares, strict=True))
    assert by_name[INDUCTION_HEAD].min() > 9.9
    for name in (*DISTRACTORS, "a0.h2", "m0", "m1", "input"):
        assert by_name[name].abs().max() < 1e-3
    assert constant.abs().max() < 1e-3
    streams, answer = residual_streams(gated, batch), batch.answers[:, 0]
    place = {name: ranks(logit_lens(gated, s), answer) for name, s in streams.items()}
    assert (place["m1"] == 0).all() and (place["logits"] == 0).all()
    assert (place["a1"] > 0).float().mean() > 0.5


def test_a_pair_without_a_wrong_token_is_refused():
    batch = replace(pairs(), wrong=torch.full((4, 1), -1))
    with pytest.raises(MetricError, match="a pair has none"):
        direct_logit_attribution(GatedModel(build_tiny_model("gpt2")), batch)


def test_a_head_that_is_no_linear_map_is_refused():
    model = deepcopy(build_tiny_model("gpt2"))
    gated = GatedModel(model)
    stream = torch.zeros(1, gated.graph.d_model)
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(ModelError, match="logit lens is not defined"):
        logit_lens(gated, stream)
