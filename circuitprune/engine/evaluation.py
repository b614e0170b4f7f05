"""Exact patching of final circuits: hard gates, held-out pairs, nothing of training in the path."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import MetricError
from circuitprune.metrics import (
    EVIDENCE_NAMES,
    CircuitEvaluation,
    TaskMetric,
    evidence_values,
    faithfulness,
)

Evidence = dict[str, float]
"""`kl`, `metric`, `accuracy`, `exact_match` and `n`; see `CircuitEvaluation`."""


@torch.no_grad()
def evaluate(
    references: References,
    masks: Mapping[str, Bool[Tensor, " edge"]],
    batches: Sequence[Batch],
    task_metric: TaskMetric,
) -> dict[str, Evidence]:
    """Means over all examples for each circuit: kept edges live, all others ablated.

    Batches are the outer loop, so each reference run is fetched once for all circuits.

    Args:
        references: The model, the ablation and the full model's logits.
        masks: Circuits by name.
        batches: Held-out pairs.
        task_metric: Of task performance, higher is better.

    Raises:
        MetricError: no examples, or non-finite logits.
    """
    gated = references.gated
    evaluations = {name: CircuitEvaluation(task_metric) for name in masks}
    for batch in batches:
        batch = batch.to(gated.device)
        ablated, full = references.ablated(batch), references.full_logits(batch)
        for name, mask in masks.items():
            gates = mask.to(gated.device, gated.dtype)
            circuit = gated(gates, batch.clean, batch.mask, ablated, batch.last)
            evaluations[name].update(circuit.cpu(), full.cpu(), *_answers(batch))
    return {name: evaluation.compute() for name, evaluation in evaluations.items()}


@torch.no_grad()
def evaluate_full(
    references: References, batches: Sequence[Batch], task_metric: TaskMetric
) -> Evidence:
    """The untouched model on the clean prompts, by Hugging Face's own forward."""
    evaluation = CircuitEvaluation(task_metric)
    for batch in batches:
        batch = batch.to(references.gated.device)
        full = references.full_logits(batch).cpu()
        evaluation.update(full, full, *_answers(batch))
    return evaluation.compute()


def with_faithfulness(evidence: Evidence, full: Evidence, empty: Evidence) -> Evidence:
    """The same evidence with `faithfulness`: the share of the task metric recovered, of means."""

    def mean(of: Evidence) -> Float[Tensor, ""]:
        return torch.tensor(of["metric"], dtype=torch.float64)

    return {
        **evidence,
        "faithfulness": faithfulness(mean(evidence), mean(full), mean(empty)).item(),
    }


def _answers(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.answers.cpu(), batch.wrong.cpu()


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

    def __len__(self) -> int:
        return len(self.kl)

    def mean(self) -> dict[str, float]:
        """The mean of each, and `n`: what `verification.evaluate` gives."""
        means = {name: getattr(self, name).mean().item() for name in EVIDENCE_NAMES}
        return {**means, "n": len(self)}

    def faithfulness(self, full: "Examples", empty: "Examples") -> float:
        """Share of the full model's mean metric recovered from the empty circuit's.

        Raises:
            MetricError: full and empty have the same mean.
        """
        return faithfulness(self.metric.mean(), full.metric.mean(), empty.metric.mean()).item()


def per_example(
    references: References,
    masks: Mapping[str, Bool[Tensor, " edge"]],
    batches: Sequence[Batch],
    task_metric: TaskMetric,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Examples]:
    """Each circuit on each pair: kept edges live, all others ablated.

    Batches are the outer loop, so each reference run is fetched once for all circuits.

    Args:
        references: The model, the ablation and the full model's logits.
        masks: Circuits by name.
        batches: Held-out pairs.
        task_metric: Of task performance, higher is better.
        progress: Called with the share of the runs that is done.

    Raises:
        MetricError: no pairs, or non-finite logits.
    """
    gated = references.gated
    gates = {name: mask.to(gated.device, gated.dtype) for name, mask in masks.items()}
    rows: dict[str, list[Tensor]] = {name: [] for name in masks}
    for done, batch in enumerate(batches):
        batch = batch.to(gated.device)
        ablated, full = references.ablated(batch), references.full_logits(batch)
        for at, name in enumerate(masks):
            with torch.no_grad():
                logits = gated(gates[name], batch.clean, batch.mask, ablated, batch.last)
            rows[name].append(_row(logits, full, batch, task_metric))
            if progress is not None:
                progress((done + (at + 1) / len(masks)) / len(batches))
    return {name: _examples(found) for name, found in rows.items()}


def full_examples(
    references: References, batches: Sequence[Batch], task_metric: TaskMetric
) -> Examples:
    """The untouched model on each pair, by Hugging Face's own forward."""
    rows = []
    for batch in batches:
        batch = batch.to(references.gated.device)
        full = references.full_logits(batch)
        rows.append(_row(full, full, batch, task_metric))
    return _examples(rows)


def _row(
    circuit: Tensor, full: Tensor, batch: Batch, task_metric: TaskMetric
) -> Float[Tensor, "4 batch"]:
    tokens = (batch.answers.cpu(), batch.wrong.cpu())
    return evidence_values(circuit.cpu(), full.cpu(), *tokens, task_metric)


def _examples(rows: list[Float[Tensor, "4 _"]]) -> Examples:
    if not rows:
        raise MetricError("no examples were evaluated; the split is empty")
    return Examples(*torch.cat(rows, dim=1))
