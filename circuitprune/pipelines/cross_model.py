"""Two models of one task: the activations of one in the other."""

from collections.abc import Sequence

import torch

from circuitprune.config import RunConfig
from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import evaluate_full_each
from circuitprune.errors import GraphError
from circuitprune.evidence.baselines import Baselines, Masks, among_random, flat
from circuitprune.evidence.bootstrap import Bootstrap, Interval
from circuitprune.patching.across_models import cross_patched
from circuitprune.pipelines.setup import Setup
from circuitprune.pipelines.study import Study
from circuitprune.runs.finished import Found
from circuitprune.runs.studies import CrossModel, CrossSkipped, PatchedAcross
from circuitprune.views.progress import shown

N_BOOTSTRAP = 1000
"""Resamples of the pairs behind each interval."""


def same_task(a: RunConfig, b: RunConfig) -> bool:
    """Whether two runs are of one task, whichever pairs of it they drew."""
    return (a.task.name, a.task.path, a.task.corruption) == (
        b.task.name,
        b.task.path,
        b.task.corruption,
    )


def differs(a: Found, b: Found) -> bool:
    """Whether two runs are of two models."""
    return a.fingerprint != b.fingerprint


def cross_model(
    host: str,
    donor: str,
    setup: Setup,
    config: RunConfig,
    batches: Sequence[Batch],
    masks: Masks,
    random: Baselines,
) -> CrossModel | CrossSkipped:
    """Each circuit's edges in the host carry the donor's activations; see `cross_patched`.

    `recovered` is `(patched - host) / (donor - host)` of the mean task metric.
    """
    n_pairs = sum(map(len, batches))
    other = Study.from_config(config).setup
    if setup.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        why = "their tokenizers differ, so they do not read the same tokens"
        return CrossSkipped(host, donor, n_pairs, why)
    nothing = setup.gated.graph.no_edges()
    everything = {"host": nothing, "all edges": ~nothing, **masks, **flat(random)}
    try:
        with shown(setup.config.train.progress) as watch:
            progress = watch("cross-model patching", "runs")
            examples = cross_patched(
                setup.gated, other.gated, everything, batches, setup.task_metric, progress
            )
    except GraphError as error:
        return CrossSkipped(host, donor, n_pairs, str(error))
    itself = evaluate_full_each(other.references, batches, setup.task_metric)
    start = examples.pop("host")
    draws = Bootstrap.draw(len(start), N_BOOTSTRAP, torch.Generator().manual_seed(0))

    def recovered(name: str) -> Interval:
        return draws.faithfulness(examples[name].metric, itself.metric, start.metric)

    rows = tuple(
        PatchedAcross(
            edges_of=name,
            **vars(examples[name].means()),
            recovered=recovered(name),
            random=among_random(recovered, name, random) if name in random else {},
        )
        for name in ("all edges", *masks)
    )
    return CrossModel(host, donor, n_pairs, start.means(), itself.means(), rows)
