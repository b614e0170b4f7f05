"""Circuits run on pairs: hard gates, cut edges ablated, nothing of training in the path."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.progress import Progress, silent
from circuitprune.engine.references import References, Run
from circuitprune.errors import MetricError
from circuitprune.metrics import (
    CircuitEvaluation,
    Evidence,
    Means,
    Metric,
    evidence_values,
    faithfulness,
)

Masks = Mapping[str, Bool[Tensor, " edge"]]
"""Circuits by name."""


@torch.no_grad()
def evaluate(
    references: References,
    masks: Masks,
    batches: Sequence[Batch],
    metric: Metric,
    progress: Progress = silent,
) -> dict[str, Evidence]:
    """Means over all examples for each circuit: kept edges live, all others ablated.

    Args:
        references: The model, the ablation and the full model's logits.
        masks: Circuits by name.
        batches: Held-out pairs.
        metric: Of task performance, higher is better.
        progress: Told the runs that are done, one for each circuit and batch.

    Raises:
        MetricError: no examples, or non-finite logits.
    """
    evaluations = {name: CircuitEvaluation(metric) for name in masks}
    total = len(masks) * len(batches)
    for done, (name, logits, run) in enumerate(each_run(references.runs(batches), masks), start=1):
        evaluations[name].update(logits, run.full, run.batch)
        progress(done, total)
    return {name: evaluation.evidence() for name, evaluation in evaluations.items()}


@torch.no_grad()
def evaluate_full(references: References, batches: Sequence[Batch], metric: Metric) -> Evidence:
    """The untouched model on the clean prompts, by Hugging Face's own forward."""
    evaluation = CircuitEvaluation(metric)
    for batch in batches:
        full = references.full_logits(batch.to(references.gated.device))
        evaluation.update(full, full, batch)
    return evaluation.evidence()


@dataclass(frozen=True)
class Examples:
    """Four numbers for each pair, in float64 on the CPU, in the order of the batches."""

    kl: Float[Tensor, " example"]
    """`KL(full model || circuit)` of the next token, in nats."""
    metric: Float[Tensor, " example"]
    """Of the task, higher is better."""
    accuracy: Float[Tensor, " example"]
    """1 where the circuit prefers a right token, else 0."""
    exact_match: Float[Tensor, " example"]
    """1 where its most likely token is the full model's, else 0."""

    @classmethod
    def joined(cls, rows: Sequence[Float[Tensor, "4 _"]]) -> "Examples":
        """Batches of `evidence_values` side by side.

        Raises:
            MetricError: no batches.
        """
        if not rows:
            raise MetricError("no examples were evaluated; the split is empty")
        return cls(*torch.cat(list(rows), dim=1))

    def __len__(self) -> int:
        return len(self.kl)

    def mean(self) -> Evidence:
        """The mean of each: what `evaluate` gives."""
        return Evidence(**vars(self.means()))

    def means(self) -> Means:
        """The mean of each, where no share of the model's metric has a place."""
        values = (self.kl, self.metric, self.accuracy, self.exact_match)
        kl, metric, accuracy, exact_match = (each.mean().item() for each in values)
        return Means(kl, metric, accuracy, exact_match, len(self))

    def faithfulness(self, full: "Examples", empty: "Examples") -> float:
        """Share of the full model's mean metric recovered from the empty circuit's.

        Raises:
            MetricError: full and empty have the same mean.
        """
        return faithfulness(self.metric.mean(), full.metric.mean(), empty.metric.mean()).item()


def evaluate_each(
    references: References,
    masks: Masks,
    batches: Sequence[Batch],
    metric: Metric,
    progress: Progress = silent,
) -> dict[str, Examples]:
    """As `evaluate`, pair by pair.

    Args:
        references, masks, batches, metric, progress: As of `evaluate`.

    Raises:
        MetricError: no pairs, or non-finite logits.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in masks}
    total = len(masks) * len(batches)
    for done, (name, logits, run) in enumerate(each_run(references.runs(batches), masks), start=1):
        rows[name].append(evidence_values(logits, run.full, run.batch, metric))
        progress(done, total)
    return {name: Examples.joined(found) for name, found in rows.items()}


def evaluate_full_each(
    references: References, batches: Sequence[Batch], metric: Metric
) -> Examples:
    """As `evaluate_full`, pair by pair."""
    rows = []
    for batch in batches:
        full = references.full_logits(batch.to(references.gated.device))
        rows.append(evidence_values(full, full, batch, metric))
    return Examples.joined(rows)


@torch.no_grad()
def each_run(
    runs: Iterator[Run], masks: Masks
) -> Iterator[tuple[str, Float[Tensor, "batch vocab"], Run]]:
    """Every circuit on every batch: its name, its answer-position logits, and what it ran on.

    Batches are the outer loop, so each reference run is fetched once for all circuits.
    """
    for run in runs:
        for name, mask in masks.items():
            yield name, run(mask), run
