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
    """Hold a folder while it is written; it is made if it is not there, and goes if it stays empty.

    Every command that writes more than one file into a folder holds it. The lock of a process of
    this machine that is no more is taken over.

    Raises:
        RunError: another process is at work in it; says which, and where. Or it cannot be used.
    """
    refuse_unusable(folder)
    path, made = folder / NAME, [one for one in (folder, *folder.parents) if not one.exists()]
    try:
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
        with suppress(OSError):  # the first that holds something
            for one in made:
                one.rmdir()


def refuse_unusable(folder: Path) -> None:
    """Nothing, if a folder is there or can be made, and may be written to; makes nothing.

    Raises:
        RunError: it is a file or below one, a link that leads nowhere, or may not be written to.
    """
    there = next(one for one in (folder, *folder.parents, Path()) if os.path.lexists(one))
    name, instead = repr(str(folder)), "choose another output_dir"
    if there.is_symlink() and not there.exists():
        raise RunError(
            f"output_dir {name} cannot be used: {str(there)!r} is a link to "
            f"{os.readlink(there)!r}, where nothing is; make that folder, or {instead}"
        )
    if not there.is_dir():
        below = "" if there == folder else f" cannot be used: {str(there)!r}"
        raise RunError(f"output_dir {name}{below} is a file; {instead}")
    if not os.access(there, os.W_OK | os.X_OK):
        where = "it" if there == folder else repr(str(there))
        raise RunError(f"output_dir {name} cannot be used: you may not write to {where}; {instead}")


def _take(path: Path) -> bool:
    """Write this process into the lock, unless another one that is alive stands there.

    Whoever looks holds the file itself meanwhile: of several that find a dead one, one has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("a+")
    except FileNotFoundError:  # who held it left nothing there, and took the folder away
        return _take(path)
    with file:
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
