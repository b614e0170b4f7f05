"""Does the same circuit come out again? Runs with other seeds and pairs, and what they share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
from circuitprune.engine.evaluation import evaluate_each, evaluate_full_each
from circuitprune.errors import RunError
from circuitprune.evidence.bootstrap import Bootstrap
from circuitprune.files import write_atomic, write_json
from circuitprune.pipelines.setup import Print, Setup
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.trials import Trial, Vary, check_finished, run_once, trials
from circuitprune.pipelines.unseen import trained_on, unseen_batches
from circuitprune.runs.finished import Found, load_run
from circuitprune.views.pages.studies import stability_page, stability_sentence

N_BOOTSTRAP = 1000
"""Resamples of the held-out pairs behind each interval of faithfulness."""


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
    check_finished(everything)
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


# ---------------------------------------------------------------- running


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
    examples = evaluate_each(references, named, batches, metric)
    full, empty = evaluate_full_each(references, batches, metric), examples.pop("empty")
    draws = Bootstrap.draw(len(full), N_BOOTSTRAP, torch.Generator().manual_seed(0))
    return {
        name: {
            "n_edges": int(named[name].sum()),
            **found.mean().to_json(),
            "faithfulness": draws.faithfulness(found.metric, full.metric, empty.metric),
        }
        for name, found in examples.items()
    }
