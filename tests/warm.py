"""Runs pytest in forks of a process that has the libraries already, which takes longest to import.

For `tests/mutants.py`: a line of JSON in, `[folder, tests, seconds, file]`, the exit code out, or
`null` if time was up. The names of tests that failed are appended to the file.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import lightning.pytorch
import tensorboard.summary
import torch
import transformers

HERE = str(Path(__file__).parents[1])
LIBRARIES = (lightning.pytorch, tensorboard.summary, torch, transformers)
"""None of the package, which each copy of a checkout has of its own."""
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Of pytest, which minds that a library with a plugin of its own is there before it."""
ELSE = 99
"""Exit code where pytest itself fails."""


class Noted:
    """Writes down which test failed."""

    def __init__(self, path: str) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: object) -> None:
        if report.failed:
            with open(self.path, "a") as file:
                file.write(f"{report.nodeid}\n")


def child(folder: str, tests: list[str], noted: str) -> None:
    """One run of pytest in a copy of the checkout, quiet, and in a session of its own."""
    code: int = ELSE
    try:
        os.setsid()
        os.chdir(folder)
        sys.path[:] = [folder, *(one for one in sys.path if one not in ("", HERE))]
        os.environ |= {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        import pytest  # which must not look at this file

        code = pytest.main([*OPTIONS, *tests], plugins=[Noted(noted)])
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code, minus the signal that killed it; None, and it is killed, if time is up."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    for line in sys.stdin:
        folder, tests, seconds, noted = json.loads(line)
        pid = os.fork()
        if not pid:
            child(folder, tests, noted)
        print(json.dumps(ended(pid, seconds)), flush=True)
