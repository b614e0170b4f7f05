"""How large a file may be: looked at before it is read, so that no file can fill the memory."""

from pathlib import Path
from typing import BinaryIO, Literal

from circuitprune.errors import CircuitPruneError, RunError
from circuitprune.files.text import counted

Kind = Literal[
    "config", "pairs", "line", "circuit", "frontier", "json", "tensors", "checkpoint", "tuning"
]

LIMITS: dict[Kind, int] = {
    "config": 100_000,
    "pairs": 100_000_000,
    "line": 1_000_000,
    "circuit": 250_000_000,
    "frontier": 10_000_000,
    "json": 100_000_000,
    "tensors": 8_000_000_000,
    "checkpoint": 250_000_000,
    "tuning": 32_000_000_000,
}
"""Bytes of a file by what it is; `line` is one pair. A circuit by query head of 32 layers of 32
heads, every edge listed as MIB does, has 130 million."""
HEADER = 1_000_000
"""Bytes of what comes before the numbers in files of tensors and in checkpoints."""
POINTS = 10_000
"""Circuits of a frontier."""
PAIRS = 1_000_000
"""Pairs of a file."""
VALUES, DEPTH = 8_000_000, 400
"""Values of a JSON file, 1 GB of memory at worst, and how deep its brackets may be nested."""
LAYERS = 1000
"""Layers, and heads of a layer: several times what the largest models have."""
EDGES = 50_000_000
"""Edges, counted by query head, of the model that a circuit's file is of: 80 layers of 64 heads
have 40 million."""
PER_EDGE, BESIDE = 400, 5_000_000
"""Bytes of one edge in a circuit's file, and of all that is not an edge; how many edges there can
be, the model or the file's own `cfg` says."""

_PART = 1 << 20

_WORDS: dict[Kind, str] = {
    "config": "a config",
    "pairs": "a file of pairs",
    "line": "one pair",
    "circuit": "a circuit's file",
    "frontier": "a frontier",
    "json": "a file of JSON",
    "tensors": "a file of tensors",
    "checkpoint": "a checkpoint",
    "tuning": "a checkpoint of a model that is tuned",
}


def read_bytes(
    path: str | Path,
    kind: Kind,
    most: int | None = None,
    error: type[CircuitPruneError] = RunError,
) -> bytes:
    """The content of a file that is not too large; of a pipe too, which has no size to look at.

    Args:
        path: The file.
        kind: What it is, see `LIMITS`.
        most: Bytes, if something smaller than the limit is known.
        error: What is raised.

    Raises:
        CircuitPruneError: no such file, one that cannot be read, or a larger one; which names the
            limit.
    """
    limit = LIMITS[kind] if most is None else min(most, LIMITS[kind])
    try:
        size = Path(path).stat().st_size
        refuse_size(path, kind, size, limit, error)
        with Path(path).open("rb") as file:
            data = _up_to(file, size, limit)
    except (OSError, ValueError) as problem:
        said = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{path} cannot be read: {said or problem}") from problem
    refuse_size(path, kind, len(data), limit, error)
    return data


def _up_to(file: BinaryIO, size: int, limit: int) -> bytes:
    """All of a file, and if that is more than the limit, little more than the limit.

    In parts: Python sets aside as many bytes as it is asked to read, however few there are.
    """
    parts, total = [file.read(size + 1)], 0
    while parts[-1] and (total := total + len(parts[-1])) <= limit:
        parts.append(file.read(_PART))
    return parts[0] if len(parts) == 2 and not parts[1] else b"".join(parts)  # without a copy


def refuse_size(
    path: str | Path,
    kind: Kind,
    size: int,
    limit: int,
    error: type[CircuitPruneError] = RunError,
) -> None:
    """Nothing, unless there are more bytes than the limit.

    Raises:
        CircuitPruneError: which names both numbers.
    """
    if size > limit:
        raise error(
            f"{path} has {counted(size, 'byte')}; {_WORDS[kind]} has at most {limit:,} here "
            "(docs/file_formats.md), so it is not read"
        )
