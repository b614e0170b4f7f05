"""What a report should show of a circuit, computed from the circuit's file."""

import re

from circuitprune.circuits.circuit import Circuit

CHOSEN = 40
"""Edges of the circuit that the synthetic run chooses: the smallest whose KL 2/n is within 0.1."""


def loaded(run, n_edges=CHOSEN):
    """A circuit of a run."""
    return Circuit.load(run / "circuits" / f"{n_edges}.json")


def ends(name):
    """Nodes at the ends of an edge, and what its reader is."""
    writer, reader = name.split("->")
    kind = re.search("<(.)>", reader)
    node = re.sub("<.>", "", reader)
    return writer, node, kind[1] if kind else "logits" if node == "logits" else "mlp"


def drawn(circuit):
    """The edges that a drawing should hold."""
    return {ends(name) for name in circuit.edges}


def touching(circuit, node):
    """Those of them that a node has."""
    return {edge for edge in drawn(circuit) if node in edge[:2]}


def neighbours(circuit, node):
    """What the panel lists: writers that the node reads, with the way in, and its readers."""
    pairs = [(ends(name), *name.split("->")) for name in circuit.edges]
    ways = {kind: f" → {kind}" for kind in "qkv"}
    into = [writer + ways.get(kind, "") for (_, to, kind), writer, _ in pairs if to == node]
    return sorted(into), sorted(reader for _, writer, reader in pairs if writer == node)


def busiest(circuit):
    """The head with the most edges in and out."""
    heads = {node for name in circuit.edges for node in ends(name)[:2] if ".h" in node}
    return max(sorted(heads), key=lambda head: sum(map(len, neighbours(circuit, head))))
