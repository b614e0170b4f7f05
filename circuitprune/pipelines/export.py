"""The command `export`: a circuit in the files of other programs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import to_dot, write_edges_csv
from circuitprune.errors import GraphError
from circuitprune.files.text import counted
from circuitprune.files.whole import write_atomic
from circuitprune.runs.finished import run_circuit
from circuitprune.runs.results import output_file


def _write_table(circuit: Circuit, path: Path) -> None:
    known = {"score": circuit.scores, "ranking": circuit.ranking}
    columns = {name: values for name, values in known.items() if values is not None}
    write_edges_csv(path, circuit, columns)


EXPORTS: dict[str, Callable[[Circuit, Path], None]] = {
    "mib": partial(Circuit.save, format="mib"),
    "edge_pruning": partial(Circuit.save, format="edge_pruning"),
    "edge_pruning_gpt2": partial(Circuit.save, format="edge_pruning_gpt2"),
    "circuitprune": partial(Circuit.save, format="circuitprune"),
    "csv": _write_table,
    "dot": lambda circuit, path: write_atomic(path, to_dot(circuit)),
}
"""What writes a circuit, by the name that `--format` takes."""


def export(
    source: str | Path, output: str | Path, format: str = "mib", size: float | None = None
) -> Path:
    """Write a circuit for another program; returns the file.

    Args:
        source: A finished run, whose scores of all edges go along, or a circuit file.
        output: The file to write.
        format: Of `EXPORTS`: MIB's and EAP-IG's object of all edges, Edge-Pruning's list of names,
            our own file, a table, or DOT.
        size: Of a run, the circuit nearest to this fraction of all edges; by default the chosen.

    Raises:
        RunError, GraphError: neither is there, or the format is unknown, or would take the heads
            of the circuit for others.
    """
    source, output = Path(source), output_file(output)
    if format not in EXPORTS:
        raise GraphError(f"unknown format {format!r}; choose one of {', '.join(EXPORTS)}")
    circuit = run_circuit(source, size) if source.is_dir() else Circuit.load(source)
    if format == "edge_pruning" and not source.is_dir():
        _refuse_unsaid(source, circuit)
    EXPORTS[format](circuit, output)
    return output


def _refuse_unsaid(path: Path, circuit: Circuit) -> None:
    """Nothing, unless nobody says whether keys and values are of KV heads, as the list will."""
    graph = circuit.graph
    by_head = graph.n_kv_readers == graph.n_heads and "kv_readers" not in circuit.provenance
    if by_head and any(edge.endswith(("<k>", "<v>")) for edge in circuit.edges):
        raise GraphError(
            f"{path} does not say whether its {counted(graph.n_heads, 'key')} and values of a "
            "layer are of KV heads, as Edge-Pruning's lists are: export the run of "
            "model.kv_readers=kv_head that it is of, or, of a GPT-2, take edge_pruning_gpt2"
        )
