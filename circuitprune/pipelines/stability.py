"""Does the same circuit come out again? Runs with other seeds and pairs, and what they share."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.overlap import (
    consensus,
    edge_jaccard,
    majority,
    node_jaccard,
    overlap_at,
    plain,
    times_kept,
)
from circuitprune.circuits.selection import n_edges_of
from circuitprune.config import RunConfig
from circuitprune.data.pairs import Batch
from circuitprune.errors import ConfigError, RunError
from circuitprune.evidence import full_examples, per_example
from circuitprune.evidence.bootstrap import Bootstrap
from circuitprune.files import write_atomic, write_json
from circuitprune.models import load_model
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.setup import Print, Setup, make_pairs
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.unseen import check_source, trained_on, unseen_batches
from circuitprune.runs.finished import Found, load_run
from circuitprune.runs.identity import fingerprint
from circuitprune.runs.settings import flatten, load_config
from circuitprune.runs.shards import differences
from circuitprune.views.pages.studies import stability_page, stability_sentence

Vary = Literal["both", "train", "task"]
"""Which seed differs between runs: of the training, of the pairs, or both."""

N_BOOTSTRAP = 1000
"""Resamples of the held-out pairs behind each interval of faithfulness."""

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


def stability(
    config: RunConfig,
    seeds: int = 5,
    bootstrap: int = 0,
    attributes: bool = False,
    vary: Vary = "both",
    size: float | None = None,
    say: Print = print,
) -> dict:
    """Run a config again and again, and report how far the circuits found are the same.

    Two groups of runs, below `config.output_dir`: `seed0`, `seed1`, ... with other seeds, and
    `bootstrap0`, ... on training pairs drawn with replacement (`task.resample`) and nothing else
    changed. The second are attributions by `attribution.method`, also where the first are trained:
    that is cheap, and leaves the noise of training out. A finished run is not run again.

    Writes `stability.json`, `stability.md`, and for each group `<group>_edges.csv`,
    `<group>_consensus.json` and `<group>_majority.json`.

    Args:
        config: Of every run, but for its seeds and folder.
        seeds: Runs with other seeds: 0, or at least 2.
        bootstrap: Runs on resampled pairs: 0, or at least 2.
        attributes: Runs with other seeds are attributions too.
        vary: `train.seed`, `task.seed`, or both count up from the config's.
        size: Fraction of all edges at which circuits are compared; by default the median of the
            circuits that the runs chose.
        say: Prints.

    Returns:
        What `stability.json` holds.

    Raises:
        CircuitPruneError: nothing to compare, or whatever stops a run.
    """
    folder = Path(config.output_dir)
    groups = trials(config, seeds, bootstrap, attributes, vary)
    everything = [trial for group in groups.values() for trial in group]
    _check_finished(everything)
    for name, group in groups.items():
        for number, trial in enumerate(group):
            say(f"{name} {number + 1} of {len(group)}: {trial.folder}")
            run_once(trial, say)
    setup = Study.from_config(replace(config, train=replace(config.train, resume=None))).setup
    batches = unseen_batches(setup, trained_on(setup, [trial.config for trial in everything]))
    found: dict = {
        "schema": 1,
        "model": config.model.name,
        "model_fingerprint": setup.identity.model,
        "task": config.task.name,
        "ablation": config.ablation,
        "metric": setup.metric_name,
        "n_edges_total": setup.gated.graph.n_edges,
        "split": setup.held_out,
        "n_pairs": sum(map(len, batches)),
        "n_pairs_seen": len(setup.data.splits[setup.held_out]) - sum(map(len, batches)),
        "groups": {},
    }
    for name, group in groups.items():
        say(f"Comparing the circuits of {len(group)} runs ({name})")
        found["groups"][name] = _study(setup, name, group, batches, size)
    write_json(folder / "stability.json", found)
    write_atomic(folder / "stability.md", stability_page(found))
    return found


def trials(
    config: RunConfig, seeds: int, bootstrap: int, attributes: bool, vary: Vary
) -> dict[str, list[Trial]]:
    """The runs of both groups.

    Raises:
        ConfigError: fewer than two runs in a group, no group, or seeds that change nothing.
    """
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


# ---------------------------------------------------------------- running


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


def _check_finished(trials: Sequence[Trial]) -> None:
    """Refuse runs that were finished with another model or other pairs, before any is run."""
    done = [trial for trial in trials if is_finished(trial)]
    if not done:
        return
    about = done[0].config.model
    model, tokenizer = load_model(about.name, about.dtype, about.revision)
    ours = fingerprint(model)
    for trial in done:
        check_source(load_run(trial.folder), ours, make_pairs(trial.config, model, tokenizer))


def run_once(trial: Trial, say: Print) -> None:
    """Run it, or go on with it; nothing if it is finished.

    Raises:
        RunError: its folder holds another run.
    """
    folder, config = trial.folder, trial.config
    if is_finished(trial):
        return
    if trial.attributes:
        attribute(config, say)
        return
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        config = replace(config, train=replace(config.train, resume=str(last)))
    elif (folder / "config.yaml").is_file():  # ours, and nothing in it to go on from
        shutil.rmtree(folder)
    discover(config, say)


# ---------------------------------------------------------------- comparing


def _study(
    setup: Setup,
    name: str,
    group: Sequence[Trial],
    batches: Sequence[Batch],
    size: float | None,
) -> dict:
    """One group: overlap at every size, votes, and the circuits that the votes elect."""
    runs = [load_run(trial.folder) for trial in group]
    graph, folder = setup.gated.graph, Path(setup.config.output_dir)
    chosen = torch.tensor([run.n_edges for run in runs])
    n_edges = int(chosen.median()) if size is None else n_edges_of(graph, size)
    masks = torch.stack([run.cut(n_edges) for run in runs])
    if not masks.any():
        raise RunError(
            f"the circuits of all {len(runs)} runs ({name}) are empty at {n_edges} edges, so there "
            "is nothing to compare; give a larger --size"
        )
    elected = {"consensus": consensus(graph, masks), "majority": majority(graph, masks, n_edges)}
    kept = times_kept(masks)
    columns = {"times_kept": kept, "share_kept": kept / len(runs)}
    write_edges_csv(folder / f"{name}_edges.csv", Circuit(graph, kept > 0), columns)
    measured = _measure(setup, batches, masks, elected) if batches else {}
    for title, mask in elected.items():
        about = {"stability": name, "elected": title, "of": [run.name for run in runs]}
        evidence = measured.get(title)
        circuit = Circuit(graph, mask, None, {**about, "evidence": evidence}, ranking=kept)
        circuit.save(folder / f"{name}_{title}.json")
    study = {
        "method": setup.config.attribution.method if group[0].attributes else "training",
        "runs": [_about(trial, run) for trial, run in zip(group, runs, strict=True)],
        "n_edges": n_edges,
        "overlap": overlap_at(graph, masks, n_edges),
        "jaccard": {
            "edges": plain(edge_jaccard(masks)),
            "nodes": plain(node_jaccard(graph, masks)),
        },
        "curve": [
            overlap_at(graph, torch.stack([run.cut(n) for run in runs]), n) for n in _sizes(setup)
        ],
        "kept_by": torch.bincount(kept.long(), minlength=len(runs) + 1).tolist(),
        "elected": {title: int(mask.sum()) for title, mask in elected.items()},
        "measured": measured,
    }
    return {**study, "sentence": stability_sentence(name, study)}


def _about(trial: Trial, run: Found) -> dict:
    config = trial.config
    seeds = {"train_seed": config.train.seed, "task_seed": config.task.seed}
    about = {"folder": trial.folder.name, **seeds, "resample": config.task.resample}
    return {**about, "chosen_n_edges": run.n_edges}


def _sizes(setup: Setup) -> list[int]:
    graph = setup.gated.graph
    return sorted({n_edges_of(graph, size) for size in setup.config.verify.sizes} - {graph.n_edges})


def _measure(
    setup: Setup,
    batches: Sequence[Batch],
    masks: Bool[Tensor, "run edge"],
    elected: dict[str, Bool[Tensor, " edge"]],
) -> dict:
    """Every run's circuit and the elected ones, verified exactly on the same unseen pairs."""
    metric, references = setup.task_metric, setup.references
    named = {f"run{i}": mask for i, mask in enumerate(masks)} | elected
    named["empty"] = torch.zeros_like(masks[0])
    examples = per_example(references, named, batches, metric)
    full, empty = full_examples(references, batches, metric), examples.pop("empty")
    draws = Bootstrap.draw(len(full), N_BOOTSTRAP, torch.Generator().manual_seed(0))
    return {
        name: {
            "n_edges": int(named[name].sum()),
            **found.mean(),
            "faithfulness": draws.faithfulness(found.metric, full.metric, empty.metric),
        }
        for name, found in examples.items()
    }
