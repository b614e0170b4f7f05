"""What a report is made of: run folders, and studies of several runs that stand beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from circuitprune.errors import RunError
from circuitprune.files.records import JsonObject, from_json
from circuitprune.files.whole import read_json
from circuitprune.runs.together import tasks_in

KINDS = {"stability": "groups", "compare": "circuits"}
"""Studies, written as `<name>.json`, and a key by which a file of another name is known."""


class _InFolder(TypedDict):
    folder: str


class _Runs(TypedDict):
    runs: tuple[object, ...]


class _Groups(TypedDict):
    groups: Mapping[str, object]


def sources(given: Sequence[str | Path]) -> tuple[list[Path], dict[str, JsonObject]]:
    """Run folders, and studies by the name of their kind.

    A path is a run folder, a folder with a `stability.json` or `compare.json`, or such a file. A
    study of stability that no run is given with stands for its own runs; a run that is one of a
    study's brings it along. A run over several tasks stands for the runs of its tasks.

    Raises:
        RunError: no run, two studies of a kind, or a file that is neither.
    """
    runs: list[Path] = []
    found: dict[str, Path] = {}
    for path in map(Path, given):
        files = _studies(path)
        inside = tasks_in(path)
        runs += inside
        if not (files or inside) or (path / "frontier.json").is_file():
            runs.append(path)
        for kind, file in files.items():
            if kind in found:
                raise RunError(f"a report shows one {kind} study, got {found[kind]} and {file}")
            found[kind] = file
    studies = {kind: _read(file, kind) for kind, file in found.items()}
    if not runs and "stability" in found:
        runs = _runs_of(found["stability"], studies["stability"])
    if not runs:
        what = f"{', '.join(map(str, given))} holds none" if given else "got nothing"
        raise RunError(f"no run to report on, {what}; give at least one run folder")
    if "stability" not in studies and (around := _around(runs[0])) is not None:
        studies["stability"] = around
    return runs, studies


def _studies(path: Path) -> dict[str, Path]:
    """Studies at a path, by their kinds."""
    if path.is_file():
        value = read_json(path, checked=True)
        kinds = [k for k, key in KINDS.items() if isinstance(value, dict) and key in value]
        if len(kinds) != 1:
            raise RunError(
                f"{path} is no study; a report takes run folders, and what `stability` and "
                "`compare` wrote"
            )
        return {kinds[0]: path}
    return {kind: path / f"{kind}.json" for kind in KINDS if (path / f"{kind}.json").is_file()}


def _read(file: Path, kind: str) -> JsonObject:
    value = read_json(file, checked=True)
    if not isinstance(value, dict) or KINDS[kind] not in value:
        raise RunError(f"{file} is damaged: it has no {KINDS[kind]!r}; write it anew by `{kind}`")
    return value


def _runs_of(file: Path, study: JsonObject) -> list[Path]:
    """The folders of the first group of runs of a study, where they still are."""
    names = next(iter(_folders(file, study)), [])
    folders = [file.parent / name for name in names]
    return [folder for folder in folders if (folder / "frontier.json").is_file()]


def _around(run: Path) -> JsonObject | None:
    """The study that a run is one of."""
    file = run.resolve().parent / "stability.json"
    if not file.is_file():
        return None
    study = _read(file, "stability")
    return study if any(run.resolve().name in names for names in _folders(file, study)) else None


def _folders(file: Path, study: JsonObject) -> list[list[str]]:
    """Of the runs of each group."""
    at = f"{file}, its groups,"
    return [
        [from_json(_InFolder, run, at)["folder"] for run in from_json(_Runs, group, at)["runs"]]
        for group in from_json(_Groups, study, str(file))["groups"].values()
    ]
