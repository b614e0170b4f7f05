"""What a result is of: the model's weights, and the versions of what could change a number."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers import PreTrainedModel

from circuitprune.data.pairs import Example, pairs_hash
from circuitprune.models.sharding import whole_tensor

PACKAGES = (
    "circuitprune",
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "torchmetrics",
    "tensorboard",
    "safetensors",
)


class Identity:
    """What tells one study from another: hashes of its model and pairs, each computed once.

    Args:
        model: Frozen; its weights are hashed when first asked for.
        splits: Pairs by the name of their split.
    """

    def __init__(self, model: PreTrainedModel, splits: Mapping[str, Sequence[Example]]) -> None:
        self._model, self._splits = model, splits

    @cached_property
    def model(self) -> str:
        """The model's `fingerprint`."""
        return fingerprint(self._model)

    @cached_property
    def pairs(self) -> str:
        """Hash of all pairs and of how they are split."""
        return pairs_hash(self._splits)

    @cached_property
    def training_pairs(self) -> str:
        """Hash of the training pairs alone."""
        return pairs_hash({"train": self._splits["train"]})

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of everything that could change a number, and the model's fingerprint."""
        return {**installed(), "model_fingerprint": self.model}


def installed() -> dict[str, str]:
    """Versions of Python, the machine and every package that could change a number."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def fingerprint(model: PreTrainedModel) -> str:
    """Hash of every weight and buffer of the model: names, shapes and bytes.

    Buffers that are computed when a model is made, such as rotary frequencies, count by their sum
    to six digits: their last bits depend on the machine.
    """
    digest, kept = hashlib.sha256(), model.state_dict()
    for name, tensor in kept.items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values = whole_tensor(tensor).detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    for name, buffer in model.named_buffers():
        if name not in kept:
            total = buffer.double().sum().item()
            digest.update(f"{name} {tuple(buffer.shape)} {total:.6g}".encode())
    return digest.hexdigest()[:16]
