"""What a person is told when a command fails: one sentence, or, of a bug, where to report it.

Errors of other packages are known by name: to name one is not to import it.
"""

import os
import signal
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from circuitprune.errors import (
    CircuitPruneError,
    ConfigError,
    ModelError,
    RunError,
    is_out_of_memory,
)
from circuitprune.runs.stopping import Stopped

INTERRUPTED = 130
PREEMPTED = 75
"""Exit code of a command that a scheduler's signal stopped; `EX_TEMPFAIL` of sysexits.h."""
BUG = 70
"""Exit code of what nobody foresaw; `EX_SOFTWARE` of sysexits.h."""


def told(error: BaseException, hint: str) -> tuple[int, str]:
    """Exit code and message for whatever ended a command.

    Our own errors, and those that a file, a model, a setting or this machine can cause, are one
    sentence. Anything else is a bug: its traceback, and what to do with it.

    Args:
        error: What was raised.
        hint: What to do after an interruption.
    """
    if isinstance(error, Stopped) and error.number != signal.SIGINT:
        return PREEMPTED, f"stopped by {signal.Signals(error.number).name}; {hint}"
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning makes both of signals
        return INTERRUPTED, f"interrupted; {hint}"
    rank = os.environ.get("RANK", "0")
    code, message = _explained(error)
    return code, f"error: {message}" if rank == "0" else f"error on rank {rank}: {message}"


def _explained(error: BaseException) -> tuple[int, str]:
    if isinstance(error, CircuitPruneError):
        return error.exit_code, str(error)
    if is_out_of_memory(error):
        return RunError.exit_code, _memory(error)
    of = {f"{one.__module__.partition('.')[0]}.{one.__name__}" for one in type(error).__mro__}
    for name, (code, say) in KINDS.items():
        if name in of:
            return code, say(error)
    for part, (code, sentence) in WORDS.items():
        if part in str(error):
            return code, sentence
    return BUG, _bug(error)


def _memory(error: BaseException) -> str:
    """Which settings help, and the forecast of the dry run if it is known by now."""
    notes = getattr(error, "__notes__", None)
    told = f"the forecast was {notes[0]}" if notes else "--dry-run forecasts what they take"
    return (
        "out of memory; make train.batch_size, verify.batch_size, task.n_train or cache.max_gb "
        f"smaller, set model.dtype=bfloat16, or take a smaller model; {told}"
    )


def _of_system(error: BaseException) -> str:
    """An OSError: which file, and what the system says of it."""
    assert isinstance(error, OSError)
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{error.strerror or error}; check the path, its permissions and free space"


def _encoding(error: BaseException) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error}; this terminal cannot show it: set PYTHONIOENCODING=utf-8"
    return f"a file is not UTF-8 text ({error}); save it as UTF-8"


def _tensors(error: BaseException) -> str:
    return f"a file is not safetensors or is truncated: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


Say = Callable[[BaseException], str]
KINDS: dict[str, tuple[int, Say]] = {
    "builtins.OSError": (RunError.exit_code, _of_system),
    "builtins.UnicodeError": (RunError.exit_code, _encoding),
    "safetensors.SafetensorError": (ModelError.exit_code, _tensors),
    "safetensors_rust.SafetensorError": (ModelError.exit_code, _tensors),  # of versions before 0.6
    "yaml.YAMLError": (
        ConfigError.exit_code,
        lambda error: f"a setting is not yaml: {_first_line(error)}",
    ),
    "lightning.MisconfigurationException": (
        ConfigError.exit_code,
        lambda error: f"train.trainer or train.device cannot be used: {_first_line(error)}",
    ),
}
"""Errors by package and class: exit code and sentence."""
WORDS: dict[str, tuple[int, str]] = {
    "PytorchStreamWriter failed": (
        RunError.exit_code,
        "a checkpoint was not written; check free space and permissions of output_dir",
    ),
}
"""The same for errors that have no class of their own, by words in them."""


def _bug(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error))
    return (
        f"this is a bug in circuitprune {installed_version()}, not of your making: "
        f"{type(error).__name__}: {_first_line(error)}\n{lines}"
        "Please report it where you have circuitprune from, with all of this and with what you "
        "typed; CONTRIBUTING.md says what else helps"
    )


def installed_version() -> str:
    """Of this package, for `--version` and reports."""
    try:
        return version("circuitprune")
    except PackageNotFoundError:
        return "(not installed)"
