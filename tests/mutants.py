"""Small mistakes made on purpose, one at a time: which of them does no test notice?

    python -m tests.mutants --count 60 --seed 0 --jobs 2      # drawn at random
    python -m tests.mutants --planted                         # those of tests/mutants.toml
    python -m tests.mutants --settings                        # each setting ignored in turn
    python -m tests.mutants --only circuits/selection.py      # all of one file

Run by hand on a green suite, for each mutant are run, until one fails: the tests of its file, the
doctests of its file, the tests of its folder (those that import it first), the others that do. A
mutant that survives is a missing test, or changes nothing, which `tests/mutants.toml` says with the
reason.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from tests.mutations import Change, changes, spelling

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "circuitprune"
FOLDERS = (
    "engine",
    "training",
    "circuits",
    "metrics.py",
    "evidence",
    "runs",
    "patching",
    "attribution",
    "lens",
    "views/report",
)
"""Where mistakes would be wrong numbers; each gives as many mutants as any other."""
PATIENCE = 900
"""Seconds for the tests of a mutant; one that none has noticed by then survives, late."""
CONTROL = ("tests/circuits/test_graph.py", "tests/lens/test_predictions.py")
"""Tests that must pass in each copy before anything is changed there."""
AROUND = 30
"""Letters on either side of a mistake that are shown."""
NOTICED = (1, 2)
"""Exit codes of pytest: a test failed, or a file could not be collected."""


Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Mutant:
    """A file with one mistake in it."""

    path: str
    """Relative to the package."""
    line: int
    inside: str
    """The function that it lies in."""
    old: str
    new: str
    """What is wrong with what is around it, on one line."""
    text: str
    """The whole file."""
    tests: tuple[str, ...] = ()
    """In place of those that go with the file."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.inside}\n       {self.old}\n    -> {self.new}"

    @property
    def key(self) -> Key:
        """What it is known by when the lines have moved."""
        return self.path, self.inside, self.old, self.new


class Notes(NamedTuple):
    """What `tests/mutants.toml` holds."""

    planted: list[Mutant]
    equivalent: set[Key]


def notes() -> Notes:
    """The mistakes planted by hand, and those known to change nothing."""
    read = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    same = {
        (one["file"], one["inside"], one["old"], one["new"]) for one in read.get("equivalent", [])
    }
    return Notes([planted(**one) for one in read["planted"]], same)


def planted(file: str, old: str, new: str, tests: Sequence[str] = ()) -> Mutant:
    """A mistake by hand: text that stands in the file once, and what is put in its place."""
    text = (PACKAGE / file).read_text()
    assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times, not once"
    line = text[: text.index(old)].count("\n") + 1
    return Mutant(file, line, "", *differ(old, new), text.replace(old, new), tuple(tests))


def differ(old: str, new: str) -> tuple[str, str]:
    """Two texts on one line each, cut to where they differ and a little of what is around."""
    one, other = " ".join(old.split()), " ".join(new.split())
    before = _same(one, other)
    behind = _same(one[before:][::-1], other[before:][::-1])
    first = max(0, before - AROUND)
    ends = (len(text) - max(0, behind - AROUND) for text in (one, other))
    return one[first : next(ends)], other[first : next(ends)]


def _same(one: str, other: str) -> int:
    """Letters at the start that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


# ---------------------------------------------------------------- which mutants


def mutants_of(path: Path) -> list[Mutant]:
    """Every mutant of a file."""
    tree = ast.parse(path.read_text())
    return [_mutant(path, tree, change) for change in changes(tree)]


def _mutant(path: Path, tree: ast.AST, change: Change) -> Mutant:
    lines, (node, new) = path.read_bytes().splitlines(keepends=True), change
    first, last = node.lineno - 1, node.end_lineno - 1
    before, behind = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    ends = b"".join(lines[:first]).decode(), b"".join(lines[last + 1 :]).decode()
    spelled = ast.unparse(node), spelling(node, new)
    old, wrong = (f"{before.decode()}{text}{behind.decode()}" for text in spelled)
    inside, name = _function(tree, node), path.relative_to(PACKAGE).as_posix()
    text = f"{ends[0]}{wrong}{ends[1]}"
    return Mutant(name, node.lineno, inside, *differ(old, wrong), text)


def _function(tree: ast.AST, inside: ast.AST) -> str:
    """The innermost function around a node."""
    around = [
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef) and one.lineno <= inside.lineno <= one.end_lineno
    ]
    return max(around, key=lambda one: one.lineno).name if around else ""


def drawn(count: int, seed: int, folders: Sequence[str] = FOLDERS) -> list[Mutant]:
    """As many mutants, the folders by turns, each file of a folder as likely as its size."""
    rng, by_folder = random.Random(seed), []
    for folder in folders:
        place = PACKAGE / folder
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        trees = [(file, ast.parse(file.read_text())) for file in files]
        there = [(file, tree, change) for file, tree in trees for change in changes(tree)]
        by_folder.append(rng.sample(there, min(len(there), count)))
    turns = (one for turn in zip_longest(*by_folder) for one in turn if one is not None)
    return [_mutant(*one) for one, _ in zip(turns, range(count), strict=False)]


FILES_OF_SETTINGS = (
    "config.py",
    "data/caching.py",
    "training/trainer.py",
    "pipelines/verify_config.py",
    "attribution/levels.py",
    "patching/budget.py",
)
SECTIONS = {
    "ModelConfig": "model.",
    "TaskConfig": "task.",
    "AttributionConfig": "attribution.",
    "GatesConfig": "gates.",
    "TrainConfig": "train.",
    "TrainerConfig": "train.trainer.",
    "VerifyConfig": "verify.",
    "CacheConfig": "cache.",
    "FeaturesConfig": "features.",
    "RefinementConfig": "refinement.",
    "RunConfig": "",
    "EvidenceConfig": "evidence.",
}
"""By the class of a part of the settings, what its keys begin with in `test_settings_matter.py`."""


def ignored() -> Iterator[Mutant]:
    """Each setting in turn put back to its default, with the tests that are to notice."""
    for name in FILES_OF_SETTINGS:
        source = (PACKAGE / name).read_text()
        for part in ast.parse(source).body:
            if not isinstance(part, ast.ClassDef):
                continue
            check = next(one for one in part.body if getattr(one, "name", "") == "__post_init__")
            for field in (one for one in part.body if isinstance(one, ast.AnnAssign)):
                if ast.unparse(field.annotation) not in SECTIONS:
                    yield _ignored(name, source, SECTIONS[part.name], field, check)


def _ignored(
    name: str, source: str, section: str, field: ast.AnnAssign, check: ast.FunctionDef
) -> Mutant:
    made = field.value
    given = isinstance(made, ast.Call) and ast.unparse(made).startswith("field(default_factory=")
    default = f"({ast.unparse(made.keywords[0].value)})()" if given else ast.unparse(made)
    lines, first, key = source.splitlines(), check.body[0].lineno - 1, field.target.id
    line = f"        object.__setattr__(self, {key!r}, {default})"
    text = "\n".join([*lines[:first], line, *lines[first:]])
    tree = ast.parse((ROOT / "tests" / "test_settings_matter.py").read_text())
    table = next(one for one in tree.body if isinstance(one, ast.Assign) and _is(one, "ELSEWHERE"))
    elsewhere = ast.literal_eval(table.value).get(f"{section}{key}")
    rows = ("tests/test_settings_matter.py", "-k", f"[{section}{key}")
    tests = (f"tests/{elsewhere}",) if elsewhere else rows
    return Mutant(name, field.lineno, f"{section}{key}", "what is asked", default, text, tests)


def _is(node: ast.Assign, name: str) -> bool:
    return ast.unparse(node.targets[0]) == name


# ---------------------------------------------------------------- which tests


def those_for(name: str, root: Path) -> list[str]:
    """The tests for a file of the package, those that fail first in front."""
    path, tests = Path(name), root / "tests"
    folder = tests / path.parts[0] if len(path.parts) > 1 else tests
    own = folder / f"test_{path.stem}.py"
    parts = ("circuitprune", *path.with_suffix("").parts)
    everything = sorted({*tests.rglob("test_*.py")} - {tests / "test_mutants.py"})
    importing = [test for test in everything if _imports(test, parts)]
    if not own.exists() and not importing:  # then it is seen through what uses it
        package = root / "circuitprune"
        users = [one for one in sorted(package.rglob("*.py")) if _imports(one, parts)]
        through = [one.relative_to(root).with_suffix("").parts for one in users]
        importing = [test for test in everything if any(_imports(test, one) for one in through)]
    beside = sorted(folder.rglob("test_*.py")) if folder != tests else []
    itself = root / "circuitprune" / name
    first = [own] if own.exists() else []
    first += [itself] if ">>>" in itself.read_text() else []
    near = [one for one in importing if one in beside]
    found = [*first, *near, *beside, tests / "test_constants.py", *importing]
    return [str(one.relative_to(root)) for one in dict.fromkeys(found)]


def _imports(test: Path, parts: tuple[str, ...]) -> bool:
    """Whether a test imports a module by its name, or something from it."""
    module, package = ".".join(parts), ".".join(parts[:-1])
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.ImportFrom):
            inside = node.module == package and parts[-1] in [name.name for name in node.names]
            if node.module == module or inside:
                return True
    return False


# ---------------------------------------------------------------- running them


class Copy:
    """A copy of the checkout to make mistakes in, and a process that runs its tests."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutants-")) / "checkout"
        left_out = shutil.ignore_patterns(".git", ".venv", "runs_*", "__pycache__", "node_modules")
        shutil.copytree(ROOT, self.folder, ignore=left_out)
        self.noted = self.folder.parent / "noticed.txt"
        command, pipe = [sys.executable, "-m", "tests.warm"], subprocess.PIPE
        self.warm = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def run(self, tests: Sequence[str]) -> int | None:
        """The exit code of pytest; None if time is up."""
        print(
            json.dumps([str(self.folder), list(tests), PATIENCE, str(self.noted)]),
            file=self.warm.stdin,
            flush=True,
        )
        code: int | None = json.loads(self.warm.stdout.readline())
        return code

    def close(self) -> None:
        """Refuse tests that failed for another reason: now, without any mistake, all must pass."""
        failed = self.noted.read_text().splitlines() if self.noted.exists() else []
        if failed and self.run(list(dict.fromkeys(failed))) != 0:
            raise SystemExit(f"in {self.folder} a test of {self.noted} fails without any mistake")
        self.warm.stdin.close()
        self.warm.wait()
        shutil.rmtree(self.folder.parent)


def fate(mutant: Mutant, copy: Copy, stamp: int) -> str:
    """What the tests of a copy that has the mistake say of it; the copy is mended afterwards."""
    path = copy.folder / "circuitprune" / mutant.path
    before = path.read_text()
    path.write_text(mutant.text)
    os.utime(path, (stamp, stamp))  # compiled files are told apart by whole seconds
    try:
        code = copy.run(mutant.tests or those_for(mutant.path, copy.folder))
    finally:
        path.write_text(before)
        os.utime(path, (stamp + 1, stamp + 1))
    if code not in (0, None, *NOTICED):
        raise SystemExit(f"pytest ended with {code} on {mutant}")
    return "noticed" if code in NOTICED else "SURVIVED" if code == 0 else "LATE"


def run_all(mutants: Sequence[Mutant], jobs: int) -> list[Mutant]:
    """Try each mutant and say what became of it; returns the survivors."""
    free: Queue[Copy] = Queue()
    for copy in [Copy() for _ in range(jobs)]:
        if copy.run(CONTROL) != 0:
            raise SystemExit(f"without any mistake {' '.join(CONTROL)} fail in {copy.folder}")
        free.put(copy)

    def one(numbered: tuple[int, Mutant]) -> Mutant | None:
        number, mutant = numbered
        copy = free.get()
        try:
            became = fate(mutant, copy, 1_000_000_000 + 2 * number)
        finally:
            free.put(copy)
        print(f"{number + 1:3}  {became:8}  {mutant}", flush=True)
        return None if became == "noticed" else mutant

    with ThreadPoolExecutor(jobs) as pool:
        found = [one for one in pool.map(one, enumerate(mutants)) if one is not None]
    for copy in free.queue:
        copy.close()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first ones")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--only", nargs="+", help="files or folders of the package, drawn from")
    parser.add_argument("--planted", action="store_true", help="those of tests/mutants.toml")
    parser.add_argument("--settings", action="store_true", help="each setting ignored in turn")
    parser.add_argument("--list", action="store_true", help="print them and run nothing")
    chosen = parser.parse_args(arguments)
    by_hand, same = notes()
    if chosen.planted or chosen.settings:
        wanted = by_hand if chosen.planted else list(ignored())
    else:
        wanted = drawn(chosen.count, chosen.seed, chosen.only or FOLDERS)
    wanted = wanted[chosen.skip :]
    wanted = [m for m in wanted if m.key not in same]
    if chosen.list:
        print(*wanted, sep="\n")
        return 0
    survivors = run_all(wanted, chosen.jobs)
    n_noticed = len(wanted) - len(survivors)
    print(f"{n_noticed} of {len(wanted)} noticed, {n_noticed / len(wanted):.0%}; not noticed:")
    print(*survivors, sep="\n")
    return int(bool(survivors))


if __name__ == "__main__":
    raise SystemExit(main())
