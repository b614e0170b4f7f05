"""One process in a run folder at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from circuitprune.errors import RunError

NAME = ".lock"
LONGEST = 1000
"""Bytes of a lock that are looked at."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder while it is written; it is made if it is not there.

    The lock of a process of this machine that is no more is taken over.

    Raises:
        RunError: another process is at work in it; says which, and where. Or it cannot be made.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = _take(path)
    except OSError as error:
        raise unusable(folder, error) from None
    if not mine:
        raise RunError(
            f"{str(folder)!r} is in use by {_holder(path)}; wait for it, choose another folder, or "
            f"remove {path} if that process is gone"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    """Write this process into the lock, unless another one that is alive stands there.

    Whoever looks holds the file itself meanwhile: of several that find a dead one, one has it.
    """
    with path.open("a+") as file:
        with suppress(OSError):  # some disks of a network cannot hold files
            fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists() or not os.path.samefile(path, file.fileno()):
            return _take(path)  # it was let go since it was opened
        if not _stale(path):
            return False
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
    return True


def _read(path: Path) -> tuple[int, str]:
    """Process and host of a lock; 0 and nothing of one that says neither."""
    try:
        with path.open("rb") as file:
            pid, host = file.read(LONGEST).decode().split()
        return (int(pid), host) if pid.isascii() and len(pid) < 10 else (0, "")
    except (OSError, ValueError):
        return 0, ""


def _stale(path: Path) -> bool:
    """Whether its process is gone: killed, or this very one, which holds no other lock of it."""
    pid, host = _read(path)
    if host not in ("", socket.gethostname()):
        return False
    if pid <= 0 or pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _holder(path: Path) -> str:
    pid, host = _read(path)
    return f"process {pid} on {host}" if pid else "another process"


def unusable(folder: Path, error: OSError) -> RunError:
    """The error for a folder that the system refuses."""
    return RunError(
        f"output_dir {str(folder)!r} cannot be used: {error.strerror}; choose a folder that you "
        "may write to"
    )
