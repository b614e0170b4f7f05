"""What torchrun tells every process that it starts: how many there are and which one this is."""

import os

from circuitprune.errors import ConfigError


def world() -> int:
    """Number of processes, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_machine() -> int:
    """Number of processes of the machine that this one runs on."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world())))


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
            "of it; start it with python. `train`, `attribute` and `verify` share their work"
        )
