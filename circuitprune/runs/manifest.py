"""What a finished run holds: the hash of each of its files, in `COMPLETE`."""

import hashlib
from pathlib import Path

from circuitprune.errors import RunError
from circuitprune.files.limits import read_bytes
from circuitprune.files.whole import parse_json, write_json
from circuitprune.runs.results import COMPLETE, result_names

__all__ = ["COMPLETE", "check_seal", "seal"]


def seal(folder: Path) -> None:
    """Mark a run as finished, with the sha256 of each of its results."""
    hashes = {name: _hash(folder / name) for name in result_names(folder)}
    write_json(folder / COMPLETE, {"sha256": hashes})


def check_seal(folder: Path) -> None:
    """Refuse a finished run whose results are not what they were; looks at no other file.

    Tensors that were put beside them count too: a ranking is looked for by its name. A run that was
    finished by 0.1 has an empty `COMPLETE`, and is taken as it is, as is one that is not finished.

    Raises:
        RunError: files that have changed, are gone, or came since; says which.
    """
    path = folder / COMPLETE
    data = read_bytes(path, "json") if path.exists() else b""
    if not data:
        return
    found = parse_json(path, data)
    known = found.get("sha256") if isinstance(found, dict) else None
    if not isinstance(known, dict):
        raise RunError(f"{path} is damaged: it has no sha256 of the run's files")
    present = {
        name: _hash(folder / name) for name in result_names(folder)
    }  # never a path of the file's
    read = {*known, *(name for name in present if name.endswith(".safetensors"))}
    wrong = sorted(name for name in read if present.get(name) != known.get(name))
    if wrong:
        more = f" and {len(wrong) - 5:,} more" if len(wrong) > 5 else ""
        raise RunError(
            f"{str(folder)!r} is not as it was finished: {', '.join(wrong[:5])}{more} changed, "
            "is missing or came since; take the files from a copy, or run it again in another "
            "folder"
        )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
