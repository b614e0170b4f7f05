"""Files that are either whole or absent: atomic writes, strict JSON, tensors with a checksum."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from torch import Tensor

from circuitprune.errors import RunError
from circuitprune.files.atomic import write_atomic as write_atomic
from circuitprune.files.decoding import decode
from circuitprune.files.limits import HEADER, Kind, read_bytes
from circuitprune.files.records import to_json
from circuitprune.files.text import counted


def write_json(path: str | Path, value: object, checked: bool = False) -> None:
    """Writes `value`, a record or plain values, as indented JSON with a newline, atomically.

    Args:
        path: The file.
        value: An object of JSON where it is checked.
        checked: Begin with `sha256`, a checksum of all else; to be read with `checked` too.

    Raises:
        RunError: `value` holds NaN, an infinity, or something that JSON has no form for.
    """
    try:
        plain = to_json(value)
        if checked and isinstance(plain, dict):
            plain = {SUM: _sum(plain), **plain}
        text = json.dumps(plain, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} was not written: {error}") from error
    write_atomic(path, text + "\n")


def read_json(
    path: str | Path, kind: Kind = "json", most: int | None = None, checked: bool = False
) -> object:
    """The value of a JSON file. In a circuit `NaN` is read, as EAP-IG writes it.

    Args:
        path: The file.
        kind: What it is, see `LIMITS`.
        most: Bytes, if something smaller than the limit is known.
        checked: It is one that `write_json` writes with a checksum, which is held against all else
            and taken off. One of a version before has none. In a file of another program a key of
            that name is a key as any other.

    Raises:
        RunError: the file is missing, larger than its kind may be, or not what `decode` reads; or a
            checked one has changed since.
    """
    value = parse_json(path, read_bytes(path, kind, most), nan=kind == "circuit")
    if not checked or not isinstance(value, dict) or SUM not in value:
        return value
    if value.pop(SUM) != _sum(value):
        raise RunError(
            f"{path} is not as it was written: something in it has changed since; take it from a "
            "copy, or write it anew by the command that it is of"
        )
    return value


SUM = "sha256"
"""First key of a JSON file with a checksum."""


def _sum(plain: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(plain, allow_nan=False).encode()).hexdigest()


def parse_json(path: str | Path, data: bytes, nan: bool = False) -> object:
    """The value of what was read from a file; see `decode`.

    Raises:
        RunError: it has none; names the file.
    """
    try:
        return decode(data, nan)
    except ValueError as error:
        raise RunError(f"{path} is not a JSON file: {error}") from error


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Shaped[Tensor, "..."]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named tensors as safetensors, atomically, with a checksum in the metadata.

    The metadata gains one key, `sha256`, over the tensors' names, dtypes, shapes and bytes and
    the other metadata: safetensors by itself does not notice a changed byte.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    notes = dict(metadata or {})
    if "sha256" in notes:
        raise RunError(f"{path} was not written: the metadata key 'sha256' is reserved")
    # clone: safetensors refuses tensors that share memory
    content = safetensors.torch.save({name: tensor.clone() for name, tensor in whole.items()})
    write_atomic(path, _with_metadata(content, {**notes, "sha256": _digest(whole, notes)}))


def read_foreign_tensors(
    path: str | Path,
) -> tuple[dict[str, Shaped[Tensor, "..."]], dict[str, str]]:
    """Tensors and metadata of a safetensors file of any program.

    Raises:
        RunError: missing, too large, truncated or not safetensors.
    """
    path = Path(path)
    _refuse_header(path)
    data = read_bytes(path, "tensors")
    header = _header(path, data)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(
            f"{path} is not a safetensors file or is truncated: {error!s:.300}"
        ) from error
    written = header.get("__metadata__")
    return tensors, dict(written) if isinstance(written, dict) else {}


def read_tensors(
    path: str | Path, finite: bool = False
) -> tuple[dict[str, Shaped[Tensor, "..."]], dict[str, str]]:
    """Tensors and metadata of a file of `write_tensors`, after checking it.

    Args:
        path: The file.
        finite: Also refuse NaN and infinite values.

    Raises:
        RunError: missing, too large, truncated, not safetensors, checksum mismatch, or non-finite
            values.
    """
    path = Path(path)
    tensors, notes = read_foreign_tensors(path)
    expected = notes.pop("sha256", None)
    if expected is None:
        raise RunError(f"{path} has no checksum, so circuitprune did not write it")
    if _digest(tensors, notes) != expected:
        raise RunError(f"checksum mismatch in {path}: its bytes have changed since it was written")
    bad = [n for n, t in tensors.items() if finite and not torch.isfinite(t).all()]
    if bad:
        raise RunError(f"{path} holds NaN or infinite values in {', '.join(bad)}")
    return tensors, notes


def _refuse_header(path: Path) -> None:
    """Look at the length that a file gives for its header, before the file is read."""
    try:
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    if HEADER < length <= size:  # beyond its end, it is truncated
        raise RunError(
            f"{path} has a header of {counted(length, 'byte')}; one has at most {HEADER:,} here "
            "(docs/file_formats.md), so it is not read"
        )


def _header(path: Path, data: bytes) -> dict[str, object]:
    """The JSON header of a safetensors file: 8 bytes of length, the header, the tensor bytes."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or len(data) < 8 + length:
        raise RunError(
            f"{path} is truncated: {counted(len(data), 'byte')}, its header alone needs more"
        )
    try:
        header = decode(data[8 : 8 + length])
    except ValueError as error:
        raise RunError(f"{path} is not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise RunError(f"{path} is not a safetensors file: its header is not an object")
    return header


def _with_metadata(content: bytes, notes: dict[str, str]) -> bytes:
    """The same safetensors file with sorted metadata; the library's own order varies by process."""
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(notes.items())), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for an aligned body
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _digest(tensors: Mapping[str, Shaped[Tensor, "..."]], notes: Mapping[str, str]) -> str:
    """SHA-256 over the metadata and every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
