"""From a ranking to circuits of each size, each verified on the held-out pairs."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import Method, select, select_sizes, select_threshold
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.errors import ConfigError, old_names
from circuitprune.files.whole import write_json
from circuitprune.metrics import Evidence
from circuitprune.pipelines.metric import metric_name
from circuitprune.pipelines.own import own_hashes
from circuitprune.pipelines.setup import Setup
from circuitprune.runs.frontier import Frontier, Point, Provenance
from circuitprune.runs.manifest import seal
from circuitprune.training.target import Target, smallest
from circuitprune.views.progress import shown
from circuitprune.views.report import write_report


def ranked_frontier(setup: Setup, ranking: Float[Tensor, " edge"]) -> Frontier:
    """Cut circuits from a ranking and verify each on the held-out pairs.

    The smallest that reaches `gates.target` is one of them.
    """
    masks, about = with_target(setup, ranking, cut(setup, ranking))
    return telling(frontier_of(setup, masks), about)


def with_target(
    setup: Setup, ranking: Float[Tensor, " edge"], masks: dict[float, Bool[Tensor, " edge"]]
) -> tuple[dict[float, Bool[Tensor, " edge"]], Provenance]:
    """Circuits and the smallest that reaches `gates.target`, if any, and what is told of it."""
    wanted = setup.config.gates.target
    if wanted is None:
        return masks, {}
    found = smallest_circuit(setup, ranking, Target.read(wanted))
    n_edges = int(found.sum())
    masks = dict(sorted({**masks, n_edges / found.numel(): found}.items()))
    return masks, {"target": wanted, "target_edges": n_edges}


def telling(frontier: Frontier, about: Provenance) -> Frontier:
    """A frontier whose provenance says more."""
    more: Provenance = {**frontier.provenance, **about}
    return replace(frontier, provenance=more)


def smallest_circuit(
    setup: Setup, ranking: Float[Tensor, " edge"], target: Target
) -> Bool[Tensor, " edge"]:
    """The smallest circuit of a ranking that reaches a target, by bisection: see `smallest`.

    On validation pairs, or without any on the training pairs, never on those it is verified on.

    Raises:
        ConfigError: not even the whole model does.
    """
    graph, verify = setup.gated.graph, setup.config.verify
    split = "val" if setup.data.splits["val"] else "train"
    batches = setup.data.batches(split, verify.batch_size)
    method: Method = "top_n" if verify.selection == "threshold" else verify.selection
    known = ranking.nan_to_num(-torch.inf)
    full = evaluate_full(setup.references, batches, setup.task_metric)
    empty = _empty(setup, split)

    def value_of(n_edges: int) -> float | None:
        mask = select(graph, known, n_edges, method)
        found = evaluate(setup.references, {"": mask}, batches, setup.task_metric)[""]
        value: float | None = getattr(found.compared(full, empty), target.name)
        return value

    n_edges = smallest(target, graph.n_edges, value_of)
    if n_edges is None:
        raise ConfigError(
            f"gates.target={target} is out of reach: on the {split} pairs not even all edges "
            f"reach it, {target.name} is {value_of(graph.n_edges)}; ask for less"
        )
    return select(graph, known, n_edges, method)


def frontier_of(setup: Setup, masks: dict[float, Bool[Tensor, " edge"]]) -> Frontier:
    """Verify circuits, given by size or threshold, on the held-out pairs.

    On the validation pairs too, where there are some beside those: a circuit is chosen by them.
    """
    split = setup.held_out
    found, full, empty = _measured(setup, masks, split)
    choosing = split == "test" and bool(setup.data.splits["val"])
    by_val = _measured(setup, masks, "val")[0] if choosing else {}
    points = [Point(size, mask, found[size], by_val.get(size)) for size, mask in masks.items()]
    return Frontier(setup.gated.graph, _provenance(setup, split), full, empty, points)


def _measured(
    setup: Setup, masks: dict[float, Bool[Tensor, " edge"]], split: str
) -> tuple[dict[float, Evidence], Evidence, Evidence]:
    """Each circuit, the full and the empty model on the pairs of a split."""
    batches = setup.data.batches(split, setup.config.verify.batch_size)
    named = {str(size): mask for size, mask in masks.items()}
    named["empty"] = setup.gated.graph.no_edges()
    with shown(setup.config.train.progress) as watch:
        progress = watch(f"verification on {split} pairs", "runs")
        found = evaluate(setup.references, named, batches, setup.task_metric, progress)
    full, empty = evaluate_full(setup.references, batches, setup.task_metric), found["empty"]
    return {size: found[str(size)].compared(full, empty) for size in masks}, full, empty


def cut(setup: Setup, ranking: Float[Tensor, " edge"]) -> dict[float, Bool[Tensor, " edge"]]:
    """Circuits by the size, or threshold, that was asked for; an edge of rank NaN is in none."""
    verify, graph, known = setup.config.verify, setup.gated.graph, ~ranking.isnan()
    ranking = ranking.where(known, -torch.inf)
    if verify.selection == "threshold":
        masks = {t: select_threshold(graph, ranking, t) for t in verify.thresholds}
    else:
        masks = select_sizes(graph, ranking, verify.sizes, verify.selection)
    if known.all():
        return masks
    return {size: live_edges(graph, mask & known) for size, mask in masks.items()}


def _provenance(setup: Setup, split: str) -> Provenance:
    config = setup.config
    about: Provenance = {
        "model": config.model.name,
        "revision": config.model.revision,
        "dtype": config.model.dtype,
        "kv_readers": config.model.kv_readers,
        "model_fingerprint": setup.identity.model,
        "pairs_hash": setup.identity.pairs,
        "task": config.task.name,
        "corruption": config.task.corruption or None,
        "ablation": config.ablation,
        "metric": setup.metric_name,
        "split": split,
        "learner": config.gates.learner,
        "objective": config.objective,
        "init": config.attribution.method,
        "init_metric": metric_name(setup),
        "selection": config.verify.selection,
        "task_seed": config.task.seed,
        "train_seed": config.train.seed,
    }
    about |= cast(Provenance, own_hashes(config))
    if config.level != "edge":
        about["level"] = config.level
    if config.spans != "none":
        about["spans"] = config.spans
    if setup.gated.ports.post_norms:
        about["post_norms"] = "per_reader"
    if config.refine:
        about["refined"] = True
    return about


def _empty(setup: Setup, split: str) -> Evidence:
    mask = setup.gated.graph.no_edges()
    batches = setup.data.batches(split, setup.config.verify.batch_size)
    return evaluate(setup.references, {"": mask}, batches, setup.task_metric)[""]


def finish(setup: Setup, folder: Path, frontier: Frontier) -> None:
    """Leave some pairs and the report in the folder, then mark the run as finished."""
    write_json(folder / "pairs.json", setup.example_pairs(frontier.chosen().mask))
    write_report([folder])
    seal(folder)


__getattr__ = old_names(__name__, {"verify": "pipelines.frontier.ranked_frontier"})
