"""What `circuitprune verify` takes as `key=value`: the budget of the evidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from circuitprune.config import RunConfig
from circuitprune.data.checks import FEW, MANY, NOT_NEGATIVE, SEED, misfits, nearest, refuse
from circuitprune.errors import ConfigError
from circuitprune.evidence import EVIDENCE
from circuitprune.runs.assignments import Assignments
from circuitprune.runs.folder import read_config
from circuitprune.runs.settings import TYPED

MOVABLE = (
    "model.name",
    "model.shard",
    "task.path",
    "train.device",
    "verify.batch_size",
    "cache.max_gb",
)
"""Settings of the run that may differ now: where things lie, and what this machine can hold."""


@dataclass(frozen=True)
class EvidenceConfig:
    """How much evidence, and from which random numbers."""

    sections: list[str] = field(default_factory=list)
    """Kinds of evidence to gather, in their own order; empty gathers all."""
    n_bootstrap: int = 1000
    """Resamples of the pairs behind each interval; permutations of the test of independence."""
    n_random: int = 100
    """Random circuits, and edges added at random, that the circuit is compared with."""
    n_knockouts: int = 20
    """Random knock-outs, and nodes tried at each step of the greedy one."""
    n_removed: int = 500
    """Edges of the circuit that are removed by themselves, drawn at random if it keeps more."""
    n_adversarial: int = 40
    """Steps of the adversary that sets the gates outside the circuit."""
    tolerance: float = 0.01
    """Nats of KL up to which an edge is dispensable, or all that `--minimise` drops together."""
    seed: int = 0
    """Of everything drawn."""
    threads: int = 1
    """CPU threads; the last bits depend on it."""
    progress: bool = True
    """Show how far work is: a bar on a terminal, else a line every 30 s."""

    def __post_init__(self) -> None:
        names = ("n_bootstrap", "n_random", "n_knockouts", "n_removed", "n_adversarial")
        counts = dict.fromkeys(names, MANY)
        strange = [name for name in self.sections if name not in EVIDENCE]
        refuse(
            misfits(self, "", threads=FEW, tolerance=NOT_NEGATIVE, seed=SEED, **counts)
            or [f"no section {name!r}; {nearest(name, list(EVIDENCE))}" for name in strange]
        )


def load_options(overrides: Sequence[str]) -> tuple[EvidenceConfig, list[str]]:
    """The options among `key=value` settings, checked, and those that are of the run's config.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, or a setting of the run that
            would make it another run.
    """
    found = Assignments(EvidenceConfig)
    of_run: list[str] = []
    for item in overrides:
        key = item.partition("=")[0]
        if "." not in key:
            found.read_typed(item, TYPED)
            continue
        of_run.append(item)
        if key not in MOVABLE:
            raise ConfigError(
                f"{key} is a setting of the run that is verified and cannot change; "
                f"those that can: {', '.join(MOVABLE)}"
            )
    options = found.build(TYPED)
    return replace(options, sections=in_order(options.sections)), of_run


def run_config(folder: Path, overrides: Sequence[str]) -> RunConfig:
    """The config that a run left, with the settings that may differ now.

    Raises:
        ConfigError: no run there, or a config that this version does not read.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{str(folder)!r} is not the folder of a run: it has no config.yaml; give the "
            "output_dir of `circuitprune train` or `circuitprune attribute`"
        )
    return read_config(folder, overrides)


def in_order(sections: Sequence[str]) -> list[str]:
    """The chosen kinds of evidence, or all, the cheap ones first."""
    return [name for name in EVIDENCE if name in sections or not sections]
