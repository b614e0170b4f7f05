"""A model that is in memory already: checked, held ready for gates, and given back as it was."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from circuitprune.errors import ModelError
from circuitprune.models.refusals import refuse_quantised

_CONFIG = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
"""What the engine expects of a forward, whatever the model's config says."""
_WRAPPED = {
    "module": "model.module, without its wrapper",
    "merge_and_unload": "model.merge_and_unload(), its adapter merged into its weights",
}
"""Attributes of what wraps a model, and what to give in its place."""
_MOVING = ("AlignDevicesHook", "CpuOffload")
"""Accelerate's hooks that move what a module is given, and change nothing else."""
_TOO_LARGE = (
    "if it is too large for one, load it in bfloat16, or name it in model.name with "
    "model.shard=true, by which the processes of torchrun divide it (docs/scale.md)"
)
"""What to do about a model that no one device holds."""


class Held:
    """A model in eval, frozen and uncompiled until `release`; only flags are changed, no weight.

    Compiled code was traced without interceptions, and might be run in place of what is
    intercepted; gradient checkpointing would run a layer again after they are gone. Accelerate's
    hooks, which bring inputs to the weights, have nothing to do on one device, and hide norms whose
    Jacobian is known.

    Args:
        model: A model of transformers, or what `torch.compile` made of one.

    Raises:
        ModelError: not a model of transformers, quantised, with an adapter beside its weights,
            with hooks that convert weights, or with weights that are not all there, on one device.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = own_model(model)
        self._before: list[tuple[object, str, object]] = []
        for module in list(self.model.modules()):
            self._hold(module)
        for parameter in self.model.parameters():
            self._set(parameter, "requires_grad", False)
        for name, value in _CONFIG.items():
            self._set(self.model.config, name, value)

    def release(self) -> None:
        """Put back whatever was changed; a second time changes nothing."""
        for owner, name, value in reversed(self._before):
            setattr(owner, name, value)
        self._before.clear()

    def _hold(self, module: nn.Module) -> None:
        for name, child in module.named_children():
            self._set(module, name, _uncompiled(child))
        if _is_wrapped(module):
            self._before.append((module, "forward", vars(module).pop("forward")))
        self._set(module, "_compiled_call_impl", None)
        self._set(module, "training", False)
        if hasattr(module, "gradient_checkpointing"):
            self._set(module, "gradient_checkpointing", False)

    def _set(self, owner: object, name: str, value: object) -> None:
        before = getattr(owner, name)
        if before is not value:
            self._before.append((owner, name, before))
            setattr(owner, name, value)


def own_model(model: object) -> PreTrainedModel:
    """The model of transformers itself, of what `torch.compile` made of it, if it can be used.

    Raises:
        ModelError: as of `Held`; the message says what to give instead.
    """
    model = _uncompiled(model)
    if not isinstance(model, PreTrainedModel):
        instead = (text for name, text in _WRAPPED.items() if hasattr(model, name))
        raise ModelError(
            "a model in memory is a PreTrainedModel of transformers, got "
            f"{type(model).__name__}; give {next(instead, 'what from_pretrained returned')}"
        )
    name = type(model).__name__
    if strange := next((hook for hook in _hooks(model) if hook not in _MOVING), None):
        raise ModelError(
            f"{name} carries accelerate's {strange}, which changes its weights while it runs; take "
            "it off, accelerate.hooks.remove_hook_from_module(model, recurse=True), and convert "
            "the model, model.to(torch.float32)"
        )
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise ModelError(
            f"{name} carries an adapter of peft beside its weights; merge it first, by "
            "merge_and_unload() of the PeftModel"
        )
    refuse_quantised(name, model.config)
    _refuse_places(name, model)
    return model


def _refuse_places(name: str, model: PreTrainedModel) -> None:
    """All weights must be there, on one device."""
    devices = sorted({str(tensor.device) for tensor in _tensors(model)})
    if "meta" in devices:
        raise ModelError(
            f"weights of {name} are not in memory (device meta): it was made without any, or "
            "device_map put a part of them elsewhere. Load it onto one device, which holds it all; "
            f"{_TOO_LARGE}"
        )
    if len(devices) > 1:
        raise ModelError(
            f"{name} lies on {' and '.join(devices)}; edges are gated on one device. Load it by "
            f"device_map={{'': '{devices[-1]}'}}; {_TOO_LARGE}"
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ModelError(
            f"{name} was loaded under torch.inference_mode(), which allows no gradients; load it "
            "outside, or under torch.no_grad()"
        )


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _hooks(model: nn.Module) -> Iterator[str]:
    """Kinds of accelerate's hooks, also of those that were put into one."""
    for module in model.modules():
        if (hook := getattr(module, "_hf_hook", None)) is not None:
            yield from (type(one).__name__ for one in getattr(hook, "hooks", (hook,)))


def _is_wrapped(module: nn.Module) -> bool:
    """Whether the module's own forward runs inside compiled code, or behind accelerate's hook."""
    forward = vars(module).get("forward")
    own = getattr(forward, "_torchdynamo_orig_callable", vars(module).get("_old_forward"))
    return forward is not None and getattr(own, "__func__", None) is type(module).forward


def _uncompiled(model: object) -> object:
    """What `torch.compile` was given."""
    return getattr(model, "_orig_mod", model)
