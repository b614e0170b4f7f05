"""Models from a GGUF file: dequantised by transformers; what its reader leaves out is put back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from circuitprune.errors import ModelError
from circuitprune.files.text import counted

if TYPE_CHECKING:
    from gguf import ReaderTensor

_ROPE = "rope_freqs.weight"
"""By what each rotary frequency is divided: Llama 3's long contexts. Transformers drops it."""


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def refuse_without_reader(name: str) -> None:
    """Transformers reads GGUF by way of two packages.

    Raises:
        ModelError: one of them is not installed.
    """
    absent = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if absent:
        raise ModelError(
            f"{name!r} is a GGUF file, and {' and '.join(absent)}, by which transformers reads it, "
            f"{'is' if len(absent) == 1 else 'are'} not installed: pip install 'circuitprune[gguf]'"
        )


@contextmanager
def gguf_options(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The folder and the options by which `from_pretrained` reads this file and none beside it.

    In the file's own folder it would prefer the tokenizer that may lie there, of another model.
    """
    with TemporaryDirectory() as empty:
        yield empty, {"gguf_file": str(path)}


def dequantising() -> dict[str, object]:
    """What makes transformers unpack every weight, where it could also keep them packed."""
    config = getattr(transformers, "GgufConfig", None)  # since 5.24; before, they always were
    return {} if config is None else {"quantization_config": config(dequantize=True)}


@contextmanager
def unpacking(told: Callable[[list[object]], Iterator[object]]) -> Iterator[None]:
    """Where transformers would show its bar of tensors, let them be counted by `told`."""
    from transformers import modeling_gguf_pytorch_utils

    theirs = vars(modeling_gguf_pytorch_utils)
    own = theirs["tqdm"]
    theirs["tqdm"] = lambda tensors, **_: told(tensors)
    try:
        yield
    finally:
        theirs["tqdm"] = own


def complete(name: str, model: PreTrainedModel, path: Path) -> None:
    """Put back what transformers' reader left out of a model, and refuse if anything else was.

    Raises:
        ModelError: the file holds numbers that the model has no place for.
    """
    from gguf import GGUFReader

    tensors: list[ReaderTensor] = GGUFReader(path).tensors
    factors = [tensor for tensor in tensors if tensor.name == _ROPE]
    for tensor in factors:
        _divide_frequencies(model, torch.tensor(tensor.data, dtype=torch.float32))
    held = sum(int(tensor.n_elements) for tensor in tensors if tensor.name != _ROPE)
    taken = sum(parameter.numel() for parameter in model.parameters())
    if held != taken:
        raise ModelError(
            f"GGUF file {name!r} holds {counted(held, 'number')}, and the {type(model).__name__} "
            f"that transformers makes of it takes {taken:,}: biases or scales without a place "
            "would be left out. Take the model that the file was made from, as a folder or a hub "
            "id"
        )


def _divide_frequencies(model: PreTrainedModel, factors: Tensor) -> None:
    for module in model.modules():
        for name in ("inv_freq", "original_inv_freq"):
            frequencies = getattr(module, name, None)
            if isinstance(frequencies, Tensor) and frequencies.shape == factors.shape:
                frequencies.div_(factors)
