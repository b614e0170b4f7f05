"""Files that are the old or the whole new one, at any time; also of content that comes in parts."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from circuitprune.errors import RunError


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Leaves either the old file or the whole new one at `path`, also after a crash.

    A temporary file in the same folder is written and flushed to the disk, then renamed over
    `path`, and the folder is flushed. Text is UTF-8. Missing parent folders are created. A link
    stays one: what it leads to is written. A pipe or a device, such as `/dev/stdout`, has nothing
    to keep whole, and is written as it is.

    Raises:
        RunError: the folder cannot be written, or the disk is full; the old file is untouched.
    """
    with streamed(path) as write:
        write(content)


@contextmanager
def streamed(path: str | Path) -> Iterator[Callable[[bytes | str], None]]:
    """The same for content that comes in parts: what writes the next one.

    The old file is untouched too where the caller fails between two parts.

    Raises:
        RunError: as `write_atomic`.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with _told(path), path.open("wb") as file:
            yield lambda part: _write(file, part)
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                yield lambda part: _write(file, part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # such as a parent that is a file
            temporary.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system has against it, as our own error."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} was not written ({error.strerror or error}); "
            "check free space and permissions of the folder"
        ) from error


def _write(file: BinaryIO, part: bytes | str) -> None:
    file.write(part.encode() if isinstance(part, str) else part)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power cut; Windows cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
