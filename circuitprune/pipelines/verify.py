"""The evidence for the circuit of a finished run: gathered section by section, then written."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.attribution.methods import has_signs
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.config import RunConfig
from circuitprune.engine.evaluation import evaluate_full
from circuitprune.errors import GraphError, RunError
from circuitprune.evidence import EVIDENCE, Case
from circuitprune.evidence.minimality import minimised
from circuitprune.files import read_json, read_tensors, write_atomic, write_json
from circuitprune.pipelines.describe import describe
from circuitprune.pipelines.sections import Kind, gather
from circuitprune.pipelines.setup import Print, Setup
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.verify_config import MOVABLE, EvidenceConfig, load_options, run_config
from circuitprune.runs.finished import read_frontier
from circuitprune.runs.frontier import Frontier
from circuitprune.runs.settings import flatten
from circuitprune.runs.shards import threads
from circuitprune.views.pages.verification import page
from circuitprune.views.report import write_report

SCHEMA = 1
"""Of `verification.json`; docs/file_formats.md describes it."""
SAME = 0.01
"""How far the full model's mean metric may be from the run's own, on another machine."""
NEEDED = ("versions.json", "frontier.json", "circuits", "COMPLETE")
"""What a finished run has, besides its config."""


@dataclass(frozen=True)
class Found:
    """A finished run, read back."""

    frontier: Frontier
    ranking: Float[Tensor, " edge"]
    """What the circuits were cut from, higher first; -inf for an edge that is in none."""
    scores: Float[Tensor, " edge"] | None
    """Signed scores that the ranking was made of; None if it has no sign."""
    nodes: Float[Tensor, " writer"] | None = None
    """The same of whole nodes; None if the method has none."""


def verify_run(
    folder: str | Path,
    overrides: Sequence[str] = (),
    circuit: str | Path | None = None,
    minimise: bool = False,
    say: Print = print,
) -> dict:
    """Gather the evidence for the circuit of a run; returns what `verification.json` holds.

    Each section is kept in `evidence/<name>.json` as soon as it is done, and taken from there when
    the same circuit is verified again with the same settings. Writes `verification.json`,
    `verification.md`, `report.html` and, with `minimise`, `circuits/minimal.json`.

    Args:
        folder: The `output_dir` of a finished `train` or `attribute`.
        overrides: `key=value` of `EvidenceConfig`, or of the run's config where `MOVABLE` says so.
        circuit: A file with the circuit to verify; None takes the run's chosen one, as
            `summary.md` does: the smallest of at most 0.1 nats KL, else the one of least KL.
        minimise: Also drop the edges that can go.
        say: Called with lines for the user.

    Raises:
        CircuitPruneError: anything a user can mend; what is finished stays.
    """
    folder = Path(folder)
    options, of_run = load_options(overrides)
    config = run_config(folder, of_run)
    _check_finished(folder)
    with threads(options.threads):
        setup = Study.from_config(config).setup
        _check_model(folder, setup)
        found = read_run(folder, setup.gated.graph, config)
        name, tested = _tested(folder, found, circuit)
        case = make_case(setup, found, tested.mask, options)
        _check_pairs(found, setup)
        _check_metric(found, case, setup)
        say(f"{describe(setup)}\ncircuit   {name}, {tested.n_edges:,} edges")
        identity = _identity(setup, case, found, options)
        kinds = _kinds(options, minimise)
        sections = gather(folder / "evidence", case, kinds, identity, options.progress, say)
    whole = {**_about(name, tested, found, case, options, setup), "sections": sections}
    if "edges" in sections.get("minimise", {}):
        _save_minimal(folder, found, tested, sections["minimise"])
    write_json(folder / "verification.json", whole)
    write_atomic(folder / "verification.md", page(whole))
    write_report([folder])
    return whole


def make_case(
    setup: Setup, found: Found, mask: Bool[Tensor, " edge"], options: EvidenceConfig
) -> Case:
    """The circuit on the run's held-out pairs, with the budget of the options."""
    device, size = setup.gated.device, setup.config.verify.batch_size

    def batches(split: str) -> list:
        return [batch.to(device) for batch in setup.data.batches(split, size)]

    return Case(
        references=setup.references,
        batches=batches(setup.held_out),
        train_batches=batches("train"),
        task_metric=setup.task_metric,
        mask=mask,
        ranking=found.ranking,
        sizes={point.size: point.mask for point in found.frontier.points},
        seed=options.seed,
        scores=found.scores,
        nodes=found.nodes,
        n_bootstrap=options.n_bootstrap,
        n_random=options.n_random,
        n_knockouts=options.n_knockouts,
        tolerance=options.tolerance,
        tokenizer=setup.tokenizer,
        metadata={
            "model": setup.config.model.name,
            "task": setup.config.task.name,
            "metric": setup.metric_name,
            "split": setup.held_out,
        },
    )


# ---------------------------------------------------------------- reading a run


def read_run(folder: Path, graph: Graph, config: RunConfig) -> Found:
    """The frontier of a run with its circuits, and what they were cut from.

    Raises:
        RunError: a file is missing or damaged.
        GraphError: circuits of another graph than the model's.
    """
    frontier, ranking = read_frontier(folder)
    _check_graph(folder / "circuits", frontier.graph, graph)
    learned = (folder / "gates.safetensors").exists()  # such a ranking has no sign
    scores = nodes = None
    if not learned and has_signs(config.attribution.method):
        tensors, _ = read_tensors(folder / "scores.safetensors")
        scores, nodes = tensors["scores"].nan_to_num(0), tensors.get("nodes")
    return Found(frontier, ranking.where(~ranking.isnan(), -torch.inf), scores, nodes)


def _check_graph(path: Path, theirs: Graph, ours: Graph) -> None:
    if not theirs.same_edges(ours):
        raise GraphError(f"{path} is of {theirs.describe()}, the run's model has {ours.describe()}")


def _tested(folder: Path, found: Found, file: str | Path | None) -> tuple[str, Circuit]:
    """The circuit under test and what to call it."""
    if file is None:
        name = found.frontier.file_of(found.frontier.chosen())
        path = folder / name
    else:
        name, path = Path(file).name, Path(file)
    circuit = Circuit.load(path, found.frontier.graph)
    _check_graph(path, circuit.graph, found.frontier.graph)
    if not circuit.n_edges:
        raise RunError(f"{path} keeps no edge, so there is nothing to verify; use --circuit FILE")
    return name, circuit


def _check_finished(folder: Path) -> None:
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise RunError(
            f"{str(folder)!r} holds no finished run: {', '.join(missing)} missing; finish the run, "
            "or give the folder of another"
        )


def _check_model(folder: Path, setup: Setup) -> None:
    theirs: Any = read_json(folder / "versions.json")
    theirs = theirs.get("model_fingerprint") if isinstance(theirs, dict) else None
    ours = setup.identity.model
    if theirs != ours:
        raise RunError(
            f"the run in {str(folder)!r} was of another model than {setup.config.model.name!r} is "
            f"now, or is of a version that hashed it otherwise: model_fingerprint is {theirs} in "
            f"versions.json, {ours} now. Give its place by model.name=FOLDER, or run again"
        )


def _check_pairs(found: Found, setup: Setup) -> None:
    """Refuse pairs that are not those of the run."""
    theirs, ours = found.frontier.provenance.get("pairs_hash"), setup.identity.pairs
    if theirs != ours:
        raise RunError(
            f"the pairs are not those of the run: pairs_hash is {theirs} in frontier.json, {ours} "
            "now; restore the task's data, or run again"
        )


def _check_metric(found: Found, case: Case, setup: Setup) -> None:
    """Refuse a full model that no longer does on the run's pairs what it did."""
    theirs = found.frontier.full
    ours = evaluate_full(case.references, case.batches, case.task_metric)
    if abs(theirs.metric - ours.metric) > SAME * max(1.0, abs(theirs.metric)):
        raise RunError(
            f"model and pairs are those of the run, but the full model's {setup.metric_name} on "
            f"the {setup.held_out} pairs was {theirs.metric:.4f} and is {ours.metric:.4f} "
            "now; compare versions.json with what is installed, or run again"
        )


# ---------------------------------------------------------------- sections


def _kinds(options: EvidenceConfig, minimise: bool) -> dict[str, Kind]:
    """The sections to gather, in order."""
    kinds: dict[str, Kind] = {name: EVIDENCE[name] for name in options.sections}
    if minimise:
        kinds["minimise"] = lambda case: minimised(case, case.tolerance)
    return kinds


def _identity(setup: Setup, case: Case, found: Found, options: EvidenceConfig) -> dict:
    """All that decides a section's numbers."""
    free = ("output_dir", "train.progress", "train.resume", *MOVABLE[:2])
    settings = {k: v for k, v in flatten(setup.config).items() if k not in free}
    return {
        "schema": SCHEMA,
        "circuit": _hash(case.mask),
        "frontier": _hash(*(point.mask for point in found.frontier.points), found.ranking),
        "pairs": setup.identity.pairs,
        "options": _budget(options),
        "config": settings,
        "versions": setup.identity.versions,
    }


def _budget(options: EvidenceConfig) -> dict:
    return {k: v for k, v in asdict(options).items() if k not in ("sections", "progress")}


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- what is written


def _about(
    name: str, tested: Circuit, found: Found, case: Case, options: EvidenceConfig, setup: Setup
) -> dict:
    """The head of `verification.json`."""
    return {
        "schema": SCHEMA,
        "run": found.frontier.provenance,
        "circuit": {
            "file": name,
            "mask": _hash(tested.mask),
            "n_edges": tested.n_edges,
            "n_edges_ungrouped": tested.n_edges_ungrouped,
            "n_nodes": len(tested.nodes),
        },
        "n_pairs": case.n_examples,
        "n_train_pairs": sum(map(len, case.train_batches)),
        "options": _budget(options),
        "versions": setup.identity.versions,
    }


def _save_minimal(folder: Path, found: Found, tested: Circuit, section: dict) -> None:
    mask = tested.graph.mask_of(section["edges"])
    about = {k: v for k, v in found.frontier.provenance.items() if not k.startswith("n_edges")}
    provenance = {**about, "minimised_from": tested.n_edges, "evidence": section["after"]}
    minimal = replace(tested, mask=mask, provenance=provenance, as_read=None)
    minimal.save(folder / "circuits" / "minimal.json")
