"""A language model with other parts beside it: what to save instead, in code that works."""

import re

import pytest
import torch
import transformers
from conftest import randomise
from letters import save_tokenizer
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from circuitprune.errors import ModelError
from circuitprune.models import FAMILIES, load_model
from circuitprune.models.refusals import refuse_composite

TEXT = dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
IMAGE = dict(num_hidden_layers=1, num_attention_heads=2, hidden_size=16, intermediate_size=16)
TOKENS = dict(mm_tokens_per_image=4, image_token_index=50, boi_token_index=51, eoi_token_index=52)


@pytest.fixture
def composite(tmp_path):
    text = dict(TEXT, intermediate_size=48, head_dim=8, vocab_size=53, max_position_embeddings=32)
    image = dict(IMAGE, image_size=28, patch_size=14)
    config = Gemma3Config(text_config=text, vision_config=image, **TOKENS)
    model = Gemma3ForConditionalGeneration(config).eval()
    randomise(model, seed=1)
    model.save_pretrained(tmp_path / "whole")
    save_tokenizer(tmp_path / "whole")
    return tmp_path, model


def test_a_vision_model_says_how_to_save_its_text_part(composite, monkeypatch):
    monkeypatch.setitem(FAMILIES, "gemma3_text", FAMILIES["gemma2"])
    folder, whole = composite
    with pytest.raises(ModelError) as error:
        load_model(str(folder / "whole"))
    message = str(error.value)
    assert "Save its text part, a Gemma3ForCausalLM" in message
    (code,) = re.findall(r"in Python: (.*), copy the tokenizer", message)
    monkeypatch.chdir(folder)
    exec(code, {name: getattr(transformers, name) for name in re.findall(r"Gemma3For\w+", code)})
    save_tokenizer(folder / "text")
    model, _ = load_model(str(folder / "text"))
    tokens = torch.tensor([[5, 7, 9]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, whole(input_ids=tokens).logits)


def test_a_text_part_without_a_class_is_said(composite):
    _, whole = composite
    whole.config.get_text_config().model_type = "unheard-of"
    with pytest.raises(ModelError, match=r"no class for its text part \(unheard-of\) alone"):
        refuse_composite("x", whole.config)


def test_a_text_model_is_none():
    refuse_composite("x", transformers.LlamaConfig())
