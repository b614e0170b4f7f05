"""The runs of a study of stability: other seeds, other pairs, each in a folder of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError, RunError
from circuitprune.models.dictionary import read_dictionaries
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.pairs import make_pairs
from circuitprune.pipelines.setup import Print, load
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.unseen import check_source
from circuitprune.runs.finished import load_run
from circuitprune.runs.folder import AUTO
from circuitprune.runs.identity import fingerprint
from circuitprune.runs.settings import flatten, load_config
from circuitprune.runs.shards import differences
from circuitprune.views.progress import shown

Vary = Literal["both", "train", "task"]
"""Which seed differs between runs: of the training, of the pairs, or both."""


FREE = ("output_dir", "train.progress", "train.resume")
"""Settings in which a run found in its folder may differ from the one asked for."""


@dataclass(frozen=True)
class Trial:
    """One run of the study, in its own folder."""

    config: RunConfig
    attributes: bool
    """Attribution alone, no training."""

    @property
    def folder(self) -> Path:
        """Of its results."""
        return Path(self.config.output_dir)


def trials(
    config: RunConfig, seeds: int, bootstrap: int, attributes: bool, vary: Vary
) -> dict[str, list[Trial]]:
    """The runs of both groups.

    Raises:
        ConfigError: fewer than two runs in a group, no group, seeds that change nothing, or runs
            that need several processes each.
    """
    if config.model.shard:
        raise ConfigError(
            "model.shard=true divides the model of one run, but processes take whole runs of a "
            "study; give model.shard=false"
        )
    if config.train.resume is not None or config.task.resample is not None:
        raise ConfigError("train.resume and task.resample are set for each run; leave them out")
    if min(seeds, bootstrap) < 0 or 1 in (seeds, bootstrap) or seeds + bootstrap == 0:
        raise ConfigError(
            f"stability compares runs: --seeds and --bootstrap must be 0 or at least 2, not both "
            f"0; got {seeds} and {bootstrap}"
        )
    if config.attribution.method == "none" and (attributes or bootstrap):
        raise ConfigError("attribution.method=none has no scores; choose a method, such as eap")
    if attributes and seeds and vary == "train":
        raise ConfigError(
            "an attribution does not use train.seed: all runs would be one; use --vary task"
        )
    groups = {}
    if seeds:
        groups["seed"] = [
            Trial(_seeded(config, number, "task" if attributes else vary), attributes)
            for number in range(seeds)
        ]
    if bootstrap:
        groups["bootstrap"] = [Trial(_resampled(config, i), True) for i in range(bootstrap)]
    return groups


def is_finished(trial: Trial) -> bool:
    """Whether its folder holds the run, finished.

    Raises:
        RunError: it holds another: with other settings, or trained where this one is not.
    """
    folder = trial.folder
    if not (folder / "config.yaml").is_file():
        return False
    configs = load_config(folder / "config.yaml"), trial.config
    settings = [{k: v for k, v in flatten(one).items() if k not in FREE} for one in configs]
    different = differences(*settings)
    finished = (folder / "COMPLETE").exists()
    if finished and (folder / "gates.safetensors").exists() == trial.attributes:
        kinds = ("a trained run", "an attribution")
        there, wanted = kinds if trial.attributes else kinds[::-1]
        different = different or f"{there} there, {wanted} now"
    if different:
        raise RunError(
            f"{str(folder)!r} holds a run with other settings: {different}; choose another "
            "output_dir, or move it away"
        )
    return finished


def check_finished(trials: Sequence[Trial]) -> None:
    """Refuse runs that were finished with another model or other pairs, before any is run."""
    done = [trial for trial in trials if is_finished(trial)]
    if not done:
        return
    with shown(done[0].config.train.progress) as watch:
        model, tokenizer = load(done[0].config.model, watch)
    ours = fingerprint(model, read_dictionaries(done[0].config.features.dictionaries))
    for trial in done:
        check_source(load_run(trial.folder), ours, make_pairs(trial.config, model, tokenizer))


def run_once(trial: Trial, say: Print) -> None:
    """Run it, or go on with it; nothing if it is finished.

    Raises:
        RunError: its folder holds another run.
    """
    config = trial.config
    if is_finished(trial):
        return
    if trial.attributes:
        attribute(config, say)
    else:
        discover(replace(config, train=replace(config.train, resume=AUTO)), say)


def _seeded(config: RunConfig, number: int, vary: Vary) -> RunConfig:
    train, task = config.train, config.task
    if vary in ("both", "train"):
        train = replace(train, seed=train.seed + number)
    if vary in ("both", "task"):
        task = replace(task, seed=task.seed + number)
    folder = str(Path(config.output_dir) / f"seed{number}")
    return replace(config, train=train, task=task, output_dir=folder)


def _resampled(config: RunConfig, number: int) -> RunConfig:
    folder = str(Path(config.output_dir) / f"bootstrap{number}")
    return replace(config, task=replace(config.task, resample=number), output_dir=folder)
