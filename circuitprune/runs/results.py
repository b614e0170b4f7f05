"""Which files of a finished run are its results, whose place nothing else may take."""

import os
from pathlib import Path

from circuitprune.errors import RunError

COMPLETE = "COMPLETE"
RESULTS = (
    "config.yaml",
    "versions.json",
    "command.json",
    "frontier.json",
    "together.json",
    "edges.csv",
    "pairs.json",
    "summary.md",
    "*.safetensors",
    "circuits/*.json",
    "checkpoints/*.ckpt",
)
"""Files that never change again; what later commands write or write anew is not among them."""
LATER = ("circuits/minimal.json",)
"""Among them by name, but of a later command."""


def output_file(path: str | Path) -> Path:
    """The path that a user gives for a file to write, to be asked before the work for it.

    Raises:
        RunError: it is a folder, or one of the results of a finished run, which would be damaged;
            or its own folder can neither be written to nor made.
    """
    path = Path(path)
    if path.is_dir():
        raise RunError(f"{str(path)!r} is a folder; give the name of the file to write")
    if path.exists() and not path.is_file():  # a pipe or a device
        return path
    whole = Path(os.path.realpath(path))
    there = next(one for one in whole.parents if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "you may not write to" if there.is_dir() else "a file is where its folder would be:"
        raise RunError(f"{str(path)!r} cannot be written: {what} {str(there)!r}; give another file")
    for folder in (whole.parent, whole.parent.parent):
        results = (COMPLETE, *result_names(folder)) if (folder / COMPLETE).is_file() else ()
        if whole.relative_to(folder).as_posix() in results:
            raise RunError(
                f"{str(path)!r} is a result of a finished run and never changes; give another file"
            )
    return path


def result_names(folder: Path) -> list[str]:
    """The results that there are in a run's folder, in order."""
    paths = {path for pattern in RESULTS for path in folder.glob(pattern) if path.is_file()}
    return sorted({path.relative_to(folder).as_posix() for path in paths} - set(LATER))
