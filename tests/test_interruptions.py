"""Every command interrupted: a few rounds of `tests/interruptions.py`, and that it sees a fault."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import interruptions
import pytest

ROOT = Path(__file__).parents[1]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


FEW = """
import sys
from tests.interruptions import main
few = ["--count", "3", "--only", "train hard", "attribute acdc", "verify a", "compare"]
in_a_row = ["--count", "3", "--in-a-row", "3", "--only", "attribute exact"]
sys.exit(main(few) or main(in_a_row))
"""


@needs_fork
@pytest.mark.slow
def test_interrupted_commands_end_in_the_same_bytes():
    typed = [sys.executable, "-W", "ignore", "-c", FEW]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(typed, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 rounds with a fault") == 2


@needs_fork
@pytest.mark.filterwarnings("ignore")  # of a fork among threads
def test_a_command_that_forgets_is_found_out(tmp_path, monkeypatch):
    """One that goes on to something else, and one that says more than its sentence."""

    def command(typed):
        if Path("begun").exists():
            Path("end").write_text("another")
            return 0
        Path("begun").write_text("")
        try:
            time.sleep(0.5)
        except interruptions.stopping.Stopped as error:
            print("Traceback", flush=True)
            return 130 if error.number == 2 else 75
        Path("end").write_text("one")
        return 0

    def main(typed):
        with interruptions.cli.stoppable():
            return command(typed)

    (tmp_path / "home").mkdir()
    home = interruptions.Home.__new__(interruptions.Home)
    home.folder, home.said, home.kept = tmp_path, tmp_path / "said.txt", {}
    monkeypatch.setattr(interruptions.cli, "main", main)
    monkeypatch.setitem(interruptions.JOBS, "forgets", interruptions.Job([], "begun"))
    found = interruptions.in_a_row(home, "forgets", random.Random(0), 1)
    assert found.times == 2 and found.codes[0] in (75, 130)
    assert "it did not say how to go on" in found.faults and "other bytes: end" in found.faults
    assert any("it said: Traceback" in fault for fault in found.faults)
