"""One process in a folder: others are told who, and the lock of a dead one is taken over."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from circuitprune.errors import RunError
from circuitprune.runs import lock
from circuitprune.runs.lock import NAME, locked, refuse_unusable


def test_a_folder_is_made_held_and_let_go(tmp_path):
    """One that was made and stays empty goes again, with those that were made above it."""
    with locked(tmp_path / "a" / "new"):
        path = tmp_path / "a" / "new" / NAME
        assert path.read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_or_holds_something_stays(tmp_path):
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old"), locked(tmp_path / "a" / "new"):
        (tmp_path / "a" / "mine").write_text("x")
    with locked(tmp_path / "full"):
        (tmp_path / "full" / "mine").write_text("x")
    found = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")}
    assert found == {"old", "a", "a/mine", "full", "full/mine"}


def test_a_folder_that_goes_while_it_is_taken_is_made_again(tmp_path, monkeypatch):
    """Whoever held it left nothing there."""
    made, opened = [], Path.open

    def gone_once(path, *args):
        if path.name == NAME and not made:
            made.append(path.parent.rmdir())
        return opened(path, *args)

    monkeypatch.setattr(Path, "open", gone_once)
    with locked(tmp_path / "new"):
        assert made and (tmp_path / "new" / NAME).is_file()


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    """As the system says, which asks more than who owns it: a disk may be mounted read-only."""
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    for folder, where in ((tmp_path, "it"), (tmp_path / "a" / "b", repr(str(tmp_path)))):
        with pytest.raises(RunError, match="cannot be used: you may not write to ") as caught:
            refuse_unusable(folder)
        assert f"{str(folder)!r} cannot be used: you may not write to {where};" in str(caught.value)
    assert asked == [(tmp_path, os.W_OK | os.X_OK)] * 2
    assert list(tmp_path.iterdir()) == []


def test_it_is_let_go_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="mine"), locked(tmp_path):
        raise ValueError("mine")
    assert not (tmp_path / NAME).exists()


def test_another_process_is_named(tmp_path):
    """Of this machine and alive: the one that runs these tests' parent."""
    (tmp_path / NAME).write_text(f"{os.getppid()} {socket.gethostname()}\n")
    with pytest.raises(RunError, match=f"in use by process {os.getppid()} on"), locked(tmp_path):
        pass
    assert (tmp_path / NAME).exists()


def test_a_process_of_another_machine_may_be_alive(tmp_path):
    (tmp_path / NAME).write_text("1 elsewhere\n")
    with pytest.raises(RunError, match="process 1 on elsewhere; wait for it"), locked(tmp_path):
        pass


@pytest.mark.parametrize("left", ["", "what", "-5 {host}", "{dead} {host}", "{own} {host}"])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, left):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    values = {"host": socket.gethostname(), "dead": gone.pid, "own": os.getpid()}
    (tmp_path / NAME).write_text(left.format(**values))
    with locked(tmp_path):
        assert (tmp_path / NAME).read_text().startswith(f"{os.getpid()} ")


def test_of_several_that_find_a_dead_lock_one_has_the_folder(tmp_path, monkeypatch):
    """Each has seen that it is dead before any has taken it over."""

    def slow(path, of=lock._stale):
        found = of(path)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(lock, "_stale", slow)
    (tmp_path / NAME).write_text("")
    told, tell = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            with suppress(RunError), locked(tmp_path):
                os.write(tell, b"+")
                signal.pause()  # alive until all have tried
            os.write(tell, b"-")
            os._exit(0)
        children.append(child)
    found = b"".join(os.read(told, 1) for _ in children)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert sorted(found) == sorted(b"+---")
