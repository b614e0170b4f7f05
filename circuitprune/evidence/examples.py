"""What a circuit does on each pair by itself: the numbers that all intervals are made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.batches import Batch
from circuitprune.errors import MetricError
from circuitprune.metrics import EVIDENCE_NAMES, TaskMetric, evidence_values, faithfulness
from circuitprune.references import References

FEW_PAIRS = 32
"""Pairs that hundreds of circuits are compared on."""


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


def few_pairs(batches: Sequence[Batch], n: int = FEW_PAIRS) -> list[Batch]:
    """The first `n` pairs: for evidence that runs the model hundreds of times.

    Splits are drawn at random, so the first pairs are a random sample of them.
    """
    few, missing = [], n
    for batch in batches:
        if missing <= 0:
            break
        parts = {f.name: getattr(batch, f.name)[:missing] for f in fields(batch)}
        few.append(Batch(**parts))
        missing -= len(few[-1])
    return few


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
