"""The edges between the parts of a finished run's circuit, printed and written as a table."""

import csv
from contextlib import nullcontext
from io import StringIO
from pathlib import Path

from circuitprune.attribution.part_edges import PartEdges, part_edges
from circuitprune.errors import ConfigError
from circuitprune.files.text import counted, show, table
from circuitprune.files.whole import write_atomic, write_json
from circuitprune.pipelines.setup import Print, training_batches
from circuitprune.pipelines.subject import check_finished, reopened, tested_circuit
from circuitprune.pipelines.verify_config import run_config
from circuitprune.runs.lock import locked
from circuitprune.runs.part_edges import FILE, PartEdge, PartEdgeFile
from circuitprune.runs.results import output_file
from circuitprune.views.report import write_report

SHOWN = 40
"""Edges that are printed; the file has all."""


def edges_of_run(
    folder: str | Path,
    circuit: str | Path | None = None,
    *,
    steps: int = 10,
    threshold: float = 0.01,
    output: str | Path | None = None,
    say: Print = show,
) -> PartEdges:
    """How much each part of a run's circuit moves the metric through each other, and directly.

    Args:
        folder: The `output_dir` of a finished run with gates on parts.
        circuit: A file with the circuit; None takes the run's chosen one.
        steps: Runs behind each gradient.
        threshold: Least magnitude of an edge that is told, in the task metric's unit.
        output: A CSV file of `part,into,effect`; None writes none. Those of the chosen circuit are
            also left in the run's `part_edges.json`, and its report is written anew with them.
        say: Called with the table.

    Raises:
        ConfigError: a run with gates on edges.
        CircuitPruneError: as `verify_run`; another process may be at work in the folder.
    """
    folder, target = Path(folder), None if output is None else output_file(output)
    config = run_config(folder, [])
    check_finished(folder)
    if config.level == "edge":
        raise ConfigError(
            f"the gates of {str(folder)!r} stand on edges, whose effects are in edges.csv; edges "
            "between parts are of a run with level=node, neuron or feature"
        )
    with locked(folder) if circuit is None else nullcontext():
        setup, run = reopened(folder, config)
        name, kept = tested_circuit(folder, run, circuit, setup)
        batches = training_batches(setup)
        found = part_edges(setup.references, batches, setup.task_metric, kept.edges, steps)
        among = set(kept.edges)
        ends = (
            (*edge.partition("->")[::2], effect) for edge, effect in found.stronger(threshold).rows
        )
        rows = [(part, into, effect) for part, into, effect in ends if part in among]
        told = [(part, into, f"{effect:+.4g}") for part, into, effect in rows[:SHOWN]]
        head = f"{counted(len(rows), 'edge')} of at least {threshold:g} ({setup.metric_name})"
        lines = table(("part", "into", "effect"), told, len(rows))
        say("\n".join([f"{head} among the {counted(kept.n_edges, 'part')} of {name}", "", *lines]))
        if target is not None:
            _write(target, rows)
        if circuit is None:
            edges = tuple(
                PartEdge(part, into, float(f"{effect:.6g}")) for part, into, effect in rows
            )
            left = PartEdgeFile(name, setup.metric_name, steps, threshold, edges)
            write_json(folder / FILE, left, checked=True)
            write_report([folder])
    return found


def _write(path: Path, rows: list[tuple[str, str, float]]) -> None:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("part", "into", "effect"))
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
