"""One process in a folder: others are told who, and the lock of a dead one is taken over."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from circuitprune.errors import RunError
from circuitprune.runs import lock
from circuitprune.runs.lock import NAME, locked


def test_a_folder_is_made_held_and_let_go(tmp_path):
    with locked(tmp_path / "new") as _:
        assert (tmp_path / "new" / NAME).read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert list((tmp_path / "new").iterdir()) == []


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
