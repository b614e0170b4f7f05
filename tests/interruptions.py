"""Every command interrupted at random moments, given again until it is done: the same bytes?

    python -m tests.interruptions --count 30 --seed 0
    python -m tests.interruptions --count 10 --seed 1 --only verify stability
    python -m tests.interruptions --in-a-row 10

Run by hand from the repository. Each round draws a command, up to three moments of its run, and a
signal for each: SIGTERM, SIGUSR1, Ctrl-C, now and then followed at once by another one, which does
not wait, or SIGKILL, after which nothing can be tidy. The command is then given again until it
ends, and every file that it leaves is compared with what it leaves when nobody interrupts it.
Whatever differs, or is said beside the one sentence, is a fault. With `--in-a-row` each signal
comes as soon as there is more work done than before.
"""

import argparse
import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `tiny`

import torch
from tiny import save_model, save_pairs, settings

from circuitprune import cli
from circuitprune.runs import stopping

torch.set_num_threads(1)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL)
WORDS = {
    signal.SIGTERM: "stopped by SIGTERM; ",
    signal.SIGUSR1: "stopped by SIGUSR1; ",
    signal.SIGINT: "interrupted; ",
}
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130, signal.SIGKILL: -9}
MOST_TIMES = 30
"""How often a command may be given until it has to be done."""
RUN = [one for one in settings(Path()) if not one.startswith("output_dir")]
"""Settings of a quick run, with the names of a workspace."""
VERIFY = ["n_bootstrap=30", "n_random=3", "n_knockouts=2", "n_adversarial=2", "progress=false"]


@dataclass(frozen=True)
class Job:
    """A command in a workspace that holds the model, the pairs and two finished runs."""

    typed: Sequence[str]
    pieces: str
    """Files of the workspace of which there is one more when a piece of the work is done."""


def train(*more: str) -> list[str]:
    return ["train", *RUN, "output_dir=out", "train.resume=auto", "train.steps=24", *more]


def attribute(method: str, *more: str) -> list[str]:
    return ["attribute", *RUN, "output_dir=out", f"attribution.method={method}", *more]


STUDY = ["stability", *RUN, "output_dir=out", "--seeds", "2", "--bootstrap", "2"]
JOBS = {
    "train": Job(train(), "out/checkpoints/last.ckpt"),
    "train hard_concrete": Job(
        train("gates.learner=hard_concrete", "train.checkpoint_every=1"),
        "out/checkpoints/last.ckpt",
    ),
    "train from exact": Job(
        train("attribution.method=exact", "attribution.shard_edges=12"), "out/**/*[0-9t].*t*s"
    ),
    "attribute eap": Job(attribute("eap"), "out/scores.safetensors"),
    "attribute each": Job(
        attribute("gate_ig", "attribution.per_example=true", "attribution.convergence=true"),
        "out/scores.safetensors",
    ),
    "attribute exact": Job(
        attribute("exact", "attribution.shard_edges=8"), "out/shards/0*.safetensors"
    ),
    "attribute acdc": Job(
        attribute("acdc", "attribution.acdc_thresholds=[1e-4,1e-3]"), "out/shards/*.safetensors"
    ),
    "refine": Job(
        ["refine", "first", "refinement.tries=6", "train.progress=false", "-o", "out"],
        "out/refining/*.json",
    ),
    "verify": Job(["verify", "first", *VERIFY, "--minimise"], "first/evidence/*.json"),
    "verify a file": Job(
        ["verify", "first", *VERIFY, "sections=[faithfulness,minimality]", "--circuit", "c.json"],
        "first/evidence/*.json",
    ),
    "stability": Job(STUDY, "out/*/COMPLETE"),
    "stability attributed": Job([*STUDY, "--attribute"], "out/*/COMPLETE"),
    "compare": Job(
        ["compare", "first", "second", "--transfer", "--random", "2", "--output-dir", "out"],
        "out/columns/*.json",
    ),
}


# ---------------------------------------------------------------- one command, one process


@contextlib.contextmanager
def stoppable_now(last: bool = False) -> Iterator[None]:
    """As the command line's own; a signal that came before waits for it."""
    with stopping.stoppable(last):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        yield


def start(typed: Sequence[str], workspace: Path, said: Path) -> int:
    """The process of a command; forked, so that it begins with all that is imported here."""
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid
    code = 99
    try:
        cli.stoppable = stoppable_now
        sys.stdout = sys.stderr = said.open("w", buffering=1)
        for number in (1, 2):
            os.dup2(sys.stdout.fileno(), number)
        os.chdir(workspace)
        code = cli.main(list(typed))
    except BaseException:  # what should have been a sentence
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, wait: bool = True) -> int | None:
    """Exit code of a process, minus the signal that killed it; None while it runs."""
    done, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def send_after(pid: int, seconds: float, number: int) -> int | None:
    """Send a signal after a while; the exit code of a process that was done by then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        code = ended(pid, wait=False)
        if code is not None:
            return code
        time.sleep(0.002)
    os.kill(pid, number)
    return None


# ---------------------------------------------------------------- workspaces


class Home:
    """A model, pairs and two finished runs; each command in a copy of it, and how it ends there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, folder / "said.txt"
        self.kept: dict[str, tuple[dict[str, bytes], float]] = {}
        (folder / "home").mkdir(parents=True)
        save_model(folder / "home" / "model")
        save_pairs(folder / "home" / "pairs.jsonl")
        for name, seed in (("first", 0), ("second", 1)):
            typed = ["attribute", *RUN, f"output_dir={name}", f"task.seed={seed}"]
            self.finish(typed, folder / "home")
        circuit = sorted((folder / "home" / "first" / "circuits").iterdir())[0]
        shutil.copy(circuit, folder / "home" / "c.json")

    def finish(self, typed: Sequence[str], workspace: Path) -> None:
        code = ended(start(typed, workspace, self.said))
        if code != 0:
            raise SystemExit(f"{' '.join(typed)} ended with {code}:\n{self.said.read_text()}")

    def workspace(self) -> Path:
        """A fresh one, always at the same place: paths stand in some of the files."""
        there = self.folder / "workspace"
        shutil.rmtree(there, ignore_errors=True)
        return Path(shutil.copytree(self.folder / "home", there))

    def whole(self, name: str) -> tuple[dict[str, bytes], float]:
        """What a job leaves that nobody interrupts, and the seconds that it takes."""
        if name not in self.kept:
            workspace, before = self.workspace(), time.monotonic()
            self.finish(JOBS[name].typed, workspace)
            self.kept[name] = contents(workspace), time.monotonic() - before
        return self.kept[name]


def contents(workspace: Path) -> dict[str, bytes]:
    """Every file but TensorBoard's events, which hold the time of day.

    Of checkpoints, what decides the gates: Lightning also counts in them how often it was started.
    """
    found = {
        str(path.relative_to(workspace)): path.read_bytes()
        for path in sorted(workspace.rglob("*"))
        if path.is_file() and not path.name.startswith("events.")
    }
    for name, data in found.items():
        if name.endswith(".ckpt"):
            found[name] = _gates(data)
        elif name.endswith("COMPLETE"):
            found[name] = re.sub(rb'"checkpoints/last.ckpt": "\w*"', b"", data)
    return found


def _gates(checkpoint: bytes) -> bytes:
    whole = torch.load(io.BytesIO(checkpoint), weights_only=True)
    parts = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "job", "lr")
    return repr(_plain({part: whole[part] for part in parts})).encode()


def _plain(value: object) -> object:
    """The same with lists of numbers for tensors."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(_plain, value))
    return value.tolist() if isinstance(value, torch.Tensor) else value


# ---------------------------------------------------------------- rounds


@dataclass
class Round:
    """One job, what was done to it, and what was wrong with what came of it."""

    job: str
    moments: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    times: int = 0
    """How often the command was given."""
    faults: list[str] = field(default_factory=list)

    def row(self) -> str:
        verdict = "; ".join(self.faults) if self.faults else "same bytes"
        moments, codes = ", ".join(self.moments), ", ".join(map(str, self.codes))
        return f"| {self.job} | {moments} | {codes} | {self.times} | {verdict} |"


HEAD = "| command | signal at | exit codes | given | what came of it |\n|---|---|---|---|---|"


def interrupted(home: Home, name: str, generator: random.Random, n_signals: int) -> Round:
    """A round at moments drawn from the time that the whole run takes."""
    (expected, seconds), found = home.whole(name), Round(name)
    workspace = home.workspace()
    for _ in range(n_signals):
        number, share = generator.choice(SIGNALS), generator.random()
        pid = start(JOBS[name].typed, workspace, home.said)
        code = send_after(pid, share * seconds, number)
        twice = code is None and number != signal.SIGKILL and generator.random() < 0.25
        if twice:
            code = send_after(pid, 0.02 * generator.random(), number)
        shown = f"{number.name[3:]}{' twice' * twice} {share:.0%}"
        found.moments.append(shown if code is None or twice else "(done)")
        judge(home, found, pid, code, number)
        if code is not None:
            break
    until_done(home, found, workspace, expected)
    return found


def in_a_row(home: Home, name: str, generator: random.Random, n_signals: int) -> Round:
    """A round in which each signal comes once there is more work done than before."""
    (expected, seconds), found = home.whole(name), Round(name)
    workspace = home.workspace()
    for _ in range(n_signals):
        number, before = generator.choice(SIGNALS[:3]), progress(workspace, name)
        pid, code = start(JOBS[name].typed, workspace, home.said), None
        while code is None and progress(workspace, name) == before:
            code = send_after(pid, 0.005, 0)
        if code is None:
            code = send_after(pid, generator.random() * seconds / 50, number)
        found.moments.append(number.name[3:] if code is None else "(done)")
        judge(home, found, pid, code, number)
        if found.codes[-1] == 0:
            break
    until_done(home, found, workspace, expected)
    return found


def progress(workspace: Path, name: str) -> list[tuple[str, int]]:
    """Which pieces of the work are there, and when each was written."""
    found = []
    for path in workspace.glob(JOBS[name].pieces):
        try:
            found.append((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:  # moved to its place meanwhile
            continue
    return sorted(found)


def judge(home: Home, found: Round, pid: int, code: int | None, number: int) -> None:
    """Whether an interrupted command ended as it should, or came to its end before."""
    code = ended(pid) if code is None else code
    assert code is not None
    workspace = home.folder / "workspace"
    said, killed = home.said.read_text(), number == signal.SIGKILL
    found.codes.append(code)
    found.times += 1
    if code not in (0, CODES[signal.Signals(number)]):
        found.faults.append(f"exit code {code} after {signal.Signals(number).name}")
    if code and not killed and WORDS[signal.Signals(number)] not in said:
        found.faults.append("it did not say how to go on")
    for word in ("Traceback", "Exception ignored", "error:", "Error"):
        if word in said:
            found.faults.append(f"it said: {said[said.index(word) :][:2000]}")
            break
    left = [path.name for path in workspace.rglob("*") if path.suffix == ".tmp"]
    left += [
        path.name for path in workspace.rglob(".lock") if path.read_text().startswith(f"{pid} ")
    ]
    if left and not killed:
        found.faults.append(f"it left {', '.join(left)}")


def until_done(home: Home, found: Round, workspace: Path, expected: dict[str, bytes]) -> None:
    """Give the command again until it ends, and compare what it left."""
    while found.codes[-1] != 0 and found.times < MOST_TIMES:
        found.times += 1
        found.codes.append(ended(start(JOBS[found.job].typed, workspace, home.said)) or 0)
        if found.codes[-1] != 0:
            found.faults.append(f"given again it said: {home.said.read_text()[-2000:]}")
            return
    left = contents(workspace)
    different = [
        name for name in sorted({*left, *expected}) if left.get(name) != expected.get(name)
    ]
    if different:
        found.faults.append(f"other bytes: {', '.join(different)}")


def rounds(home: Home, names: Sequence[str], seed: int, count: int, row: int) -> Iterator[Round]:
    """Rounds until there were `count` signals, the commands in turn; or of `row` in a row."""
    generator, sent = random.Random(seed), 0
    order: list[str] = []
    while sent < count:
        order = order or generator.sample(names, len(names))
        name = order.pop()
        found = (
            in_a_row(home, name, generator, row)
            if row
            else interrupted(home, name, generator, generator.randint(1, 3))
        )
        sent += len(found.moments)
        yield found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of the rounds; the exit code says whether any had a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30, help="signals (30)")
    parser.add_argument("--seed", type=int, default=0, help="of commands, moments and signals (0)")
    parser.add_argument("--only", nargs="+", default=[""], help="commands whose name begins so")
    parser.add_argument("--in-a-row", type=int, default=0, help="signals, each after more work")
    options = parser.parse_args(arguments)
    names = [name for name in JOBS if name.startswith(tuple(options.only))]
    faults = sent = 0
    with tempfile.TemporaryDirectory() as folder:
        home: Home = Home(Path(folder))
        print(HEAD)
        for found in rounds(home, names, options.seed, options.count, options.in_a_row):
            print(found.row(), flush=True)
            faults, sent = faults + bool(found.faults), sent + len(found.moments)
    print(f"\n{sent} signals, {faults} rounds with a fault")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
