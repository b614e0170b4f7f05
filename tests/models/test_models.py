"""Models by name: folders that load, folders that must not, and the ports found in them."""

import json
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import replace

import family_configs
import pytest
import reference
import torch
from conftest import CONFIGS, randomise
from letters import save_tokenizer
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
)

from circuitprune.errors import ModelError
from circuitprune.models import FAMILIES, KV_READERS, Ports, load_model, sources
from circuitprune.models.families import family_of
from circuitprune.models.family import Family
from circuitprune.models.loading import load_tokenizer, longest_prompt


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(family)`: a folder as Hugging Face writes it, and the model in it."""
    made = {}

    def folder_and_model(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            model = AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32)
            randomise(model, seed=1)
            model.eval().save_pretrained(folder)
            save_tokenizer(folder)
            made[family] = folder, model
        return made[family]

    return folder_and_model


@pytest.fixture
def gpt2_copy(saved, tmp_path):
    """A folder of one's own to spoil."""
    return shutil.copytree(saved("gpt2")[0], tmp_path / "gpt2")


def message_of(name, **kwargs):
    with pytest.raises(ModelError) as error:
        load_model(str(name), **kwargs)
    return str(error.value)


# ------------------------------------------------------------------ folders that load


def test_a_saved_model_of_every_family_loads(saved, family):
    folder, original = saved(family)
    model, tokenizer = load_model(str(folder))
    assert not model.training and model.dtype == torch.float32
    assert tokenizer("fH", add_special_tokens=False)["input_ids"] == [5, 33]
    tokens = torch.tensor([[5, 7, 11, 3]])
    with torch.no_grad():
        assert_close(model(tokens).logits, original(tokens).logits, rtol=1e-4, atol=1e-4)


def test_loading_tells_of_every_weight_and_only_then(saved, capfd):
    folder, original = saved("gpt2")
    calls = []
    load_model(str(folder), progress=lambda *told: calls.append(told))
    n = len(list(original.parameters()))
    assert calls[0][0] == 0 and calls[-1][0] == calls[-1][1] >= n
    load_model(str(folder))
    assert len(calls) == calls[-1][1] + 1
    assert capfd.readouterr() == ("", "")


def test_the_attention_code_is_what_the_family_declares(saved, family):
    model, _ = load_model(str(saved(family)[0]))
    declared = FAMILIES[model.config.model_type].attention_implementation
    assert model.config._attn_implementation == declared
    assert (declared == "eager") == (family == "gemma2")


@pytest.mark.parametrize("saved_as", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_dtype_is_the_one_asked_for_never_the_checkpoints(saved, tmp_path, saved_as, dtype):
    _, model = saved("llama")
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_config(model.config, dtype=saved_as).save_pretrained(folder)
    save_tokenizer(folder)
    loaded, _ = load_model(str(folder), dtype)
    assert {p.dtype for p in loaded.parameters()} == {getattr(torch, dtype)}


def test_an_unknown_dtype_names_the_known_ones(saved):
    message = message_of(saved("gpt2")[0], dtype="float16")
    assert message == "model.dtype must be one of float32, float64, bfloat16, got 'float16'"


# ------------------------------------------------------------------ folders that must not load


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_folder_that_does_not_exist(name):
    message = message_of(name)
    assert f"no folder {name!r}" in message and "a folder, a .gguf file or a hub id" in message


def test_a_file_that_is_no_model_says_what_is(saved, tmp_path):
    weights = saved("gpt2")[0] / "model.safetensors"
    message = message_of(weights)
    assert (
        "is a file, and not one of GGUF" in message and "Of safetensors it is the folder" in message
    )
    assert "no file" in message_of(tmp_path / "none.gguf")


def test_a_folder_without_a_config(tmp_path):
    message = message_of(tmp_path)
    assert str(tmp_path) in message and "has no config.json" in message
    assert "model.safetensors and tokenizer.json" in message


def bert():
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return BertModel(BertConfig(vocab_size=20, **sizes))


@pytest.mark.parametrize(
    ("family", "build"),
    [("bert", bert)],
)
def test_an_undeclared_family_names_the_declared_ones(tmp_path, family, build):
    build().save_pretrained(tmp_path)
    message = message_of(tmp_path)
    assert f"family {family!r} is not declared" in message and "docs/extending.md" in message
    for declared in FAMILIES:
        assert declared in message


def test_pickled_weights_are_refused(saved, tmp_path):
    """Reading a pickle runs whatever code it holds."""
    _, model = saved("gpt2")
    model.config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    message = message_of(tmp_path)
    assert "could not be loaded" in message and "model.safetensors" in message


def test_a_config_that_is_no_json(gpt2_copy):
    (gpt2_copy / "config.json").write_text("{")
    assert "not a valid JSON" in message_of(gpt2_copy)


def test_a_truncated_download_is_a_model_error(gpt2_copy):
    weights = gpt2_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(gpt2_copy) in message_of(gpt2_copy)


def test_weights_that_do_not_fit_the_config_are_a_model_error(gpt2_copy):
    config = json.loads((gpt2_copy / "config.json").read_text())
    (gpt2_copy / "config.json").write_text(json.dumps(config | {"n_embd": 64}))
    message = message_of(gpt2_copy)
    assert str(gpt2_copy) in message and "of another shape than its config.json says" in message
    assert "transformer.h.0.attn.c_attn.bias" in message and "more are of" in message


def test_weights_that_lack_a_layer_are_a_model_error(gpt2_copy):
    """Hugging Face fills the gap with random numbers, so every result would be noise."""
    config = json.loads((gpt2_copy / "config.json").read_text())
    (gpt2_copy / "config.json").write_text(json.dumps(config | {"n_layer": 4}))
    message = message_of(gpt2_copy)
    assert str(gpt2_copy) in message and "transformer.h.3.attn.c_attn.bias" in message
    assert "and 9 more are missing from its weights" in message


def edited(folder, **settings):
    """A folder whose config.json says something else than its weights."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def rewritten(folder, change):
    """A folder with other weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def llama_copy(saved, tmp_path):
    return shutil.copytree(saved("llama")[0], tmp_path / "llama")


def test_biases_that_the_config_has_no_place_for_are_named(llama_copy):
    message = message_of(edited(llama_copy, attention_bias=False, mlp_bias=False))
    assert "model.layers.0.mlp.down_proj.bias" in message and "and 18 more are in its" in message
    assert "config.json has no place for" in message


def test_layers_that_the_config_has_no_place_for_are_named(llama_copy):
    message = message_of(edited(llama_copy, num_hidden_layers=2))
    assert "model.layers.2.input_layernorm.weight" in message and "no place for" in message


def test_scales_of_fp8_weights_are_named(llama_copy):
    def quantise(weights):
        for key in [key for key in weights if "proj.weight" in key]:
            scale = weights[key].abs().max() / 448
            weights[key] = (weights[key] / scale).to(torch.float8_e4m3fn)
            weights[f"{key}_scale_inv"] = scale.view(1, 1)

    message = message_of(rewritten(llama_copy, quantise))
    assert "model.layers.0.mlp.down_proj.weight_scale_inv" in message and "no place for" in message


def test_constants_of_old_files_are_no_weights(gpt2_copy):
    def old(weights):
        weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)

    tokens = torch.tensor([[5, 6, 7]])
    before = load_model(str(gpt2_copy))[0](tokens).logits
    after = load_model(str(rewritten(gpt2_copy, old)))[0](tokens).logits
    assert torch.equal(after, before)


def test_a_sharded_folder_is_the_model(saved, tmp_path):
    _, original = saved("llama")
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    save_tokenizer(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3 and (tmp_path / "model.safetensors.index.json").is_file()
    model, _ = load_model(str(tmp_path))
    for name, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    shards[1].unlink()
    assert str(tmp_path) in message_of(tmp_path) and shards[1].name in message_of(tmp_path)


def test_an_adapter_beside_a_model_is_refused(llama_copy):
    """With peft it would be loaded, without it left out: one name for two models."""
    (llama_copy / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    message = message_of(llama_copy)
    assert "adapter_config.json" in message and "Merge it first" in message
    assert "merge_and_unload" in message


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "fp8"])
def test_a_quantised_model_is_refused_in_a_sentence(llama_copy, method):
    kind = {"quant_method": method, "bits": 4}
    message = message_of(edited(llama_copy, quantization_config=kind))
    assert f"is quantised ({method}" in message and "dequantize" in message


SPOILT = {
    "config.json": [
        '{"model_type": "gpt2", "n_head": 0}',
        '{"model_type": "gpt2", "n_layer": "x"}',
        '{"model_type": "gpt2", "vocab_size": -3}',
        '{"model_type": ["gpt2"]}',
        '{"model_type": "gpt2", "quantization_config": 5}',
        "[]",
        "",
        "\udcff",
    ],
    "tokenizer.json": ["{}", "[]", '{"model": {"type": "BPE"}}', "", '{"version": 7}'],
    "tokenizer_config.json": ["[]", "{", '{"tokenizer_class": 7}', '{"eos_token": {}}'],
    "generation_config.json": ["[]", "{"],
    "model.safetensors": ["", "x" * 100, "\x08\0\0\0\0\0\0\0{}      "],
}


@pytest.mark.parametrize("file", SPOILT)
def test_whatever_is_damaged_is_a_model_error(gpt2_copy, file):
    good = (gpt2_copy / file).read_bytes()
    for text in SPOILT[file]:
        (gpt2_copy / file).write_bytes(text.encode(errors="surrogateescape"))
        with suppress(ModelError):  # some damage does no harm
            load_model(str(gpt2_copy))
    (gpt2_copy / file).write_bytes(good)
    load_model(str(gpt2_copy))


def test_an_embedding_that_is_not_tied_must_be_there(saved, tmp_path):
    folder = shutil.copytree(saved("llama")[0], tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight is missing from its weights" in message_of(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    load_model(str(folder))


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "LlamaModel", "BertModel"])
def test_a_config_that_names_no_causal_model(saved, tmp_path, kind):
    folder = shutil.copytree(saved("llama")[0], tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [kind]}))
    assert f"is a {kind}, not a causal language model" in message_of(folder)
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    load_model(str(folder))


def test_a_report_of_weights_is_not_printed_over_the_message(gpt2_copy, capsys):
    config = json.loads((gpt2_copy / "config.json").read_text())
    (gpt2_copy / "config.json").write_text(json.dumps(config | {"n_layer": 4}))
    message_of(gpt2_copy)
    assert "REPORT" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_folder_without_a_tokenizer_is_a_model_error(saved, tmp_path, family):
    """For some families transformers makes an empty one."""
    folder = shutil.copytree(saved(family)[0], tmp_path / family)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer.json" in message_of(folder)


# ------------------------------------------------------------------ hub ids without a hub


@pytest.fixture
def offline(monkeypatch):
    """No name resolves, and nothing may be connected to."""

    def unresolved(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    def refused(*args, **kwargs):
        raise AssertionError("a connection was tried")

    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def naps(monkeypatch):
    """How long anybody slept between tries; nobody really sleeps."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("name", ["no-such-model-here", "nobody/no-such-model-here"])
def test_a_hub_id_offline_says_what_to_download_and_where_to_put_it(offline, naps, name):
    message = message_of(name)
    assert not naps, "transformers tried again and again"
    assert f"hub model {name!r} is neither cached nor reachable" in message
    assert f"hf download {name} " in message and "*.safetensors" in message
    assert f"--local-dir models/{name}" in message and f"model.name=models/{name}" in message


def test_offline_by_choice_is_said(offline, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "(HF_HUB_OFFLINE is set)" in message_of("nobody/no-such-model-here")


@pytest.mark.parametrize("value", ["0", "false", "", "no"])
def test_offline_that_is_switched_off_is_not_offline(offline, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [])
    assert sources.hub_reachable()
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    assert not sources.hub_reachable()


def test_a_folder_that_is_not_here_is_thought_of_before_the_hub(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = message_of("m/model")
    assert message.startswith(f"there is no folder 'm/model' in '{tmp_path}'")
    assert "model.name=/path/to/model" in message


def test_a_folder_loads_offline(offline, saved):
    model, tokenizer = load_model(str(saved("gpt2")[0]))
    assert model.config.model_type == "gpt2" and len(tokenizer) > 0


def test_an_unknown_shipped_model_names_those_there_are():
    assert "Shipped models: zoo/small" in message_of("zoo/big")


# ------------------------------------------------------------------ ports


@pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
def test_ports_are_the_modules_of_the_family(model, family, kv_readers):
    ports = Ports(model, kv_readers)
    assert ports.graph == reference.graph_of(model, family, kv_readers)
    assert bool(ports.post_norms) == (family == "gemma2")
    assert ports.final_norm is reference.final_norm(model, family)
    for number, (found, expected) in enumerate(
        zip(ports.layers, reference.layers(model, family), strict=True)
    ):
        assert found.attention is expected.attention and found.output is expected.output
        assert found.mlp is expected.mlp and found.attention_norm is expected.attention_norm
        assert (found.attention_post_norm or reference.NO_NORM) is expected.post_attention
        assert (found.mlp_post_norm or found.mlp) is expected.mlp_end
        for head in range(ports.graph.n_heads):
            expected = reference.output_matrix(model, family, number, head)
            assert_close(ports.head_weight(number)[head], expected)


@pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
def test_projections_are_the_slices_of_each_reader(model, family, kv_readers):
    ports, group = Ports(model, kv_readers), reference.sizes(model, family)
    for number in range(group.n_layers):
        for port, projection in zip("qkv", ports.projections(number), strict=True):
            for reader, weight in enumerate(projection.weight):
                shared = port != "q" and kv_readers == "query_head"
                index = reader // (group.n_heads // group.n_kv) if shared else reader
                module, features = reference.projection(model, family, number, port, index)
                assert_close(weight.T, reference.matrix(module)[features])
                bias = reference.bias(module)[features]
                found = (
                    torch.zeros_like(bias) if projection.bias is None else projection.bias[reader]
                )
                assert_close(found, bias)


def test_key_value_readers_are_counted_by_their_own_names(tiny_model):
    assert KV_READERS == ("kv_head", "query_head")
    model = tiny_model("llama")
    assert Ports(model).graph.n_kv_readers == 2
    assert "a0.kv1<k>" in Ports(model, "kv_head").graph.readers
    assert "a0.h3<k>" in Ports(model, "query_head").graph.readers
    with pytest.raises(ModelError, match=r"kv_head.*query_head.*got 'head'"):
        Ports(model, "head")


def test_a_module_that_is_not_there_is_named(tiny_model, monkeypatch):
    monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], output="out_proj"))
    with pytest.raises(ModelError, match=r"LlamaAttention has no module 'out_proj'"):
        Ports(tiny_model("llama"))


def test_every_declared_family_has_a_tiny_model_under_test():
    configs = [config() for config in family_configs.CONFIGS.values()]
    assert {config.model_type for config in configs} == set(FAMILIES)
    for config in configs:
        declared = FAMILIES[config.model_type]
        if isinstance(declared, Family):
            assert family_of(config) is declared
        else:
            assert family_of(config).layers == declared(config).layers


def test_a_tokenizer_comes_without_weights_and_with_the_longest_prompt(saved, tmp_path):
    whole = load_model(str(saved("gpt2")[0]))
    folder = shutil.copytree(saved("gpt2")[0], tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    tokenizer, longest = load_tokenizer(str(folder))
    assert tokenizer("a b")["input_ids"] == whole[1]("a b")["input_ids"]
    assert longest == longest_prompt(whole[0].config) == whole[0].config.n_positions
    (folder / "tokenizer.json").unlink()
    for name, words in ((str(folder), "token"), (str(tmp_path / "no" / "x"), "no folder")):
        with pytest.raises(ModelError, match=words):
            load_tokenizer(name)
