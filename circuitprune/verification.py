"""Exact patching of final circuits: hard gates, held-out pairs, nothing of training in the path."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data import Batch
from circuitprune.metrics import CircuitEvaluation, TaskMetric, faithfulness
from circuitprune.references import References

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
