"""The run that is verified: read back, and held against the model and pairs of now."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.methods import has_signs
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.formats import unlike
from circuitprune.circuits.graph import Graph
from circuitprune.config import RunConfig
from circuitprune.engine.evaluation import evaluate_full
from circuitprune.errors import GraphError, RunError
from circuitprune.evidence import Case
from circuitprune.files.tensors import taken
from circuitprune.files.whole import read_json, read_tensors
from circuitprune.pipelines.own import own_hashes
from circuitprune.pipelines.setup import Setup, make_setup
from circuitprune.runs.finished import read_frontier
from circuitprune.runs.frontier import Frontier, Provenance
from circuitprune.runs.identity import refuse_another
from circuitprune.runs.together import refuse_several

SAME = 0.01
"""How far the full model's mean metric may be from the run's own, on another machine."""
NEEDED = ("versions.json", "frontier.json", "circuits", "COMPLETE")
"""What a finished run has, besides its config."""


@dataclass(frozen=True)
class Subject:
    """A finished run, read back: what its circuits were cut from."""

    frontier: Frontier
    ranking: Float[Tensor, " edge"]
    """What the circuits were cut from, higher first; -inf for an edge that is in none."""
    scores: Float[Tensor, " edge"] | None
    """Signed scores that the ranking was made of; None if it has no sign."""
    nodes: Float[Tensor, " writer"] | None = None
    """The same of whole nodes; None if the method has none."""


def read_run(folder: Path, graph: Graph, config: RunConfig) -> Subject:
    """The frontier of a run with its circuits, and what they were cut from.

    Raises:
        RunError: a file is missing or damaged.
        GraphError: circuits of another graph than the model's.
    """
    frontier, ranking = read_frontier(folder)
    check_graph(folder / "circuits", frontier.graph, graph)
    own = [folder / f"{name}.safetensors" for name in ("refined", "gates")]
    learned = any(path.exists() for path in own)  # such a ranking has no sign
    scores = nodes = None
    if not learned and has_signs(config.attribution.method):
        path = folder / "scores.safetensors"
        tensors, _ = read_tensors(path)
        scores = taken(path, tensors, "scores", (graph.n_edges,)).nan_to_num(0)
        if "nodes" in tensors:
            nodes = taken(path, tensors, "nodes", (graph.n_writers,))
    return Subject(frontier, ranking.where(~ranking.isnan(), -torch.inf), scores, nodes)


def reopened(folder: Path, config: RunConfig) -> tuple[Setup, Subject]:
    """A finished run with its model and pairs, loaded again and held against what they were.

    Raises:
        CircuitPruneError: as `make_setup` and `read_run`, or another model or other pairs.
    """
    setup = make_setup(config)
    check_model(folder, setup)
    found = read_run(folder, setup.gated.graph, config)
    check_own_metric(found.frontier.provenance, setup)
    check_pairs(found.frontier.provenance, setup)
    return setup, found


def check_graph(path: Path, theirs: Graph, ours: Graph) -> None:
    """Refuse circuits of another graph."""
    if not theirs.same_edges(ours):
        raise GraphError(f"{path} is of {unlike(theirs, ours)}")


def tested_circuit(
    folder: Path, found: Subject, file: str | Path | None, setup: Setup
) -> tuple[str, Circuit]:
    """The circuit under test, its live edges alone, and what to call it.

    Raises:
        RunError: a file of another model, or one that keeps no edge on a path to the logits.
    """
    if file is None:
        name = found.frontier.file_of(found.frontier.chosen())
        path = folder / name
    else:
        name, path = Path(file).name, Path(file)
    circuit = Circuit.load(path, found.frontier.graph, setup.gated.ports.n_kv_heads)
    refuse_another(path, circuit, setup.identity.model)
    if not circuit.trim().n_edges:
        raise RunError(
            f"{path} keeps no edge on a path from input to logits, so there is nothing to verify; "
            "use --circuit FILE"
        )
    return name, circuit


COMPARED = ("model", "task", "corruption", "ablation", "metric", "objective")
"""What a circuit's file and a run both say of where they come from."""


def says_otherwise(circuit: Circuit, run: Provenance) -> dict[str, str]:
    """What a circuit's file says of itself, where the run says something else."""
    theirs = circuit.provenance
    known = {key: theirs[key] for key in COMPARED if key in theirs and theirs[key] != run.get(key)}
    return {key: str(value) for key, value in known.items()}


def check_finished(folder: Path) -> None:
    """Refuse a folder without a finished run of one task."""
    refuse_several(folder)
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise RunError(
            f"{str(folder)!r} holds no finished run: {', '.join(missing)} missing; finish the run, "
            "or give the folder of another"
        )


def check_model(folder: Path, setup: Setup) -> None:
    """Refuse a model that is not the run's."""
    versions = read_json(folder / "versions.json")
    theirs = versions.get("model_fingerprint") if isinstance(versions, dict) else None
    ours = setup.identity.model
    if theirs != ours:
        raise RunError(
            f"the run in {str(folder)!r} was of another model than {setup.config.model.name!r} is "
            f"now, or is of a version that hashed it otherwise: model_fingerprint is {theirs} in "
            f"versions.json, {ours} now. Give its place by model.name=FOLDER, or run again"
        )


def check_own_metric(run: Provenance, setup: Setup) -> None:
    """Refuse a metric of the user's own whose file is not the run's."""
    theirs, ours = run.get("metric_sha256"), own_hashes(setup.config).get("metric_sha256")
    if theirs != ours:
        raise RunError(
            f"the file of task.metric={setup.config.task.metric} is not what it was in the run: "
            f"its sha256 is {theirs} in frontier.json, {ours} now; restore it, or run again"
        )


def check_pairs(run: Provenance, setup: Setup) -> None:
    """Refuse pairs that are not those of the run."""
    theirs, ours = run.get("pairs_hash"), setup.identity.pairs
    if theirs != ours:
        raise RunError(
            f"the pairs are not those of the run: pairs_hash is {theirs} in frontier.json, {ours} "
            "now; restore the task's data, or run again"
        )


def check_metric(found: Subject, case: Case, setup: Setup) -> None:
    """Refuse a full model that no longer does on the run's pairs what it did."""
    theirs = found.frontier.full
    ours = evaluate_full(case.references, case.batches, case.task_metric)
    if abs(theirs.metric - ours.metric) > SAME * max(1.0, abs(theirs.metric)):
        raise RunError(
            f"model and pairs are those of the run, but the full model's {setup.metric_name} on "
            f"the {setup.held_out} pairs was {theirs.metric:.4f} and is {ours.metric:.4f} "
            "now; compare versions.json with what is installed, or run again"
        )
