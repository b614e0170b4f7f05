"""Run folders as one JSON-able value: all that a report shows."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.attribution.methods import has_signs
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.span_graph import SpanGraph, in_prompt_order
from circuitprune.errors import RunError
from circuitprune.evidence.minimality import Minimality
from circuitprune.files.limits import read_bytes
from circuitprune.files.records import from_json
from circuitprune.files.tensors import taken
from circuitprune.files.whole import read_json, read_tensors
from circuitprune.runs.finished import full_ranking
from circuitprune.runs.frontier import Frontier, read_results
from circuitprune.runs.part_edges import FILE as PART_EDGES
from circuitprune.runs.together import SHARED
from circuitprune.views.report.records import (
    CircuitData,
    EdgeColumns,
    GraphData,
    Incomparable,
    MainColumns,
    OtherRun,
    ReportData,
    RunData,
    SpanData,
    Studies,
)
from circuitprune.views.report.sources import sources

MOST_DRAWN = 20_000
"""Edges of one circuit that a report holds; of a larger circuit, the strongest."""
DIGITS = 3
"""Significant digits of an edge's numbers: as many as the page shows, so they are rounded once."""


def report_data(folders: Sequence[str | Path]) -> ReportData:
    """Everything that a report of these runs shows.

    The evidence, the pairs and the settings are the first run's; of every run there are the
    frontier and the circuits. Edges are columns over the edges of all circuits of a run, strongest
    first, their numbers rounded to `DIGITS`, and a circuit says which of them it keeps: `[2, 5]`
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
    ranking, kept, used = _ranked(first, frontier, circuits)
    attribution = _attribution(first, frontier.graph, used)
    return ReportData(
        schema=1,
        runs=tuple(_run(path, found) for path, (found, _) in zip(paths, read, strict=True)),
        graph=_graph(frontier.graph),
        edges=MainColumns(
            **vars(_columns(frontier.graph, ranking, used)),
            attribution=attribution,
            exact=_exact(evidence, frontier.graph, used),
        ),
        signed=attribution is not None and has_signs(frontier.provenance.get("init")),
        circuits=_spans(circuits, kept, used),
        shared=_shared(frontier.graph, circuits, used),
        others=tuple(
            _other(frontier.graph, path, *found)
            for path, found in zip(paths[1:], read[1:], strict=True)
        ),
        command=_command(first),
        evidence=evidence,
        studies=Studies(**studies),
        part_edges=_optional(first / PART_EDGES),
        pairs=_optional(first / "pairs.json"),
        config=_text(first / "config.yaml"),
        versions=_versions(first),
    )


# ---------------------------------------------------------------- the frontier


def _run(folder: Path, frontier: Frontier) -> RunData:
    chosen = frontier.chosen()
    return RunData(
        name=folder.resolve().name,
        about=frontier.provenance,
        full=frontier.full,
        empty=frontier.empty,
        points=frontier.rows(),
        chosen=next(i for i, point in enumerate(frontier.points) if point is chosen),
    )


# ---------------------------------------------------------------- the circuits


def _graph(graph: Graph) -> GraphData:
    return GraphData(
        n_layers=graph.n_layers,
        n_heads=graph.n_heads,
        n_kv_readers=graph.n_kv_readers,
        parallel=graph.parallel,
        d_model=graph.d_model,
        unit=graph.unit,
        n_edges=graph.n_edges,
        n_edges_ungrouped=graph.n_edges_ungrouped,
        writers=tuple(graph.writers),
        writer_layer=tuple(graph.writer_layer.tolist()),
        readers=tuple(graph.readers),
        reader_kind=tuple(graph.reader_kind),
        reader_layer=tuple(graph.reader_layer.tolist()),
        feeds=tuple(tuple(graph.heads_of_reader(reader)) for reader in range(graph.n_readers)),
        spans=_span_data(graph) if isinstance(graph, SpanGraph) else None,
    )


def _span_data(graph: SpanGraph) -> tuple[SpanData, ...]:
    """The spans in the order of prompts."""
    order = in_prompt_order(graph.spans)
    ordered = [graph.spans[place] for place in order]
    sees = [tuple(sorted(map(order.index, span.sees))) for span in ordered]
    return tuple(SpanData(span.name, seen) for span, seen in zip(ordered, sees, strict=True))


def _other(
    graph: Graph, folder: Path, frontier: Frontier, circuits: list[Circuit]
) -> OtherRun | Incomparable:
    """A further run's circuits, if their edges can be told with those of `graph`."""
    if not frontier.graph.same_edges(graph):
        return Incomparable(frontier.graph.describe())
    ranking, kept, used = _ranked(folder, frontier, circuits)
    return OtherRun(_columns(graph, ranking, used), _spans(circuits, kept, used))


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


def _columns(graph: Graph, ranking: Float[Tensor, " edge"], used: list[int]) -> EdgeColumns:
    ends = tuple(graph.edge_writer[used].tolist()), tuple(graph.edge_reader[used].tolist())
    own = isinstance(graph, PartGraph | SpanGraph)
    named = tuple(map(graph.edge_name, used)) if own else None
    return EdgeColumns(*ends, _rounded(ranking[used]), named, _places(graph, used))


def _places(graph: Graph, used: list[int]) -> tuple[int, ...] | None:
    """The span of each edge, by its place in the order of prompts."""
    if not isinstance(graph, SpanGraph):
        return None
    order = in_prompt_order(graph.spans)
    return tuple(map(order.index, graph.edge_span[used].tolist()))


def _spans(
    circuits: list[Circuit], kept: list[Bool[Tensor, " edge"]], used: list[int]
) -> tuple[CircuitData, ...]:
    """For each circuit its sizes and, by turns, how many of `used` it leaves out and keeps."""
    found = []
    for circuit, mask in zip(circuits, kept, strict=True):
        flags = [False, *mask[used].tolist()]
        spans = [len(list(run)) for _, run in groupby(flags)]
        found.append(CircuitData(circuit.n_edges, len(circuit.nodes), (spans[0] - 1, *spans[1:])))
    return tuple(found)


def _shared(
    graph: Graph, circuits: list[Circuit], used: list[int]
) -> tuple[tuple[int, ...], ...] | None:
    """Positions among `used` of the edges that a circuit's file calls shared by all tasks."""
    said = [circuit.provenance.get(SHARED) for circuit in circuits]
    if not all(isinstance(names, list) for names in said):
        return None
    place = {edge: position for position, edge in enumerate(used)}
    named = [graph.mask_of(map(str, cast(list[object], names))).nonzero() for names in said]
    return tuple(
        tuple(sorted(place[edge] for edge in edges.flatten().tolist() if edge in place))
        for edges in named
    )


def _attribution(folder: Path, graph: Graph, edges: list[int]) -> tuple[float | None, ...] | None:
    """Scores of the attribution, None where an edge has none."""
    path = folder / "scores.safetensors"
    if not path.exists():
        return None
    return _rounded(taken(path, read_tensors(path)[0], "scores", (graph.n_edges,))[edges])


def _exact(evidence: object, graph: Graph, edges: list[int]) -> dict[str, float] | None:
    """By position, how much the KL rises (nats) when this edge leaves the verified circuit."""
    sections = evidence.get("sections") if isinstance(evidence, dict) else None
    if not isinstance(sections, dict) or "minimality" not in sections:
        return None
    try:
        rows = from_json(Minimality, sections["minimality"]).edges
    except RunError:
        return None  # not computed, or damaged: the page says which in the section's place
    rise = {graph.edge_index(row.edge): _short(row.kl.value) for row in rows}
    return {str(position): rise[edge] for position, edge in enumerate(edges) if edge in rise}


def _rounded(values: Float[Tensor, " edge"]) -> tuple[float | None, ...]:
    return tuple(_short(x) if abs(x) < float("inf") else None for x in values.tolist())


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


# ---------------------------------------------------------------- other files


def _optional(path: Path) -> object:
    return read_json(path, checked=True) if path.exists() else None


def _command(folder: Path) -> str | None:
    found = _optional(folder / "command.json")
    said = found.get("command") if isinstance(found, dict) else None
    return said if isinstance(said, str) else None


def _versions(folder: Path) -> Mapping[str, str] | None:
    found = _optional(folder / "versions.json")
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        return None
    return found


def _text(path: Path) -> str | None:
    try:
        return read_bytes(path, "config").decode() if path.exists() else None
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 text: {error}") from None
