"""GGUF files: the model that they were made from, dequantised; nothing is left out unseen."""

import re
from string import ascii_letters

import pytest
import torch
from as_plain import check_is_plain
from conftest import randomise
from transformers import AutoModelForCausalLM, LlamaConfig

from circuitprune.errors import ModelError
from circuitprune.models import gguf as gguf_files
from circuitprune.models import load_model
from circuitprune.models.loading import load_tokenizer

N_VOCAB = 54
SPECIAL = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
SIZES = dict(num_hidden_layers=2, hidden_size=32, intermediate_size=64, vocab_size=N_VOCAB)
LONG = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
ROPE = {
    "default": dict(rope_type="default", rope_theta=10000.0),
    "llama3": dict(LONG, rope_theta=10000.0, original_max_position_embeddings=16),
}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama(rope="default", **settings):
    heads = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32)
    config = LlamaConfig(rope_parameters=ROPE[rope], **SIZES, **heads, **SPECIAL, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed=1)
    return model.eval()


def gguf_name(key):
    module, _, kind = key.rpartition(".")
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    _, _, layer, name = module.split(".", 3)
    return f"blk.{layer}.{LAYER[name]}.{kind}"


def rotary_order(config, key, weight):
    """Rows of q and k as llama.cpp turns them: pairs side by side, not half a head apart."""
    if not key.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    n_heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
    return weight.view(n_heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write(path, model, quantised=False):
    """The file that llama.cpp's converter would make; returns the weights it holds."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "Ġ", *ascii_letters])
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types([gguf.TokenType.UNKNOWN] + [gguf.TokenType.NORMAL] * (N_VOCAB - 1))
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add(0)
    kind, weights = gguf.GGMLQuantizationType.Q8_0, {}
    for key, weight in model.state_dict().items():
        values = rotary_order(config, key, weight).contiguous().numpy()
        if quantised and weight.ndim == 2:
            blocks = gguf.quants.quantize(values, kind)
            writer.add_tensor(gguf_name(key), blocks, raw_dtype=kind)
            values = gguf.quants.dequantize(blocks, kind)
        else:
            writer.add_tensor(gguf_name(key), values)
        weights[gguf_name(key)] = torch.tensor(values)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(model).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def rope_factors(model):
    head = model.config.hidden_size // model.config.num_attention_heads
    plain = 1 / 10000.0 ** (torch.arange(0, head, 2).float() / head)
    return plain / model.model.rotary_emb.inv_freq


def said(path):
    with pytest.raises(ModelError) as error:
        load_model(str(path))
    return str(error.value)


@pytest.mark.parametrize("rope", ROPE)
def test_a_file_is_the_model_it_was_made_from(tmp_path, rope, capfd):
    model, path = llama(rope), tmp_path / "tiny.gguf"
    write(path, model)
    calls = []
    loaded, tokenizer = load_model(str(path), progress=lambda *told: calls.append(told))
    assert calls[0][0] == 0 and calls[-1][0] == calls[-1][1] > 0
    assert capfd.readouterr() == ("", "")
    assert tokenizer("bD")["input_ids"] == [3, 31] and loaded.name_or_path == str(path)
    check_is_plain(loaded, model, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_quantised_weights_are_unpacked(tmp_path, dtype):
    model, path = llama(), tmp_path / "tiny.gguf"
    held = write(path, model, quantised=True)
    loaded, _ = load_model(str(path), dtype)
    for key, weight in loaded.state_dict().items():
        assert weight.dtype == getattr(torch, dtype)
        found = rotary_order(model.config, key, weight)
        assert torch.equal(found, held[gguf_name(key)].to(weight.dtype)), key
    assert not torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_what_lies_beside_the_file_is_not_read(tmp_path):
    write(tmp_path / "tiny.gguf", llama())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json"):
        (tmp_path / name).write_text("{ of another model")
    tokenizer, longest = load_tokenizer(str(tmp_path / "tiny.gguf"))
    assert tokenizer("bD")["input_ids"] == [3, 31] and longest == 32
    load_model(str(tmp_path / "tiny.gguf"))


def test_tensors_without_a_place_are_refused(tmp_path):
    """Transformers drops them and says nothing."""
    write(tmp_path / "tiny.gguf", llama(attention_bias=True))
    message = said(tmp_path / "tiny.gguf")
    n_biases = 2 * (32 + 16 + 16 + 32)
    held, taken = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+\d{3})\b", message)[-2:])
    assert held - taken == n_biases and "the LlamaForCausalLM that transformers" in message
    assert "biases or scales without a place would be left out" in message


def test_a_file_that_is_not_whole_is_a_model_error(tmp_path):
    path = tmp_path / "tiny.gguf"
    write(path, llama())
    path.write_bytes(path.read_bytes()[:4000])
    assert "could not be loaded" in said(path) and "It must be whole" in said(path)


@pytest.mark.parametrize("absent", ["gguf", "accelerate"])
def test_without_its_packages_the_extra_is_named(tmp_path, monkeypatch, absent):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    there = gguf_files.find_spec
    monkeypatch.setattr(
        gguf_files, "find_spec", lambda name: None if name == absent else there(name) or name
    )
    message = said(path)
    assert f"{absent}, by which transformers reads it, is not installed" in message
    assert "pip install 'circuitprune[gguf]'" in message
