"""Run folders as one JSON-able value: all that a report shows."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.attribution.methods import has_signs
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.files import read_json, read_tensors
from circuitprune.runs.finished import full_ranking
from circuitprune.runs.frontier import Frontier, read_results
from circuitprune.views.report.sources import sources

MOST_DRAWN = 50_000
"""Edges of one circuit that a report holds; of a larger circuit, the strongest."""


def report_data(folders: Sequence[str | Path]) -> dict:
    """Everything that a report of these runs shows, as plain JSON values.

    The evidence, the pairs and the settings are the first run's; of every run there are the
    frontier and the circuits. Scores are rounded to six digits. Edges are columns over the edges
    of all circuits of a run, strongest first, and a circuit says which of them it keeps: `[2, 5]`
    leaves out two, then keeps five. `others` has the same of each further run, or, if its model
    has other sizes, so that no edge means the same, what those sizes are.

    Args:
        folders: Run folders of `train` or `attribute`, which need not be `COMPLETE`, and what
            `stability` and `compare` wrote; see `sources`.

    Raises:
        RunError: no folder, or one without a run or with damaged files.
        GraphError: a file under `circuits` is not a circuit.
    """
    paths, studies = sources(folders)
    read = [read_results(path) for path in paths]
    first, (frontier, circuits) = paths[0], read[0]
    evidence = _optional(first / "verification.json")
    return {
        "schema": 1,
        "runs": [_run(path, found) for path, (found, _) in zip(paths, read, strict=True)],
        "graph": _graph(frontier.graph),
        **_circuits(first, frontier, circuits, evidence),
        "others": [
            _other(frontier.graph, path, *found)
            for path, found in zip(paths[1:], read[1:], strict=True)
        ],
        "command": (_optional(first / "command.json") or {}).get("command"),
        "evidence": evidence,
        "studies": studies,
        "pairs": _optional(first / "pairs.json"),
        "config": _text(first / "config.yaml"),
        "versions": _optional(first / "versions.json"),
    }


# ---------------------------------------------------------------- the frontier


def _run(folder: Path, frontier: Frontier) -> dict:
    """One run's frontier, as `frontier.json` has it, with the position of the chosen circuit."""
    chosen = frontier.chosen()
    return {
        "name": folder.resolve().name,
        "about": frontier.provenance,
        "full": frontier.full.to_json(),
        "empty": frontier.empty.to_json(),
        "points": frontier.to_json()["points"],
        "chosen": next(i for i, point in enumerate(frontier.points) if point is chosen),
    }


# ---------------------------------------------------------------- the circuits


def _graph(graph: Graph) -> dict:
    """Sizes and names, and for each reader its kind, layer and the writers that it feeds."""
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "n_kv_readers": graph.n_kv_readers,
        "parallel": graph.parallel,
        "d_model": graph.d_model,
        "n_edges": graph.n_edges,
        "n_edges_ungrouped": graph.n_edges_ungrouped,
        "writers": graph.writers,
        "writer_layer": graph.writer_layer.tolist(),
        "readers": graph.readers,
        "reader_kind": graph.reader_kind,
        "reader_layer": graph.reader_layer.tolist(),
        "feeds": [list(graph.heads_of_reader(reader)) for reader in range(graph.n_readers)],
    }


def _circuits(folder: Path, frontier: Frontier, circuits: list[Circuit], evidence: Any) -> dict:
    """The edges of all circuits, each once, and for every circuit which of them it keeps."""
    graph, ranking, kept, used = frontier.graph, *_ranked(folder, frontier, circuits)
    columns: dict[str, Any] = {
        **_columns(graph, ranking, used),
        "attribution": _attribution(folder, used),
        "exact": _exact(evidence, graph, used),
    }
    signed = has_signs(frontier.provenance.get("init"))
    return {
        "edges": columns,
        "signed": signed and columns["attribution"] is not None,
        "circuits": _spans(circuits, kept, used),
    }


def _other(graph: Graph, folder: Path, frontier: Frontier, circuits: list[Circuit]) -> dict:
    """A further run's circuits, if their edges can be told with those of `graph`."""
    if not frontier.graph.same_edges(graph):
        return {"differs": frontier.graph.describe()}
    ranking, kept, used = _ranked(folder, frontier, circuits)
    columns = _columns(graph, ranking, used)
    return {"edges": columns, "circuits": _spans(circuits, kept, used)}


def _ranked(
    folder: Path, frontier: Frontier, circuits: list[Circuit]
) -> tuple[Float[Tensor, " edge"], list[Bool[Tensor, " edge"]], list[int]]:
    """The ranking, at most `MOST_DRAWN` edges of each circuit, and all of those by rank."""
    ranking = full_ranking(folder, frontier, circuits)
    order = ranking.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    kept = []
    for circuit in circuits:
        mask = torch.zeros_like(circuit.mask)
        mask[order[circuit.mask[order]][:MOST_DRAWN]] = True
        kept.append(mask)
    some = torch.stack(kept).any(dim=0)
    return ranking, kept, order[some[order]].tolist()


def _columns(graph: Graph, ranking: Float[Tensor, " edge"], used: list[int]) -> dict[str, Any]:
    return {
        "writer": graph.edge_writer[used].tolist(),
        "reader": graph.edge_reader[used].tolist(),
        "score": _rounded(ranking[used]),
    }


def _spans(
    circuits: list[Circuit], kept: list[Bool[Tensor, " edge"]], used: list[int]
) -> list[dict]:
    """For each circuit its sizes and, by turns, how many of `used` it leaves out and keeps."""
    found = []
    for circuit, mask in zip(circuits, kept, strict=True):
        flags = [False, *mask[used].tolist()]
        spans = [len(list(run)) for _, run in groupby(flags)]
        sizes = {"n_edges": circuit.n_edges, "n_nodes": len(circuit.nodes)}
        found.append({**sizes, "spans": [spans[0] - 1, *spans[1:]]})
    return found


def _attribution(folder: Path, edges: list[int]) -> list | None:
    """Scores of the attribution, None where an edge has none."""
    path = folder / "scores.safetensors"
    return _rounded(read_tensors(path)[0]["scores"][edges]) if path.exists() else None


def _exact(evidence: Any, graph: Graph, edges: list[int]) -> dict[str, float] | None:
    """By position, how much the KL rises (nats) when this edge leaves the verified circuit."""
    try:
        rows = evidence["sections"]["minimality"]["edges"]
        rise = {graph.edge_index(row["edge"]): row["kl"]["value"] for row in rows}
    except (KeyError, TypeError):
        return None  # not verified, or without this section
    return {str(position): rise[edge] for position, edge in enumerate(edges) if edge in rise}


def _rounded(values: Float[Tensor, " edge"]) -> list[float | None]:
    return [float(f"{x:.6g}") if abs(x) < float("inf") else None for x in values.tolist()]


# ---------------------------------------------------------------- other files


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
