"""How a circuit shows itself: facts for a terminal, a picture and tables for a notebook."""

import html
import json
from typing import TYPE_CHECKING

from circuitprune.circuits.svg import circuit_svg
from circuitprune.files.text import line

if TYPE_CHECKING:
    import circuitprune.circuits.circuit


def facts_of(circuit: "circuitprune.circuits.circuit.Circuit") -> list[tuple[str, str]]:
    """Its sizes in both conventions, then the provenance, as `(name, text)`."""
    graph = circuit.graph
    sizes = f"{circuit.n_edges:,} of {graph.n_edges:,} ({circuit.density:.2%})"
    if graph.n_edges_ungrouped != graph.n_edges:
        sizes += f" by KV head; {circuit.n_edges_ungrouped:,} of {graph.n_edges_ungrouped:,}"
        sizes += " by query head"
    nodes = f"{len(circuit.nodes):,} of {graph.n_writers + 1:,}"
    facts = [(_shown(key), _shown(value)) for key, value in circuit.provenance.items()]
    return [(f"{graph.unit}s", sizes), ("nodes", nodes), *facts]


def html_of(circuit: "circuitprune.circuits.circuit.Circuit") -> str:
    """A drawing, the facts, and the edges that rank highest."""
    facts = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in facts_of(circuit)
    )
    edges = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{score}</td></tr>"
        for name, score in _strongest(circuit, 20)
    )
    table = f"<table><tr><th>edge</th><th>score</th></tr>{edges}</table>"
    drawing = circuit_svg(circuit.graph, circuit.mask, circuit.ranking)
    return f"{drawing}<table>{facts}</table><details><summary>edges</summary>{table}</details>"


def _strongest(circuit: "circuitprune.circuits.circuit.Circuit", n: int) -> list[tuple[str, str]]:
    """Names and scores of the kept edges that rank highest; their rank where none is scored."""
    kept, name = circuit.mask.nonzero().flatten(), circuit.graph.edge_name
    if circuit.ranking is None:
        return [(name(edge), "") for edge in kept[:n].tolist()]
    order = circuit.ranking[kept].nan_to_num(-float("inf")).argsort(descending=True, stable=True)
    shown = circuit.ranking if circuit.scores is None else circuit.scores
    return [(name(e), f"{shown[e].item():.4g}") for e in kept[order[:n]].tolist()]


def _shown(value: object) -> str:
    return line(value if isinstance(value, str) else json.dumps(value))
