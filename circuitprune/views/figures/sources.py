"""What figures are made from: circuits, frontiers, evidence and studies, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from circuitprune.circuits.circuit import Circuit
from circuitprune.errors import RunError
from circuitprune.evidence.bootstrap import Interval
from circuitprune.evidence.faithfulness import FaithfulnessCurve
from circuitprune.files.records import JsonObject, from_json
from circuitprune.files.text import counted
from circuitprune.files.whole import read_json
from circuitprune.metrics import Evidence
from circuitprune.runs.finished import run_circuit
from circuitprune.runs.frontier import Point, read_results

S = TypeVar("S")
Source = Path | Circuit
"""What a figure is made from: a run folder, a file, or a circuit itself."""


def called(source: Source) -> str:
    """A source in a sentence."""
    return "the circuit" if isinstance(source, Circuit) else str(source)


@dataclass(frozen=True)
class Options:
    """How a figure is drawn."""

    width: float | None = None
    """In inches; by default a column (3.35), or the page (6.9) where a column is too narrow."""
    labels: Sequence[str] = ()
    """Names of the sources, or of a study's circuits, in their order; by default their folders'."""
    size: float | None = None
    """Of `circuit`, the one nearest to this fraction of all edges; by default the chosen one."""
    nodes: str = "auto"
    """Of `circuit`, `all`, or `kept` alone; `auto` shows all of up to 8 layers and 8 heads."""


def read_circuit(source: Source, options: Options) -> Circuit:
    """The circuit given, or in a file, or one of a finished run with what it was cut by.

    Raises:
        RunError, GraphError: none of these.
    """
    if isinstance(source, Circuit):
        return source
    return run_circuit(source, options.size) if source.is_dir() else Circuit.load(source)


@dataclass(frozen=True)
class Series:
    """The circuits of a run as a curve over their number of edges."""

    points: list["Dot"]
    """Sparse first, without circuits of no edge."""
    chosen: "Dot"
    """See `Frontier.chosen`."""


@dataclass(frozen=True)
class Dot:
    """One circuit of a run: its size, what it does, and how surely."""

    n_edges: int
    evidence: Evidence
    intervals: dict[str, Interval] = field(default_factory=dict)
    """By the names of the evidence; empty unless the run was verified."""


def read_series(folder: Path) -> Series:
    """The frontier of a run, which need not be finished.

    Raises:
        RunError, GraphError: no run, or a damaged one.
    """
    frontier, _ = read_results(folder)
    found = _intervals(folder)

    def dot(point: Point) -> Dot:
        n_edges = int(point.mask.sum())
        return Dot(n_edges, point.evidence, found.get((n_edges, point.size), {}))

    dots = sorted(map(dot, frontier.points), key=lambda dot: dot.n_edges)
    return Series([one for one in dots if one.n_edges], dot(frontier.chosen()))


def _intervals(folder: Path) -> dict[tuple[int, float], dict[str, Interval]]:
    """What the evidence knows of each circuit, by its edges and the size asked for."""
    if not (folder / "verification.json").exists():
        return {}
    section = _sections(folder, "a verified run").get("faithfulness")
    if section is None or (isinstance(section, dict) and "error" in section):
        return {}
    sizes = from_json(FaithfulnessCurve, section, _at(folder, "faithfulness")).sizes
    return {
        (one.n_edges, one.size): {"kl": one.kl, "faithfulness": one.faithfulness} for one in sizes
    }


def read_section(folder: Path, name: str, kind: type[S]) -> S:
    """One section of a run's evidence.

    Args:
        folder: The run's.
        name: Of the section.
        kind: What it is read as.

    Raises:
        RunError: the run is not verified, or not by this test; or the section is damaged.
    """
    what = f"a verified run; do `circuitprune verify {folder}` first"
    section = _sections(folder, what).get(name)
    if section is None:
        raise RunError(f"{folder / 'verification.json'} has no section {name!r}: expected {what}")
    if isinstance(section, dict) and "error" in section:
        raise RunError(f"{_at(folder, name)} was not computed: {section['error']}")
    return from_json(kind, section, _at(folder, name))


def _sections(folder: Path, expected: str) -> JsonObject:
    found = _read(folder, "verification.json", expected).get("sections")
    if not isinstance(found, dict):
        raise RunError(f"{folder / 'verification.json'} is damaged: it has no sections")
    return found


def _at(folder: Path, name: str) -> str:
    return f"{folder / 'verification.json'}, section {name},"


def read_study(path: Path, name: str, kind: type[S], key: str) -> S:
    """What `stability` or `compare` wrote, given as the file or its folder.

    Args:
        path: The folder or the file.
        name: `stability`, `compare` or `sentiment`.
        kind: What it is read as.
        key: What the figure is of.

    Raises:
        RunError: nothing there, or a study without `key`, or a damaged one.
    """
    hint = {
        "groups": "`circuitprune stability`",
        "transfer": "`circuitprune compare --transfer`",
        "directed": "`circuitprune sentiment`",
    }
    file = path / f"{name}.json" if path.is_dir() else path
    value = _read(file.parent, file.name, f"what {hint[key]} wrote")
    if key not in value:
        raise RunError(f"{file} holds no {key}: expected what {hint[key]} wrote")
    return from_json(kind, value, str(file))


def names_of(paths: Sequence[Path], options: Options) -> list[str]:
    """Labels as given, or the last part of each path, more of it where two would be the same.

    Raises:
        RunError: another number of labels than of sources.
    """
    if options.labels:
        if len(options.labels) != len(paths):
            raise RunError(
                f"{counted(len(options.labels), 'label')} for {counted(len(paths), 'thing')} to "
                "name"
            )
        return list(options.labels)
    names = [path.name or str(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return ["/".join(path.parts[-2:]) for path in paths]


def _read(folder: Path, name: str, expected: str) -> JsonObject:
    if not (folder / name).is_file():
        raise RunError(f"{str(folder)!r} holds no {name}: expected {expected}")
    value = read_json(folder / name, checked=True)
    if not isinstance(value, dict):
        raise RunError(f"{folder / name} is damaged: expected {expected}")
    return value
