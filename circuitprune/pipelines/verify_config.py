"""What `circuitprune verify` takes as `key=value`: the budget of the evidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError
from circuitprune.evidence import EVIDENCE
from circuitprune.runs.settings import load_config

MOVABLE = ("model.name", "task.path", "train.device", "verify.batch_size", "cache.max_gb")
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
    tolerance: float = 0.01
    """Nats of KL up to which an edge is dispensable, or all that `--minimise` drops together."""
    seed: int = 0
    """Of everything drawn."""
    threads: int = 1
    """CPU threads; the last bits depend on it."""
    progress: bool = True
    """Show a progress bar."""


def load_options(overrides: Sequence[str]) -> tuple[EvidenceConfig, list[str]]:
    """The options among `key=value` settings, checked, and those that are of the run's config.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, or a setting of the run that
            would make it another run.
    """
    own: list[str] = []
    of_run: list[str] = []
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key or "${" in item:
            raise ConfigError(f"an option is written key=value, got {item!r}")
        (of_run if "." in key else own).append(item)
        if "." in key and key not in MOVABLE:
            raise ConfigError(
                f"{key} is a setting of the run that is verified and cannot change; "
                f"those that can: {', '.join(MOVABLE)}"
            )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(EvidenceConfig), OmegaConf.from_dotlist(own))
        options = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"the command line: {str(error).splitlines()[0]}") from None
    assert isinstance(options, EvidenceConfig)
    _check(options)
    return replace(options, sections=_in_order(options.sections)), of_run


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
    return load_config(path, overrides)


def _check(options: EvidenceConfig) -> None:
    """All values out of range at once."""
    least = {"n_bootstrap": 1, "n_random": 1, "n_knockouts": 1, "tolerance": 0, "threads": 1}
    problems = [
        f"{name} must be at least {bound}, got {getattr(options, name)}"
        for name, bound in least.items()
        if not getattr(options, name) >= bound
    ]
    for name in options.sections:
        if name not in EVIDENCE:
            near = get_close_matches(name, EVIDENCE, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            problems.append(f"no section {name!r}; {hint}known: {', '.join(EVIDENCE)}")
    if problems:
        raise ConfigError("\n".join(problems))


def _in_order(sections: Sequence[str]) -> list[str]:
    """The chosen kinds of evidence, or all, the cheap ones first."""
    return [name for name in EVIDENCE if name in sections or not sections]
