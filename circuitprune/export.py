"""Circuits for other programs: a table of edges for spreadsheets, DOT text for Graphviz."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from circuitprune.circuit import Circuit
from circuitprune.errors import GraphError
from circuitprune.files import write_atomic
from circuitprune.graph import Graph

PORT_COLOURS = {"q": "#c2185b", "k": "#2e7d32", "v": "#1565c0", "mlp": "#616161"}
"""Edge colours by port: EAP-IG's magenta, green and blue, dark enough for white paper."""


def write_edges_csv(
    path: str | Path,
    edges_of: Circuit | Graph,
    columns: Mapping[str, Shaped[Tensor, " edge"]] | None = None,
) -> None:
    """Writes one line per edge: `writer,reader,kind,layer` and the given columns.

    `kind` is the port (`q`, `k`, `v`, `mlp`, `logits`), `layer` the reader's layer (the number of
    layers for `logits`). Booleans are 1 and 0, NaN is an empty cell.

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
    table = [
        [graph.writers[w] for w in graph.edge_writer[rows].tolist()],
        [graph.readers[r] for r in readers],
        [graph.reader_kind[r] for r in readers],
        graph.reader_layer[readers].tolist(),
        *(values.cpu()[rows].tolist() for values in columns.values()),
    ]
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\n")
    sheet.writerow([_cell(name) for name in ("writer", "reader", "kind", "layer", *columns)])
    sheet.writerows([_cell(value) for value in row] for row in zip(*table, strict=True))
    write_atomic(path, text.getvalue())


def to_dot(circuit: Circuit) -> str:
    """The circuit as DOT text, input at the bottom, one line per edge counted by query head.

    Render it with Graphviz: `dot -Tsvg circuit.dot`.
    """
    whole = circuit.ungrouped()
    graph = whole.graph
    title = ", ".join(
        str(circuit.provenance[k]) for k in ("model", "task") if k in circuit.provenance
    )
    lines = ["digraph circuit {", "  rankdir=BT;", f"  label={_quoted(title)};"]
    lines += [f"  {_quoted(name)} [shape=box];" for name in whole.nodes]
    for edge in whole.mask.nonzero().flatten().tolist():
        reader = int(graph.edge_reader[edge])
        writer = graph.writers[int(graph.edge_writer[edge])]
        node = graph.readers[reader].partition("<")[0]
        colour = PORT_COLOURS.get(graph.reader_kind[reader], "#000000")
        lines.append(f'  {_quoted(writer)} -> {_quoted(node)} [color="{colour}"];')
    return "\n".join([*lines, "}", ""])


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
    """A DOT string: quotes and backslashes escaped, control characters shown as U+FFFD."""
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
