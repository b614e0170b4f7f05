"""How large a file may be: looked at before it is read, so that no file can fill the memory."""

from pathlib import Path
from typing import Literal

from circuitprune.errors import CircuitPruneError, RunError

Kind = Literal["config", "pairs", "line", "circuit", "frontier", "json", "tensors", "checkpoint"]

LIMITS: dict[Kind, int] = {
    "config": 1_000_000,
    "pairs": 100_000_000,
    "line": 1_000_000,
    "circuit": 250_000_000,
    "frontier": 10_000_000,
    "json": 100_000_000,
    "tensors": 8_000_000_000,
    "checkpoint": 250_000_000,
}
"""Bytes of a file by what it is; `line` is one pair. A circuit by query head of 32 layers of 32
heads, every edge listed as MIB does, has 130 million."""
HEADER = 1_000_000
"""Bytes of what comes before the numbers in files of tensors and in checkpoints."""
POINTS = 10_000
"""Circuits of a frontier."""
PER_EDGE, BESIDE = 400, 5_000_000
"""Bytes of one edge in a circuit's file, and of all that is not an edge, if the graph is known."""

_WORDS: dict[Kind, str] = {
    "config": "a config",
    "pairs": "a file of pairs",
    "line": "one pair",
    "circuit": "a circuit's file",
    "frontier": "a frontier",
    "json": "a file of JSON",
    "tensors": "a file of tensors",
    "checkpoint": "a checkpoint",
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
        refuse_size(path, kind, Path(path).stat().st_size, limit, error)
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as problem:
        said = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{path} cannot be read: {said or problem}") from problem
    refuse_size(path, kind, len(data), limit, error)
    return data


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
            f"{path} has {size:,} bytes; {_WORDS[kind]} has at most {limit:,} here "
            "(docs/file_formats.md), so it is not read"
        )
