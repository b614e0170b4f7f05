"""What a checkpoint holds, looked at before it is unpacked: small files can ask for much memory.

`pickletools` names the instructions of its description and carries out none.
"""

import io
import math
import pickletools  # nosec B403
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from circuitprune.errors import RunError
from circuitprune.files.limits import HEADER
from circuitprune.files.records import from_json
from circuitprune.files.text import counted

PARTS = 1000
"""Files in a checkpoint's archive, a tensor each and a few more."""
_KNOWN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage"
)
"""What the description of a checkpoint of ours names; torch would also fill memory for others."""


def refuse_bomb(path: Path, data: bytes, most: int = PARTS) -> None:
    """Nothing, for an archive that is as small as it looks.

    Args:
        path: For the message.
        data: The file's content.
        most: Parts that it can have.

    Raises:
        RunError: more parts than any checkpoint has, parts that unpack to more than the file, a
            description that is too long, or one that names what we never write.
    """
    if data.count(b"PK\x01\x02") > most:  # before each of them becomes an object
        raise refused(path, f"more than {counted(most, 'part')}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        damaged = archive.testzip() if sum(part.file_size for part in parts) <= len(data) else None
        if damaged is not None:
            raise refused(path, f"a part {damaged!r:.60} that is not what was written")
        if sum(part.file_size for part in parts) > len(data):
            raise refused(path, f"parts that unpack to more than its {counted(len(data), 'byte')}")
        for part in parts:
            if part.filename.endswith(".pkl"):
                if part.file_size > HEADER:
                    raise refused(path, f"a description of more than {HEADER:,} bytes")
                _refuse_names(path, archive.read(part))


class _Group(TypedDict):
    lr: float


class _Optimizer(TypedDict):
    state: Mapping[object, object]
    param_groups: tuple[_Group, ...]


class _Schedule(TypedDict):
    base_lrs: tuple[float, ...]


class Checkpoint(TypedDict):
    """What Lightning and `MaskTraining` read of one."""

    global_step: int
    lr: float
    job: Mapping[str, object]
    state_dict: Mapping[str, Tensor]
    optimizer_states: tuple[_Optimizer, ...]
    lr_schedulers: tuple[_Schedule, ...]
    loops: Mapping[str, object]


def check_contents(path: Path, found: object) -> None:
    """Nothing, if everything that is read of a checkpoint is there and of its kind.

    Raises:
        RunError: says what is not.
    """
    try:
        whole = from_json(Checkpoint, found, "it")
    except RunError as error:
        raise refused(path, f"something else: {error}") from None
    optimizers, schedules = whole["optimizer_states"], whole["lr_schedulers"]
    one = len(optimizers) == len(schedules) == 1 and schedules[0]["base_lrs"]
    if not one or not optimizers[0]["param_groups"]:
        raise refused(path, "not one optimizer with its learning rates")
    if whole["global_step"] < 0 or not 0 < whole["lr"] < math.inf:
        step, rate = whole["global_step"], whole["lr"]
        raise refused(path, f"step {step} and the learning rate {rate}, which no run has")


def refuse_stretched(path: Path, found: object, most: int) -> None:
    """Nothing, unless a tensor in it claims more bytes than the file had: one number repeated.

    Raises:
        RunError: it does.
    """
    if any(one.numel() * one.element_size() > most for one in _tensors(found)):
        raise refused(path, f"a tensor of more than its {counted(most, 'byte')}")


def _refuse_names(path: Path, description: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(description):
        if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ"):
            raise refused(path, f"an instruction {opcode.name}, which no checkpoint has")
        if opcode.name == "GLOBAL" and not _KNOWN.fullmatch(str(argument)):
            raise refused(path, f"the name {str(argument)!r:.80}, which no checkpoint has")


def _tensors(found: object) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from _tensors(value)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _tensors(value)


def refused(path: Path, what: str) -> RunError:
    """What to say of a checkpoint that holds something, or nothing, of the kind."""
    return RunError(
        f"train.resume: {str(path)!r} is not a readable checkpoint of this package: it holds "
        f"{what}; pass the checkpoints/last.ckpt of an interrupted run"
    )
