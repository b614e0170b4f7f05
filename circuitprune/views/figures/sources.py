"""What figures are made from: circuits, frontiers, evidence and studies, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitprune.circuits.circuit import Circuit
from circuitprune.errors import RunError
from circuitprune.files import read_json
from circuitprune.runs.finished import run_circuit


@dataclass(frozen=True)
class Options:
    """How a figure is drawn."""

    width: float | None = None
    """In inches; by default a column (3.35), or the page (6.9) where a column is too narrow."""
    labels: Sequence[str] = ()
    """Names of the sources, or of a study's circuits, in their order; by default their folders'."""
    size: float | None = None
    """circuit: the run's circuit nearest to this fraction of all edges; by default the chosen."""
    nodes: str = "auto"
    """circuit: `all`, or `kept` alone; `auto` shows all of up to 8 layers and 8 heads."""


def read_circuit(path: Path, options: Options) -> Circuit:
    """The circuit in a file, or one of a finished run with the ranking that it was cut by.

    Raises:
        RunError, GraphError: neither is there.
    """
    return run_circuit(path, options.size) if path.is_dir() else Circuit.load(path)


def read_points(folder: Path) -> list[dict[str, Any]]:
    """The points of a run's frontier, sparse first, each with `intervals` if it was verified.

    Raises:
        RunError: no run, or a damaged one.
    """
    value = _read(folder, "frontier.json", "a run folder of `train` or `attribute`")
    points: list[dict] = sorted(value["points"], key=lambda point: point["n_edges"])
    found: dict[tuple, dict] = {}
    if (folder / "verification.json").exists():
        sections = _read(folder, "verification.json", "a verified run")["sections"]
        sizes = sections.get("faithfulness", {}).get("sizes", [])
        found = {(one["n_edges"], one["size"]): one for one in sizes}
    return [
        {**point, "intervals": found.get((point["n_edges"], point["size"]), {})}
        for point in points
        if point["n_edges"]
    ]


def chosen_of(points: Sequence[dict[str, Any]], max_kl: float = 0.1) -> dict[str, Any]:
    """The point of the chosen circuit; see `Frontier.chosen`."""
    good = [point for point in points if point["kl"] <= max_kl]
    if good:
        return min(good, key=lambda point: (point["n_edges"], point["kl"]))
    return min(points, key=lambda point: point["kl"])


def read_section(folder: Path, name: str) -> dict[str, Any]:
    """One section of a run's evidence.

    Raises:
        RunError: the run is not verified, or not by this test.
    """
    what = f"a verified run; do `circuitprune verify {folder}` first"
    sections = _read(folder, "verification.json", what)["sections"]
    if name not in sections:
        raise RunError(f"{folder / 'verification.json'} has no section {name!r}: expected {what}")
    return sections[name]


def read_study(path: Path, kind: str, key: str) -> dict[str, Any]:
    """What `stability` or `compare` wrote, given as the file or its folder.

    Raises:
        RunError: nothing there, or a study without `key`.
    """
    hint = {"groups": "`circuitprune stability`", "transfer": "`circuitprune compare --transfer`"}
    file = path / f"{kind}.json" if path.is_dir() else path
    value = _read(file.parent, file.name, f"what {hint[key]} wrote")
    if key not in value:
        raise RunError(f"{file} holds no {key}: expected what {hint[key]} wrote")
    return value


def names_of(paths: Sequence[Path], options: Options) -> list[str]:
    """Labels as given, or the last part of each path, more of it where two would be the same.

    Raises:
        RunError: another number of labels than of sources.
    """
    if options.labels:
        if len(options.labels) != len(paths):
            raise RunError(f"{len(options.labels)} labels for {len(paths)} things to name")
        return list(options.labels)
    names = [path.name or str(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return ["/".join(path.parts[-2:]) for path in paths]


def _read(folder: Path, name: str, expected: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise RunError(f"{str(folder)!r} holds no {name}: expected {expected}")
    value: Any = read_json(folder / name)
    if not isinstance(value, dict):
        raise RunError(f"{folder / name} is damaged: expected {expected}")
    return value
