"""What torchrun tells every process that it starts: how many there are and which one this is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from circuitprune.errors import ConfigError


@dataclass
class _State:
    """Of the processes that torchrun started together; they are the process's own, so one."""

    shares: bool = True
    """Whether they share the work that is being done."""
    in_step: bool = False
    """Whether all do the same work, as those do that hold one model together."""


_STATE = _State()


def started() -> int:
    """Number of processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world() -> int:
    """Number of processes that share the work: 1 without torchrun, alone and in step."""
    return started() if _STATE.shares else 1


def on_this_machine() -> int:
    """Number of processes, of those that share the work, of the machine that this one runs on."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(started()))) if _STATE.shares else 1


def in_step() -> bool:
    """Whether all processes do the same work."""
    return _STATE.in_step


@contextmanager
def alone() -> Iterator[None]:
    """While it lasts, this process shares its work with no other."""
    _STATE.shares = False
    try:
        yield
    finally:
        _STATE.shares = True


@contextmanager
def stepping() -> Iterator[None]:
    """While it lasts, all processes do the same work in the same order, and share none of it."""
    _STATE.in_step = True
    try:
        with alone():
            yield
    finally:
        _STATE.in_step = False


def place() -> int:
    """Which of its machine's processes this one is, from 0: the card that is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def leads() -> bool:
    """Whether this is the process that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def passes_signals_on() -> bool:
    """Whether torchrun is above: what a terminal or scheduler sends to all, it sends once more."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def refuse_several() -> None:
    """Nothing in one process: for what has no work to share.

    Raises:
        ConfigError: there are several, each of which would do all of it.
    """
    if world() > 1:
        raise ConfigError(
            f"this runs in one process, but torchrun started {world()}, each of which would do all "
            "of it; start it with python. `train`, `attribute`, `refine`, `verify`, `stability` "
            "share work"
        )
