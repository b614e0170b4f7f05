"""The evidence for the circuit of a finished run: gathered section by section, then written."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.errors import old_names
from circuitprune.evidence import EVIDENCE, Case
from circuitprune.evidence.minimise import MinimisedCircuit, minimised
from circuitprune.evidence.results import Sections
from circuitprune.files.records import JsonObject, to_json
from circuitprune.files.text import counted, show
from circuitprune.files.whole import write_atomic, write_json
from circuitprune.pipelines.cases import case_of
from circuitprune.pipelines.describe import describe
from circuitprune.pipelines.gathering import Kind, gather
from circuitprune.pipelines.setup import Print, Setup, silent
from circuitprune.pipelines.subject import (
    Subject,
    check_finished,
    check_metric,
    reopened,
    says_otherwise,
    tested_circuit,
)
from circuitprune.pipelines.verify_config import EvidenceConfig, load_options, run_config
from circuitprune.runs.folder import tidy
from circuitprune.runs.lock import locked, refuse_unusable
from circuitprune.runs.settings import PATHS, flatten
from circuitprune.runs.shards import processes, threads
from circuitprune.runs.verification import SCHEMA, Budget, TestedCircuit, Verification
from circuitprune.views.pages.verification import aside, page
from circuitprune.views.report import write_report


def verify_run(
    folder: str | Path,
    overrides: Sequence[str] = (),
    circuit: str | Path | None = None,
    minimise: bool = False,
    say: Print = show,
) -> Verification | None:
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

    Under torchrun each process takes the next section that none has taken; the first of them alone
    prints and writes the rest.

    Returns:
        None on a process that does not lead.

    Raises:
        CircuitPruneError: anything a user can mend; what is finished stays.
    """
    folder, ranks = Path(folder), processes()
    options, of_run = load_options(overrides)
    if not ranks.leads:
        say, options = silent, replace(options, progress=False)
    config = run_config(folder, of_run)
    config = replace(config, train=replace(config.train, progress=options.progress))
    check_finished(folder)
    refuse_unusable(folder)
    with threads(options.threads), ranks.together():
        setup, found = reopened(folder, config)
        name, whole_file = tested_circuit(folder, found, circuit, setup)
        tested = whole_file.trim()
        about = _about(name, whole_file, found)
        case = make_case(setup, found, tested.mask, options)
        check_metric(found, case, setup)
        say(f"{describe(setup)}\ncircuit   {name}, {counted(tested.n_edges, 'edge')}{aside(about)}")
        identity, kinds = _identity(setup, case, found, options), _kinds(options, minimise)
        with locked(folder) if ranks.leads else nullcontext(), setup.forecast_told():
            if ranks.leads:
                tidy(folder)
            evidence = folder / "evidence"
            sections = gather(evidence, case, kinds, identity, options.progress, say, ranks)
            if sections is None:
                return None
            if isinstance(sections.minimise, MinimisedCircuit):
                _save_minimal(folder, found, tested, sections.minimise)
            whole = _verification(about, found, case, options, setup, sections)
            _write(folder, whole)
    return whole


def make_case(
    setup: Setup, found: Subject, mask: Bool[Tensor, " edge"], options: EvidenceConfig
) -> Case:
    """The circuit on the run's held-out pairs, with the budget of the options."""
    return case_of(
        setup,
        mask,
        options,
        ranking=found.ranking,
        sizes={point.size: point.mask for point in found.frontier.points},
        scores=found.scores,
        nodes=found.nodes,
    )


# ---------------------------------------------------------------- sections


def _kinds(options: EvidenceConfig, minimise: bool) -> dict[str, Kind]:
    """The sections to gather, in order."""
    kinds: dict[str, Kind] = {name: EVIDENCE[name] for name in options.sections}
    if minimise:
        kinds["minimise"] = lambda case: minimised(case, case.tolerance)
    return kinds


def _identity(setup: Setup, case: Case, found: Subject, options: EvidenceConfig) -> JsonObject:
    """All that decides a section's numbers."""
    free = ("output_dir", "train.progress", "train.resume", *PATHS)
    settings = {k: v for k, v in flatten(setup.config).items() if k not in free}
    return {
        "schema": SCHEMA,
        "circuit": _hash(case.mask),
        "frontier": _hash(*(point.mask for point in found.frontier.points), found.ranking),
        "pairs": setup.identity.pairs,
        "options": asdict(_budget(options)),
        "config": settings,
        "versions": setup.identity.versions,
    }


def _budget(options: EvidenceConfig) -> Budget:
    return Budget(**{field.name: getattr(options, field.name) for field in fields(Budget)})


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- what is written


def _about(name: str, file: Circuit, found: Subject) -> TestedCircuit:
    """What is said of the circuit under test: its live edges, and what its file says itself."""
    tested = file.trim()
    return TestedCircuit(
        file=name,
        mask=_hash(tested.mask),
        n_edges=tested.n_edges,
        n_edges_ungrouped=tested.n_edges_ungrouped,
        n_nodes=len(tested.nodes),
        n_dangling=file.n_edges - tested.n_edges or None,
        says=says_otherwise(file, found.frontier.provenance) or None,
    )


def _verification(
    about: TestedCircuit,
    found: Subject,
    case: Case,
    options: EvidenceConfig,
    setup: Setup,
    sections: Sections,
) -> Verification:
    return Verification(
        schema=SCHEMA,
        run=found.frontier.provenance,
        circuit=about,
        n_pairs=case.n_examples,
        n_train_pairs=sum(map(len, case.train_batches)),
        options=_budget(options),
        versions=setup.identity.versions,
        sections=sections,
    )


def _write(folder: Path, whole: Verification) -> None:
    write_json(folder / "verification.json", whole, checked=True)
    write_atomic(folder / "verification.md", page(whole))
    write_report([folder])


def _save_minimal(folder: Path, found: Subject, tested: Circuit, left: MinimisedCircuit) -> None:
    mask = tested.graph.mask_of(left.edges)
    about = {k: v for k, v in found.frontier.provenance.items() if not k.startswith("n_edges")}
    provenance = {**about, "minimised_from": tested.n_edges, "evidence": to_json(left.after)}
    minimal = replace(tested, mask=mask, provenance=provenance, as_read=None)
    minimal.save(folder / "circuits" / "minimal.json")


__getattr__ = old_names(
    __name__,
    {
        "Found": "pipelines.subject.Subject",
        "NEEDED": "pipelines.subject.NEEDED",
        "SAME": "pipelines.subject.SAME",
        "read_run": "pipelines.subject.read_run",
    },
)
