"""What a run leaves behind: the frontier, a file for each circuit, the edge table, a summary."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.attribution.methods import has_signs
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.graph import Graph
from circuitprune.errors import RunError
from circuitprune.files import read_json, write_atomic, write_json
from circuitprune.metrics import Evidence


@dataclass(frozen=True)
class Point:
    """One circuit of the frontier with its evidence."""

    size: float
    """The fraction of all edges, or the threshold, that was asked for."""
    mask: Bool[Tensor, " edge"]
    evidence: Evidence


@dataclass(frozen=True)
class Frontier:
    """Circuits of one run from sparse to dense, verified on the same held-out pairs."""

    graph: Graph
    provenance: dict[str, str | int | float | None]
    """Model, task, ablation and the like: what a reader needs to repeat the numbers."""
    full: Evidence
    empty: Evidence
    points: list[Point]

    def to_json(self) -> dict:
        """`frontier.json`: `kl` in nats, summed over the vocabulary, mean over answer positions."""
        return {
            **self.provenance,
            "n_edges_total": self.graph.n_edges,
            "n_edges_total_ungrouped": self.graph.n_edges_ungrouped,
            "full": self.full.to_json(),
            "empty": self.empty.to_json(),
            "points": [
                {
                    "size": point.size,
                    "n_edges": int(point.mask.sum()),
                    "n_edges_ungrouped": int(self.graph.ungroup(point.mask).sum()),
                    "file": file,
                    **point.evidence.to_json(),
                }
                for point, file in zip(self.points, self.files(), strict=True)
            ],
        }

    def files(self) -> list[str]:
        """Where the circuit of each point lies in the run's folder: `circuits/<edges>.json`.

        Circuits of equal size need not be the same, as ACDC's are not nested: the second is
        `circuits/<edges>_2.json`. Points of one and the same circuit share a file.
        """
        known: dict[int, list[Tensor]] = {}
        names = []
        for point in self.points:
            n_edges = int(point.mask.sum())
            masks = known.setdefault(n_edges, [])
            same = [torch.equal(mask, point.mask) for mask in masks]
            number = same.index(True) if any(same) else len(masks)
            if number == len(masks):
                masks.append(point.mask)
            names.append(f"circuits/{n_edges}{f'_{number + 1}' * (number > 0)}.json")
        return names

    def file_of(self, point: Point) -> str:
        """Where the circuit of one of `points` lies; see `files`."""
        return next(
            file for one, file in zip(self.points, self.files(), strict=True) if one is point
        )

    def smallest_size(self) -> Float[Tensor, " edge"]:
        """For each edge the number of edges of the smallest circuit that keeps it; NaN for none."""
        smallest = torch.full((self.graph.n_edges,), torch.nan)
        for point in sorted(self.points, key=lambda point: -int(point.mask.sum())):
            smallest[point.mask] = float(point.mask.sum())
        return smallest

    def chosen(self, max_kl: float = 0.1) -> Point:
        """The smallest circuit with a KL of at most `max_kl` nats, else the one of least KL.

        Of several of equal size, the one of least KL.
        """
        good = [point for point in self.points if point.evidence.kl <= max_kl]
        if good:
            return min(good, key=lambda point: (int(point.mask.sum()), point.evidence.kl))
        return min(self.points, key=lambda point: point.evidence.kl)


def write_results(
    folder: Path,
    frontier: Frontier,
    initial: Float[Tensor, " edge"] | None,
    final: Float[Tensor, " edge"],
    summary: str,
) -> None:
    """Write `frontier.json`, `circuits/`, `edges.csv` and `summary.md`, each atomically.

    Args:
        folder: The run's.
        frontier: Circuits with their evidence.
        initial: Signed scores of the attribution, if there was one.
        final: What the circuits were cut from, higher first; NaN is in no circuit.
        summary: The run on one page of Markdown.
    """
    (folder / "circuits").mkdir(exist_ok=True)
    for point, file in zip(frontier.points, frontier.files(), strict=True):
        _circuit(frontier, point, initial, final).save(folder / file)
    columns = {} if initial is None else {"initial_score": initial}
    columns |= {"final_score": final, "smallest_circuit": frontier.smallest_size()}
    write_edges_csv(folder / "edges.csv", frontier.graph, columns)
    write_json(folder / "frontier.json", frontier.to_json())
    write_atomic(folder / "summary.md", summary)


def _circuit(
    frontier: Frontier,
    point: Point,
    initial: Float[Tensor, " edge"] | None,
    final: Float[Tensor, " edge"],
) -> Circuit:
    """A point's circuit, with the scores that its ranking comes from: a learned one has none."""
    about = frontier.provenance
    method = None if about.get("learner") else about.get("init")
    signed = method is not None and has_signs(method)
    return Circuit(
        frontier.graph,
        point.mask,
        initial if signed else None,
        {**about, "size": point.size, "evidence": point.evidence.to_json()},
        ranking=final,
        method=None if method is None else str(method),
    )


def read_results(folder: Path) -> tuple[Frontier, list[Circuit]]:
    """`frontier.json` and the circuit of each of its points, whether or not the run is `COMPLETE`.

    Raises:
        RunError: no run there, or a damaged `frontier.json`.
        GraphError: a file under `circuits` is not a circuit.
    """
    path = folder / "frontier.json"
    if not path.is_file():
        raise RunError(
            f"{str(folder)!r} holds no run: it has no frontier.json; give the output_dir of a run "
            "of `train` or `attribute`"
        )
    value: Any = read_json(path)
    try:
        full, empty = (Evidence(**value[end]) for end in ("full", "empty"))
        rows = value["points"]
        circuits = [Circuit.load(folder / _file(row)) for row in rows]
        points = [_point(row, c) for row, c in zip(rows, circuits, strict=True)]
        about = {key: item for key, item in value.items() if key not in ("full", "empty", "points")}
        return Frontier(circuits[0].graph, about, full, empty, points), circuits
    except (KeyError, TypeError, IndexError) as error:
        raise RunError(f"{path} is damaged: {error!r}") from error


def _file(row: dict) -> str:
    """Of a point's circuit; one without `file` is named by its size."""
    return "circuits/" + Path(row.get("file", f"{row['n_edges']}.json")).name


def _point(row: dict, circuit: Circuit) -> Point:
    about = ("size", "n_edges", "n_edges_ungrouped", "file")
    evidence = {name: value for name, value in row.items() if name not in about}
    return Point(row["size"], circuit.mask, Evidence(**evidence))
