"""The output folder of a run and the checkpoint it goes on from: what may be used, what not."""

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from circuitprune.config import RunConfig
from circuitprune.errors import RunError
from circuitprune.files.limits import read_bytes
from circuitprune.files.whole import read_json, write_atomic, write_json
from circuitprune.runs.archive import PARTS, check_contents, refuse_bomb, refuse_stretched, refused
from circuitprune.runs.lock import NAME, refuse_unusable, unusable
from circuitprune.runs.settings import load_config

AUTO = "auto"
"""Value of `train.resume` that goes on in the run's own folder, from wherever it was left."""


def last_checkpoint(folder: Path, resume: str | None) -> str | None:
    """The checkpoint to go on from: `auto` is the folder's own, or none if it has none yet."""
    if resume != AUTO:
        return resume
    last = folder / "checkpoints" / "last.ckpt"
    return str(last) if last.exists() else None


def claim(folder: Path, resume: str | None) -> None:
    """Refuse an output folder that holds anything but, for a resumed run, an unfinished run."""
    name = repr(str(folder))
    refuse_finished(folder)
    refuse_unusable(folder)
    if not folder.is_dir() or all(map(_is_begun, folder.iterdir())):
        return
    is_run = (folder / "config.yaml").is_file() and (folder / "versions.json").is_file()
    if resume is not None and is_run:
        return
    hint = "go on in it with train.resume=auto, or " if is_run else ""
    raise RunError(f"output_dir {name} is not empty; {hint}choose another output_dir")


def refuse_finished(folder: Path) -> None:
    """Refuse an output folder that holds a finished run."""
    if (folder / "COMPLETE").exists():
        raise RunError(
            f"output_dir {str(folder)!r} holds a finished run; choose another output_dir or move "
            "it away"
        )


def _is_begun(path: Path) -> bool:
    """Whether a file is all that a process leaves that was killed before it wrote its config."""
    return path.name in (NAME, "versions.json") or path.match(".*.tmp")


def unfinished(folder: Path) -> bool:
    """Whether the folder holds an attribution that was cut short and can go on.

    Only its config need be there yet; temporary files of a killed process are no matter.
    """
    if not (folder / "config.yaml").is_file() or (folder / "COMPLETE").exists():
        return False
    return not any((folder / name).exists() for name in ("checkpoints", "gates.safetensors"))


def tidy(folder: Path) -> None:
    """Remove the temporary files that a killed process left; the caller holds the folder's lock.

    Those of shards, which several processes write at once, go with the shards.
    """
    for place in (folder, *(folder / name for name in ("checkpoints", "circuits", "evidence"))):
        for path in place.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def create(folder: Path, config: str, versions: dict[str, str]) -> None:
    """Make the output folder and the first files in it; the caller holds its lock.

    Raises:
        RunError: it cannot be written, or another process has finished a run there meanwhile.
    """
    refuse_finished(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "versions.json", versions)
        write_atomic(folder / "config.yaml", config)  # last: it makes the folder a run
    except OSError as error:
        raise unusable(folder, error) from None


def write_command(folder: Path, command: str) -> None:
    """Keep what to type for the same run, and where, apart from results: they do not depend on it.

    Where is told as seen from the folder: nothing says where the user keeps things. A working
    directory that is gone is not told.
    """
    told = {"command": command}
    with suppress(FileNotFoundError):
        told["from"] = os.path.relpath(Path.cwd(), folder.resolve())
    write_json(folder / "command.json", told)


def read_config(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config that a run left; its relative paths start from where it was made.

    Raises:
        ConfigError: a config that this version does not read.
    """
    path, base = folder / "command.json", None
    written = read_json(path) if path.is_file() else None
    if isinstance(written, dict) and isinstance(written.get("from"), str):
        base = _resolved(path, folder / written["from"])
    there = None if base == Path.cwd().resolve() else base
    return load_config(folder / "config.yaml", overrides, there)


def _resolved(path: Path, place: Path) -> Path:
    try:
        return place.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, too long, a circle of links
        raise RunError(f"{path} is damaged: its `from` is no path: {error}") from error


def read_checkpoint(path: Path, tensors: int = 0) -> dict[str, Any]:
    """A checkpoint that Lightning wrote for `MaskTraining`, or for `Tuning`.

    Args:
        path: The file.
        tensors: Weights of a model that are tuned; it then holds four parts for each, and more
            bytes than gates have.
    """
    if not path.is_file():
        raise RunError(f"train.resume: no checkpoint {str(path)!r}")
    data = read_bytes(path, "tuning" if tensors else "checkpoint")
    try:
        refuse_bomb(path, data, PARTS + 4 * tensors)
        found = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        refuse_stretched(path, found, len(data))
        check_contents(path, found)
    except RunError:
        raise
    except Exception as error:  # torch raises whatever a broken zip file or pickle leads to
        raise refused(path, "no archive of torch's, or one cut short") from error
    whole: dict[str, Any] = found
    return whole


def step_of(checkpoint: Path, tensors: int = 0) -> int:
    """The global step at which a checkpoint was written; arguments as of `read_checkpoint`."""
    return int(read_checkpoint(checkpoint, tensors)["global_step"])
