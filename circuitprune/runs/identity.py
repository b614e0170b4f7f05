"""What a result is of: the model's weights, and the versions of what could change a number."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers import PreTrainedModel

PACKAGES = (
    "circuitprune",
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "torchmetrics",
    "tensorboard",
    "omegaconf",
    "safetensors",
)


def versions(model: PreTrainedModel) -> dict[str, str]:
    """Versions of everything that could change a number, and the model's fingerprint."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "model_fingerprint": fingerprint(model)}


def fingerprint(model: PreTrainedModel) -> str:
    """Hash of every weight and buffer of the model: names, shapes and bytes.

    Buffers that are computed when a model is made, such as rotary frequencies, count by their sum
    to six digits: their last bits depend on the machine.
    """
    digest, kept = hashlib.sha256(), model.state_dict()
    for name, tensor in kept.items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy())
    for name, buffer in model.named_buffers():
        if name not in kept:
            total = buffer.double().sum().item()
            digest.update(f"{name} {tuple(buffer.shape)} {total:.6g}".encode())
    return digest.hexdigest()[:16]
