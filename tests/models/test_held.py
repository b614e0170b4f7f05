"""A model in memory, in whatever state users have it: right under gates, then as it was before."""

import functools
from copy import deepcopy

import pytest
import torch
from as_plain import BATCH, check_is_plain
from conftest import CONFIGS, build_tiny_model, randomise
from torch import nn
from transformers import AutoModelForCausalLM

from circuitprune.engine.gated import GatedModel
from circuitprune.errors import ModelError
from circuitprune.models.held import Held, own_model

FORMER = ("gpt2", "llama", "gemma2")
"""Fused and separate projections, with and without KV heads, with norms on outputs."""


@pytest.fixture(params=FORMER)
def plain(request):
    return build_tiny_model(request.param)


@pytest.fixture
def own(plain):
    """A copy of one's own, to bring into some state."""
    return deepcopy(plain)


def state(model):
    """All that holding a model may change."""
    modules = {
        name: (
            module.training,
            getattr(module, "gradient_checkpointing", None),
            vars(module).get("forward"),
            module._compiled_call_impl,
        )
        for name, module in model.named_modules()
    }
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    config = model.config
    return modules, wanted, config.return_dict, config.output_hidden_states


def held_and_given_back(given, model, plain, **tolerance):
    before = state(model)
    gated = check_is_plain(given, plain, **tolerance)
    assert state(model) != before
    gated.release()
    gated.release()
    assert state(model) == before


# ------------------------------------------------------------------ states that are put aside


def test_a_model_in_training(plain, own):
    """Dropout, gradients of all weights, and gradient checkpointing with its hook."""
    own.train().requires_grad_(True)
    for module in own.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    own.activation_checkpointing_enable()
    own.enable_input_require_grads()
    held_and_given_back(own, own, plain)
    assert all(parameter.grad is None for parameter in own.parameters())


def test_a_config_that_asks_for_tuples_and_hidden_states(plain, own):
    own.config.return_dict, own.config.output_hidden_states = False, True
    held_and_given_back(own, own, plain)


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def its_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def layers_in_place(model):
    for layer in layers(model):
        layer.compile(backend="eager")
    return model


def layers_replaced(model):
    blocks = layers(model)
    for i, layer in enumerate(blocks):
        blocks[i] = torch.compile(layer, backend="eager")
    return model


def layers(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@pytest.mark.parametrize("compiled", [whole, in_place, its_forward])
def test_a_compiled_model_runs_uncompiled(compiled):
    """Its compiled code would be run under gates as well, and is another's."""
    plain = build_tiny_model("llama")
    own = deepcopy(plain).train()
    held_and_given_back(compiled(own), own, plain)


@pytest.mark.parametrize("compiled", [layers_in_place, layers_replaced])
def test_compiled_layers_are_put_back(compiled):
    plain = build_tiny_model("gemma2")
    own = compiled(deepcopy(plain))
    compiled = list(layers(own))
    held_and_given_back(own, own, plain)
    assert list(layers(own)) == compiled


def dispatched(model):
    """What accelerate does to every module: its `forward` in front of the module's own."""

    def instead(module, *args, **kwargs):
        args = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)
        return module._old_forward(*args, **kwargs)

    for module in model.modules():
        module._old_forward = module.forward
        hooked = functools.partial(instead, module)
        module.forward = functools.update_wrapper(hooked, module._old_forward)
    return model


def test_a_model_whose_forwards_are_replaced_by_hooks(plain, own):
    held_and_given_back(dispatched(own), own, plain)


def test_a_model_that_accelerate_dispatched():
    accelerate = pytest.importorskip("accelerate")
    plain = build_tiny_model("llama")
    own = accelerate.dispatch_model(deepcopy(plain), {"": "cpu"}, force_hooks=True)
    assert sum(hasattr(module, "_hf_hook") for module in own.modules()) > 10
    held_and_given_back(own, own, plain)


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_model_loaded_by_a_device_map(tmp_path, device_map):
    pytest.importorskip("accelerate")
    plain = build_tiny_model("llama")
    plain.save_pretrained(tmp_path)
    own = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        device_map=device_map,
        dtype=torch.float64,
        attn_implementation=plain.config._attn_implementation,
    )
    if own.device.type != "cpu":
        pytest.skip("auto is the GPU here")
    check_is_plain(own, plain)


@pytest.mark.parametrize("family", FORMER)
def test_a_model_in_half_precision_passes_its_check(family):
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32)
    randomise(model, seed=1)
    check_is_plain(deepcopy(model).bfloat16(), model.eval().bfloat16(), rtol=0.1, atol=0.3)


# ------------------------------------------------------------------ what is refused


def said(model):
    with pytest.raises(ModelError) as error:
        GatedModel(model)
    return str(error.value)


def test_weights_that_are_not_there_are_refused(own):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(own.config)
    assert "not in memory (device meta)" in said(empty)
    layers(own)[1].to("meta")  # as offloading leaves it
    assert "device_map put a part of them elsewhere" in said(own)
    assert "model.shard=true" in said(own)


def test_weights_on_two_devices_are_refused(own, monkeypatch):
    """Nothing but the names of the devices is looked at; there is one here."""
    monkeypatch.setattr(
        "circuitprune.models.held._tensors",
        lambda model: [type("OnGPU", (), {"device": f"cuda:{i}"}) for i in (0, 1)],
    )
    assert "lies on cuda:0 and cuda:1; edges are gated on one device" in said(own)


def test_hooks_that_convert_weights_are_refused(own):
    """Held without them, the model would not be itself; alone, or in one with others."""
    accelerate = pytest.importorskip("accelerate")
    for before in ([], [accelerate.hooks.AlignDevicesHook(io_same_device=True)]):
        model = deepcopy(own)
        for hook in before:
            for module in model.modules():
                accelerate.hooks.add_hook_to_module(module, hook)
        check_is_plain(model, own)
        accelerate.big_modeling.attach_layerwise_casting_hooks(model, torch.bfloat16, own.dtype)
        assert "carries accelerate's LayerwiseCastingHook" in said(model)
        accelerate.hooks.remove_hook_from_module(model, recurse=True)
        GatedModel(model.to(own.dtype)).release()


def test_weights_without_gradients_for_ever_are_refused(own):
    with torch.inference_mode():
        loaded = deepcopy(own)
    assert "torch.inference_mode()" in said(loaded)


def test_quantised_weights_are_refused(own):
    own.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert "is quantised (bitsandbytes" in said(own)


class Wrapped(nn.Module):
    """As DistributedDataParallel, and others, hold a model."""

    def __init__(self, model):
        super().__init__()
        self.module = model


def test_what_wraps_a_model_says_what_to_give(own):
    assert "got Wrapped; give model.module" in said(Wrapped(own))
    assert "got Linear; give what from_pretrained returned" in said(nn.Linear(2, 2))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_in_memory_is_refused_until_it_is_merged():
    peft = pytest.importorskip("peft")
    own, config = deepcopy(build_tiny_model("llama")), peft.LoraConfig(target_modules=["q_proj"])
    adapted = peft.get_peft_model(own, config)
    assert "give model.merge_and_unload()" in said(adapted)
    assert "carries an adapter of peft" in said(own)
    check_is_plain(adapted.merge_and_unload(), build_tiny_model("llama"))


def test_what_cannot_be_used_is_left_as_it_was(own):
    own.train().requires_grad_(True)
    before = state(own)
    own.config.model_type = "unheard-of"
    assert "is not declared" in said(own)
    assert state(own) == before


def test_training_mode_under_gates_is_refused(own):
    """Dropout, or a layer that runs again without its gates, would change numbers unseen."""
    gated = GatedModel(own)
    own.train()
    with pytest.raises(ModelError, match=r"put in training mode .* call model\.eval"):
        gated.plain(BATCH.clean, BATCH.mask)
    own.eval()
    gated.plain(BATCH.clean, BATCH.mask)


def test_two_gated_models_of_one_model_are_released_in_turn(own):
    own.train()
    before = state(own)
    first, second = Held(own), Held(own)
    second.release()
    assert not own.training
    first.release()
    assert state(own) == before
    assert own_model(whole(own)) is own
