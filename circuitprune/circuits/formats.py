"""Circuit files as plain JSON values, told by their content.

Nothing here touches a disk or knows `Circuit`: a circuit's `Parts` go in and come out.
`docs/file_formats.md` shows the files; `mib.py` and `edge_pruning.py` know their words.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from circuitprune.circuits.edge_pruning import (
    from_edge_pruning,
    refuse_other_heads,
    refuse_query_heads,
    to_edge_pruning,
)
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.mib import from_mib, to_mib, to_own
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.parts import Parts
from circuitprune.circuits.reading import NEEDS_GRAPH
from circuitprune.circuits.span_graph import SpanGraph
from circuitprune.circuits.standing import has_parts
from circuitprune.errors import GraphError

Json = dict[str, object] | list[object]
"""The value of a circuit's file."""

Format = Literal["circuitprune", "mib", "edge_pruning", "edge_pruning_gpt2"]
"""How a circuit may be written; docs/file_formats.md shows each."""


def forms_of(value: Json) -> tuple[Format, ...]:
    """The formats that a value of its kind may have; an edge list is written as it was."""
    if isinstance(value, dict) and has_parts(value.get("circuitprune")):
        return ("circuitprune",)
    return ("edge_pruning",) if isinstance(value, list) else ("circuitprune", "mib")


def write(parts: Parts, format: Format, embeddings: Sequence[str] = ()) -> Json:
    """The JSON value of a circuit in a format.

    Args:
        parts: The circuit.
        format: One of `Format`.
        embeddings: What an edge list that the circuit came from called `input`.

    Raises:
        GraphError: an unknown format, infinite scores, or heads that the format would take for
            others.
    """
    if format == "circuitprune":
        return to_own(parts)
    if isinstance(parts.graph, PartGraph | SpanGraph):
        at = " at spans" if isinstance(parts.graph, SpanGraph) else ""
        raise GraphError(
            f"format {format!r} is of edges, and this circuit is of {parts.graph.unit}s{at}; take "
            "'circuitprune', which holds both"
        )
    if format == "mib":
        return to_mib(parts)
    if format == "edge_pruning":
        refuse_query_heads(parts)
        return list(to_edge_pruning(parts, embeddings or ("embeds",)))
    if format == "edge_pruning_gpt2":
        return list(to_edge_pruning(parts, ("tok_embeds", "pos_embeds")))
    known = ", ".join(repr(name) for name in get_args(Format))
    raise GraphError(f"unknown circuit format {format!r}; choose one of {known}")


def parse(value: object, graph: Graph | None = None, n_kv_heads: int | None = None) -> Parts:
    """The circuit in a JSON value, whichever of the known forms it has.

    Args:
        value: An EAP-IG/MIB object (also our own) or an Edge-Pruning list.
        graph: Needed for an edge list, which carries no sizes; for an object, only checked.
        n_kv_heads: Of the model, if it is known; see `Circuit.load`.

    Raises:
        GraphError: none of the known forms, unknown names, or sizes that do not fit.
    """
    if isinstance(value, list):
        if graph is None:
            raise GraphError(NEEDS_GRAPH)
        refuse_other_heads(value, graph, n_kv_heads)
        return from_edge_pruning(value, graph)
    if not isinstance(value, dict) or not {"cfg", "nodes", "edges"} <= value.keys():
        raise GraphError(
            "not a circuit: expected an object with 'cfg', 'nodes' and 'edges' (EAP-IG, MIB, "
            "circuitprune) or a list of [writer, reader] pairs (Edge-Pruning)"
        )
    parts = from_mib(value)
    if graph is not None and not graph.same_edges(parts.graph):
        raise GraphError(f"holds {unlike(parts.graph, graph)}")
    return parts


def unlike(theirs: Graph, ours: Graph) -> str:
    """What to say of two graphs that differ, and what to set where only the convention does."""
    said = f"{theirs.describe()}, expected {ours.describe()}"
    if not theirs.ungrouped().same_edges(ours.ungrouped()):
        spanned = isinstance(theirs, SpanGraph), isinstance(ours, SpanGraph)
        return f"{said}; tokens are dealt to spans otherwise: see `spans`" if any(spanned) else said
    by = "query_head, as MIB counts," if theirs.n_kv_readers == theirs.n_heads else "kv_head"
    return f"{said}; only key/value readers differ: set model.kv_readers={by} for these edges"
