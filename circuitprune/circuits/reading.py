"""A circuit's file as plain values; one too large for its own sizes is refused unparsed."""

import re
from pathlib import Path

from circuitprune.circuits.graph import Graph
from circuitprune.errors import GraphError
from circuitprune.files.limits import BESIDE, PER_EDGE, read_bytes, refuse_size
from circuitprune.files.whole import parse_json

NEEDS_GRAPH = (
    "an Edge-Pruning edge list does not say the model's sizes; "
    "pass them, as in Circuit.load(path, graph=Graph(12, 12, 12))"
)
_FRONT = 65_536
"""Bytes in which a large file has to say its sizes."""


def read_circuit(path: str | Path, graph: Graph | None = None) -> object:
    """The JSON value of a circuit's file.

    A file of more than `BESIDE` bytes begins with its `cfg`, as ours, EAP-IG's and MIB's do, and
    has room for the edges of such a model, no more.

    Args:
        path: The file.
        graph: The model's sizes, if they are known.

    Raises:
        RunError: missing, larger than such a circuit can be, or not JSON.
        GraphError: sizes that no model has, or an edge list without a graph.
    """
    most = None if graph is None else BESIDE + PER_EDGE * graph.n_edges_ungrouped
    data = read_bytes(path, "circuit", most)
    if graph is None:
        try:
            most = BESIDE + PER_EDGE * _edges_said(data[:_FRONT])
        except GraphError as error:
            raise GraphError(f"{path}: {error}") from error
        refuse_size(f"{path}, by the sizes in its first lines,", "circuit", len(data), most)
    return parse_json(path, data, nan=True)


def _edges_said(front: bytes) -> int:
    """Edges by query head of the model that a file begins with; 0 if it says none."""
    if front.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise GraphError(NEEDS_GRAPH)
    sizes = [re.search(rb'"%b"\s*:\s*(\d{1,9})' % key, front) for key in (b"n_layers", b"n_heads")]
    n_layers, n_heads = (0 if size is None else int(size[1]) for size in sizes)
    return Graph(n_layers, n_heads, n_heads).n_edges if min(n_layers, n_heads) else 0
