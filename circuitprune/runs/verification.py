"""`verification.json`: what was tested, with what budget, and the sections found."""

from collections.abc import Mapping
from dataclasses import dataclass

from circuitprune.evidence.results import Sections
from circuitprune.runs.frontier import Provenance

SCHEMA = 1
"""Of `verification.json`; docs/file_formats.md describes it."""


@dataclass(frozen=True)
class TestedCircuit:
    """The circuit under test."""

    file: str
    """Where it lies in the run's folder, or the name of the file that was given."""
    mask: str
    """Hash of the kept edges."""
    n_edges: int
    """Edges that it keeps."""
    n_edges_ungrouped: int
    """The same by query head."""
    n_nodes: int
    """Nodes that a kept edge leaves or enters."""
    n_dangling: int | None = None
    """Edges of the file on no path from input to logits, which are left out; absent for none."""
    says: dict[str, str] | None = None
    """What the file says of itself where the run says something else; absent where they agree."""


@dataclass(frozen=True)
class Budget:
    """How much evidence, and from which random numbers: `EvidenceConfig` without the rest."""

    n_bootstrap: int
    """Resamples behind each interval."""
    n_random: int
    """Random circuits, and edges, that the circuit is compared with."""
    n_knockouts: int
    """Random knock-outs, and nodes tried at each step of the greedy one."""
    tolerance: float
    """Nats of KL up to which an edge is dispensable."""
    seed: int
    """Of everything drawn."""
    threads: int
    """CPU threads."""
    n_removed: int | None = None
    """Edges of the circuit that are removed by themselves, drawn at random if it keeps more."""
    n_adversarial: int | None = None
    """Steps of the adversary that sets the gates outside the circuit."""


@dataclass(frozen=True)
class Verification:
    """`verification.json`."""

    schema: int
    """Of this file: `SCHEMA`."""
    run: Provenance
    """`frontier.json` without its numbers."""
    circuit: TestedCircuit
    """The circuit under test."""
    n_pairs: int
    """Held-out pairs that it is judged on."""
    n_train_pairs: int
    """Training pairs of the run."""
    options: Budget
    """What was asked for."""
    versions: Mapping[str, str]
    """Of what could change a number."""
    sections: Sections
    """What was found, by kind of evidence."""
