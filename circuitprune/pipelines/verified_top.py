"""The strongest edges of an attribution, patched exactly: where the scores can be believed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.circuits.agreement import sign_agreement, spearman
from circuitprune.errors import MetricError
from circuitprune.files.text import counted
from circuitprune.files.whole import write_tensors
from circuitprune.patching.effects import edge_effects, plan
from circuitprune.pipelines.metric import attribution_metric, metric_name
from circuitprune.pipelines.scoring import Scoring, job
from circuitprune.pipelines.setup import Setup, training_batches
from circuitprune.runs.shards import run_shards
from circuitprune.views.progress import shown

MOST_NAMED = 5
"""Misses that the sentence names."""


def verify_top(setup: Setup, scoring: Scoring) -> str:
    """Patch the `attribution.verify_top` edges of largest |score| exactly; a sentence on it.

    On the training pairs and in the metric that was attributed. Writes `verified_top.safetensors`:
    `edges`, by position, strongest first, with their `scores` and `exact` effects. Until that, what
    is done is kept under `verified_top/`, and the same command goes on from there.
    """
    folder, settings = Path(setup.config.output_dir), setup.config.attribution
    size = scoring.scores.abs().nan_to_num(-1)
    known = int((~scoring.scores.isnan()).sum())
    edges = size.argsort(descending=True, stable=True)[: min(settings.verify_top, known)]
    shards = plan(setup.gated.graph, edges, settings.shard_edges)
    batches, metric = training_batches(setup), attribution_metric(setup)
    with shown(setup.config.train.progress) as watch:
        values = run_shards(
            shards,
            lambda some: edge_effects(setup.references, batches, metric, some),
            folder / "verified_top",
            job(setup),
            progress=watch("exact patching of the strongest", "edges"),
        )
    assert values is not None  # there is one process
    exact = torch.empty(len(size), dtype=values.dtype)
    exact[torch.cat(shards)] = values
    scores, exact = scoring.scores[edges], exact[edges]
    tensors = {"edges": edges, "scores": scores, "exact": exact}
    write_tensors(folder / "verified_top.safetensors", tensors, {"metric": metric_name(setup)})
    shutil.rmtree(folder / "verified_top", ignore_errors=True)  # all that it holds is in the file
    return _sentence(setup, edges, scores, exact)


def misses(scores: Float[Tensor, " n"], exact: Float[Tensor, " n"]) -> Int[Tensor, " miss"]:
    """Places of edges that the exact effect has among its strongest half and the score has not.

    The largest effect first.
    """
    half = len(scores) // 2
    strongest = exact.abs().argsort(descending=True, stable=True)[:half]
    taken = scores.abs().argsort(descending=True, stable=True)[:half]
    return strongest[~torch.isin(strongest, taken)]


def _sentence(
    setup: Setup,
    edges: Int[Tensor, " n"],
    scores: Float[Tensor, " n"],
    exact: Float[Tensor, " n"],
) -> str:
    n, half, missed = len(edges), len(edges) // 2, misses(scores, exact)
    name = setup.gated.graph.edge_name
    named = ", ".join(
        f"{name(int(edges[i]))} (score {scores[i]:.3g}, exact {exact[i]:.3g})"
        for i in missed[:MOST_NAMED].tolist()
    )
    return (
        f"The {counted(n, 'edge')} of largest |score| were patched exactly on "
        f"{counted(len(setup.data.splits['train']), 'training pair')} ({metric_name(setup)}): the "
        "magnitudes agree with a rank correlation of "
        f"{_number(spearman, scores.abs(), exact.abs())}, the signs of a share of "
        f"{_number(sign_agreement, scores, exact)}. Of the {half:,} with the largest exact effect "
        f"the scores have {len(missed):,} not among their own "
        f"{half:,}{': ' if len(missed) else ''}{named}{' ...' * (len(missed) > MOST_NAMED)}."
    )


def _number(of: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor) -> str:
    try:
        return f"{of(a, b):.3f}"
    except MetricError:
        return "undefined"
