"""What a file of tensors must hold, said of the one thing that is not so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from circuitprune.errors import RunError
from circuitprune.files.decoding import decode

Sort = Literal["bool", "float", "integer"]


def taken(
    path: str | Path,
    tensors: Mapping[str, Shaped[Tensor, "..."]],
    name: str,
    shape: tuple[int | None, ...],
    sort: Sort = "float",
) -> Shaped[Tensor, "..."]:
    """One tensor of a file, once it is what it must be.

    Args:
        path: For the message.
        tensors: What the file holds.
        name: Of the tensor.
        shape: Its sizes; None for one that is free.
        sort: Of its values.

    Raises:
        RunError: it is missing, or of another shape or sort; says what it is instead.
    """
    found = tensors.get(name)
    if found is None:
        raise RunError(f"{path} is damaged: it holds no {name!r}, only {', '.join(tensors):.300}")
    fits = len(found.shape) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(found.shape, shape, strict=True)
    )
    if not fits or _sort(found) != sort:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise RunError(
            f"{path} is damaged: its {name!r} is {found.dtype} of shape {tuple(found.shape)}, "
            f"expected {sort} of shape ({sizes})"
        )
    return found


def _sort(tensor: Shaped[Tensor, "..."]) -> Sort | None:
    if tensor.dtype == torch.bool:
        return "bool"
    if tensor.dtype.is_complex:
        return None
    return "float" if tensor.dtype.is_floating_point else "integer"


def count(path: str | Path, notes: Mapping[str, str], name: str, most: int = 10**15) -> int:
    """A whole number from 0 in the metadata of a file of tensors.

    Raises:
        RunError: it is missing, or something else.
    """
    said = notes.get(name, "")
    if not (said.isascii() and said.isdigit() and len(said) < 20 and int(said) <= most):
        raise RunError(
            f"{path} is damaged: its {name} is {said!r:.60}, expected a whole number from 0 to "
            f"{most:,}"
        )
    return int(said)


def noted(path: str | Path, notes: Mapping[str, str], name: str) -> object:
    """A value that stands as JSON in the metadata of a file of tensors; None where it is not there.

    Raises:
        RunError: no JSON.
    """
    try:
        return decode(notes.get(name, "null"))
    except ValueError as error:
        raise RunError(f"{path} is damaged: its metadata {name!r} is no JSON: {error}") from error
