"""Adapters of peft: the base model with the adapter merged, whole or not at all."""

import json
from copy import deepcopy

import pytest
import torch
from as_plain import check_is_plain
from conftest import CONFIGS, randomise
from letters import save_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from circuitprune.errors import ModelError
from circuitprune.models import adapters, load_model
from circuitprune.models.loading import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
WEIGHTS = "adapter_model.safetensors"


def llama():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"](), dtype=torch.float32)
    randomise(model, seed=1)
    return model.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    """A folder as peft saves it, and the base model with the product of its two factors added."""
    peft = pytest.importorskip("peft")
    named = ["q_proj", "down_proj"]
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=named, task_type="CAUSAL_LM")
    adapted, expected = peft.get_peft_model(llama(), config), llama()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    for name, module in adapted.base_model.model.named_modules():
        if name.endswith(tuple(named)):
            change = module.lora_B["default"].weight @ module.lora_A["default"].weight
            expected.get_submodule(name).weight.data += 3 * change.detach()
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path)
    return tmp_path, expected


def said(path):
    with pytest.raises(ModelError) as error:
        load_model(str(path))
    return str(error.value)


def edited(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def test_an_adapter_is_merged_into_its_base_model(adapter):
    folder, expected = adapter
    model, tokenizer = load_model(str(folder))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in expected.named_parameters()}
    assert tokenizer("fH", add_special_tokens=False)["input_ids"] == [5, 33]
    assert load_tokenizer(str(folder))[1] == 32
    check_is_plain(deepcopy(model), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):
        check_is_plain(model, llama(), rtol=1e-4, atol=1e-4)


def test_an_adapter_may_bring_its_own_tokenizer(adapter, base):
    folder, _ = adapter
    for file in base.glob("tokenizer*"):
        text = file.read_text().replace('"f": 5', '"f": 6').replace('"g": 6', '"g": 5')
        (folder / file.name).write_text(text)
    assert load_model(str(folder))[1]("fg", add_special_tokens=False)["input_ids"] == [6, 5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop(min(weights)), "is not in its weights, one of 1"),
        (
            lambda weights: weights.update(x=torch.zeros(1)),
            "does not fit: x has no place in its base model",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter, change, words):
    """Peft warns, and goes on."""
    weights = load_file(adapter[0] / WEIGHTS)
    change(weights)
    save_file(weights, adapter[0] / WEIGHTS)
    assert words in said(adapter[0])


def test_pickled_adapters_are_refused(adapter):
    torch.save(load_file(adapter[0] / WEIGHTS), adapter[0] / "adapter_model.bin")
    (adapter[0] / WEIGHTS).unlink()
    assert f"has no {WEIGHTS}" in said(adapter[0])


def test_what_is_no_change_of_weights_is_refused(base, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(llama(), config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path)
    assert "of kind PROMPT_TUNING, which is no change of weights" in said(tmp_path)


def test_a_base_model_that_is_not_there_is_named(adapter):
    folder = edited(adapter[0], base_model_name_or_path="./nowhere")
    assert said(folder).startswith(f"adapter {str(folder)!r}, whose base model is './nowhere': no")
    assert "does not say what it adapts" in said(edited(folder, base_model_name_or_path=None))
    assert "is an adapter" in said(edited(folder, base_model_name_or_path=str(folder)))


def test_a_base_model_that_is_not_whole_is_named_with_the_adapter(adapter, tmp_path_factory):
    bare = tmp_path_factory.mktemp("bare")
    llama().config.save_pretrained(bare)
    folder = edited(adapter[0], base_model_name_or_path=str(bare))
    message = said(folder)
    assert message.startswith(f"adapter {str(folder)!r}, whose base model is {str(bare)!r}: folder")


def test_without_peft_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    message = said(tmp_path)
    assert "peft, which merges it into its base model, is not installed" in message
    assert "pip install 'circuitprune[peft]'" in message and "merge_and_unload" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"base_model_name_or_path": 5}'])
def test_a_damaged_config_is_a_model_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr(adapters, "find_spec", lambda name: name)
    (tmp_path / "adapter_config.json").write_text(text)
    assert "adapter" in said(tmp_path)
