"""What files say of what gates stand on: parts, spans, or, where they say nothing, whole edges."""

from dataclasses import asdict
from typing import TypeVar, cast

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import Cut, PartGraph, part_graph
from circuitprune.circuits.part_spans import at_spans
from circuitprune.circuits.span_graph import MOST_SPANS, Span, SpanGraph
from circuitprune.errors import GraphError, RunError
from circuitprune.files.records import from_json

PARTED = 1_000_000
"""Things that are cut into parts, in one file: far more than a model has nodes."""

GATES = ("level", "cuts", "spans")
"""Fields of a graph that say what gates stand on; all others are the model's sizes."""

Listed = TypeVar("Listed")
"""What a file lists."""


def said_of_gates(graph: Graph) -> dict[str, object]:
    """What a file says of what gates stand on, where that is not whole edges."""
    said: dict[str, object] = {}
    if isinstance(graph, PartGraph):
        said |= {"level": graph.level, "cuts": [asdict(cut) for cut in graph.cuts]}
    if isinstance(graph, SpanGraph):
        said |= {"spans": [asdict(span) for span in graph.spans]}
    return said


def has_parts(own: object) -> bool:
    """Whether a file's own key says that gates stand on parts, or are at spans."""
    said = own.get("graph") if isinstance(own, dict) else None
    return isinstance(said, dict) and bool({"cuts", "spans"} & said.keys())


def read_graph(said: object, at: str) -> Graph:
    """The graph of a file of scores or gates, from its fields as `asdict` gives them.

    Args:
        said: The fields: sizes and, where gates are not on whole edges, `level`, `cuts`, `spans`.
        at: What to call it in a message.

    Raises:
        RunError: no such fields, or of no graph that there can be.
    """
    sizes = {k: v for k, v in said.items() if k not in GATES} if isinstance(said, dict) else said
    try:
        return of_gates(from_json(Graph, sizes, at), {"graph": said})
    except GraphError as error:
        raise RunError(f"{at} is damaged: {error}") from error


def of_gates(graph: Graph, own: object) -> Graph:
    """What gates stand on as a file's own key says; the graph itself if it says nothing."""
    if not has_parts(own):
        return graph
    said = cast(dict[str, dict[str, object]], own)["graph"]
    try:
        if "cuts" in said:
            graph = _cut(graph, said["cuts"], said.get("level"))
        if "spans" in said:
            graph = at_spans(graph, _listed(Span, said["spans"], "a span", MOST_SPANS))
    except RunError as error:
        raise GraphError(str(error)) from error
    return graph


def _cut(graph: Graph, cuts: object, level: object) -> PartGraph:
    """The graph of the parts that a file lists."""
    if not isinstance(level, str):
        raise GraphError(f"'level' must be a name, got {level!r:.80}")
    return part_graph(graph, level, _listed(Cut, cuts, "a cut", PARTED))


def _listed(kind: type[Listed], values: object, what: str, most: int) -> tuple[Listed, ...]:
    """Records in a list of a file."""
    if not isinstance(values, list) or len(values) > most:
        raise GraphError(f"{what} must stand in a list of at most {most:,}")
    return tuple(from_json(kind, value, what) for value in values)
