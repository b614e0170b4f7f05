"""Circuits for other programs: a table of edges for spreadsheets, DOT text for Graphviz."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import KIND_COLOURS, place, strengths
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.span_graph import SpanGraph, spans_at
from circuitprune.errors import GraphError
from circuitprune.files.text import line
from circuitprune.files.whole import write_atomic


def write_edges_csv(
    path: str | Path,
    edges_of: Circuit | Graph,
    columns: Mapping[str, Shaped[Tensor, " edge"]] | None = None,
) -> None:
    """Writes one line per edge: `writer,reader,kind,layer` and the given columns.

    Of parts, `part` comes first; all are read by way of the stream, whose end is `logits`. Where
    gates stand at spans, `span` comes behind `layer`. `kind`
    is the port (`q`, `k`, `v`, `mlp`, `logits`), `layer` the reader's layer (the number of layers
    for `logits`). Booleans are 1 and 0, NaN is an empty cell.

    Args:
        path: The file, written atomically.
        edges_of: A circuit writes its kept edges, a graph all of them.
        columns: A value per edge *of the graph* under each heading, such as `score`.

    Raises:
        GraphError: a column that does not have one value per edge.
        RunError: the file cannot be written.
    """
    graph = edges_of.graph if isinstance(edges_of, Circuit) else edges_of
    columns = columns or {}
    for name, values in columns.items():
        if values.shape != (graph.n_edges,):
            raise GraphError(
                f"column {name!r} has shape {tuple(values.shape)}, expected ({graph.n_edges},)"
            )
    every = torch.ones(graph.n_edges, dtype=torch.bool)
    rows = (edges_of.mask if isinstance(edges_of, Circuit) else every).nonzero().flatten()
    readers = graph.edge_reader[rows].tolist()
    of_parts = isinstance(graph, PartGraph)
    table = [
        *([[graph.edge_name(row).partition("@")[0] for row in rows.tolist()]] if of_parts else []),
        [graph.writers[w] for w in graph.edge_writer[rows].tolist()],
        [graph.readers[r] for r in readers],
        [graph.reader_kind[r] for r in readers],
        graph.reader_layer[readers].tolist(),
        *([spans_at(graph, rows)] if isinstance(graph, SpanGraph) else []),
        *(values.cpu()[rows].tolist() for values in columns.values()),
    ]
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\n")
    first, at = ("part",) * of_parts, ("span",) * isinstance(graph, SpanGraph)
    names = (*first, "writer", "reader", "kind", "layer", *at, *columns)
    sheet.writerow([_cell(name) for name in names])
    sheet.writerows([_cell(value) for value in row] for row in zip(*table, strict=True))
    write_atomic(path, text.getvalue())


def to_dot(circuit: Circuit) -> str:
    """The circuit as DOT text, input at the bottom, one line per edge counted by query head.

    Nodes are called as in every other drawing, `1.3` for `a1.h3`. A layer's heads are one rank, its
    MLP the next (the same in parallel blocks). Edges have the colours of their ports and, if the
    circuit has a ranking, the width of their strength. Render it with Graphviz:
    `dot -Tpdf circuit.dot -o circuit.pdf`.
    """
    whole = circuit.ungrouped()
    graph, kept = whole.graph, whole.mask.nonzero().flatten().tolist()
    title = ", ".join(
        str(circuit.provenance[k]) for k in ("model", "task") if k in circuit.provenance
    )
    lines = ["digraph circuit {", "  rankdir=BT;", f"  label={_quoted(title)};"]
    lines += ['  node [shape=box, style=rounded, fontname="Helvetica"];']
    places = place(graph).nodes
    lines += [f"  {_quoted(name)} [label={_quoted(places[name].label)}];" for name in whole.nodes]
    ranks = _ranks(whole)
    for names in ranks.values():
        lines.append(f"  {{ rank=same; {' '.join(f'{_quoted(name)};' for name in names)} }}")
    first = [_quoted(names[0]) for names in ranks.values()]
    if len(first) > 1:  # keeps the ranks in order where no edge does
        lines.append(f"  {' -> '.join(first)} [style=invis];")
    strength = strengths(whole.ranking, whole.mask)
    for edge in kept:
        reader = int(graph.edge_reader[edge])
        writer = graph.writers[int(graph.edge_writer[edge])]
        node = graph.readers[reader].partition("<")[0]
        colour, width = KIND_COLOURS[graph.reader_kind[reader]], 0.8 + 3 * float(strength[edge])
        at = ""
        if isinstance(graph, SpanGraph):
            at = f", label={_quoted('@' + graph.spans[int(graph.edge_span[edge])].name)}"
        lines.append(
            f'  {_quoted(writer)} -> {_quoted(node)} [color="{colour}", penwidth={width:.2f}{at}];'
        )
    return "\n".join([*lines, "}", ""])


def _ranks(circuit: Circuit) -> dict[float, list[str]]:
    """The circuit's nodes by the height at which they are drawn, from the input up."""
    ranks: dict[float, list[str]] = {}
    places = place(circuit.graph).nodes
    for name in circuit.nodes:
        ranks.setdefault(places[name].y, []).append(name)
    return dict(sorted(ranks.items()))


def _cell(value: object) -> object:
    """A CSV cell; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def _quoted(text: str) -> str:
    """A DOT string: quotes and backslashes escaped, all on one line."""
    return '"' + line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
