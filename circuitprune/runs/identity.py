"""What a result is of: the model's weights, and the versions of what could change a number."""

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from circuitprune.circuits.circuit import Circuit
from circuitprune.data.pairs import Example, pairs_hash
from circuitprune.errors import RunError
from circuitprune.models.dictionary import Dictionary
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
        dictionaries: What the model's activations are cut into features by, if they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        splits: Mapping[str, Sequence[Example]],
        dictionaries: Sequence[Dictionary] = (),
    ) -> None:
        self._model, self._splits, self._dictionaries = model, splits, dictionaries

    @cached_property
    def model(self) -> str:
        """The `fingerprint` of the model and its dictionaries."""
        return fingerprint(self._model, self._dictionaries)

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


def refuse_another(path: str | Path, circuit: Circuit, model: str) -> None:
    """Nothing, unless the file of a circuit says that it is of another model.

    Args:
        path: The file.
        circuit: What it holds.
        model: Fingerprint of the model that it is to be a circuit of.

    Raises:
        RunError: it does; says both fingerprints.
    """
    theirs = circuit.provenance.get("model_fingerprint")
    if theirs not in (None, model):
        raise RunError(
            f"{path} is a circuit of another model: its model_fingerprint is {theirs}, and here it "
            f"is {model}; take it in a run of its own model, or its edges alone, as `circuitprune "
            "export --format mib` writes them"
        )


def installed() -> dict[str, str]:
    """Versions of Python, the machine and every package that could change a number."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


_BESIDE = re.compile(
    r"_.*|architectures|auto_map|(torch_)?dtype|initializer_.*|return_dict|tokenizer_class|use_cache"
    r"|transformers_version|.*(_token_ids?|drop(out)?)|.*(drop|dropout)_.*|(id2label|label2id)"
)
"""Settings of a model's config that are of its history, its making or its tokenizer: with others it
computes the same."""


def fingerprint(model: PreTrainedModel, dictionaries: Sequence[Dictionary] = ()) -> str:
    """Hash of all that decides what a model computes: weights, buffers, settings, dictionaries.

    Of tensors names, shapes and bytes. Buffers that are computed when a model is made, such as
    rotary frequencies, count by their sum to six digits: their last bits depend on the machine. Of
    the config what differs from its class's defaults, so that a default that a later transformers
    adds is no other model; not what is `_BESIDE`.
    """
    settings = json.dumps(_settings(model.config.to_diff_dict()), sort_keys=True, default=str)
    digest, kept = hashlib.sha256(settings.encode()), model.state_dict()
    for name, tensor in kept.items():
        _add(digest, name, whole_tensor(tensor))
    for name, buffer in model.named_buffers():
        if name not in kept:
            total = buffer.double().sum().item()
            digest.update(f"{name} {tuple(buffer.shape)} {total:.6g}".encode())
    for name, value in [pair for one in dictionaries for pair in vars(one).items()]:
        if isinstance(value, Tensor):
            _add(digest, name, value)
        else:
            digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()[:16]


def _settings(tree: Mapping[str, object]) -> dict[str, object]:
    kept = {key: value for key, value in tree.items() if not _BESIDE.fullmatch(str(key))}
    return {k: _settings(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


def _add(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)}".encode())
    values = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(values.view(torch.uint8).numpy().data)
