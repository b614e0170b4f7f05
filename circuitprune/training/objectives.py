"""What mask training minimises: metrics of a circuit's predictions, lower is better."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, get_args, runtime_checkable

import torch

from circuitprune.data.batches import Batch
from circuitprune.errors import ConfigError, MetricError
from circuitprune.metrics import (
    Logits,
    Metric,
    PerExample,
    cross_entropy,
    kl_divergence,
    logit_diff,
    prob_diff,
)
from circuitprune.training.target import ObjectiveName

OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)
REWARDING = ("logit_diff", "prob_diff", "cross_entropy", "acc")
"""Those that name answers, where the others compare with the model."""


@runtime_checkable
class Ends(Protocol):
    """The two models between which circuits lie, by their logits at the answer positions."""

    def full_logits(self, batch: Batch, /) -> Logits:
        """Of the model that a circuit is to be."""

    def empty_logits(self, batch: Batch, /) -> Logits:
        """Of the circuit without edges."""


@dataclass(frozen=True)
class Exchanged:
    """The two ends exchanged: what is left without a circuit is to be what no circuit is."""

    ends: Ends

    def full_logits(self, batch: Batch) -> Logits:
        """Of the circuit without edges."""
        return self.ends.empty_logits(batch)

    def empty_logits(self, batch: Batch) -> Logits:
        """Of the model."""
        return self.ends.full_logits(batch)


def make_objective(name: str, ends: Ends, task_metric: Metric, span: float) -> Metric:
    """The objective of that name.

    - `kl`: KL(full || circuit), in nats: the circuit behaves as the model, whatever the task.
    - `logit_diff`, `prob_diff`: minus the metric; unbounded below or rewarded beyond the model,
      so the circuit may overshoot it (faithfulness above 1).
    - `faithfulness_gap`: `((m(circuit) - m(full)) / span)^2` with m the task metric: bounded,
      best where faithfulness is 1.
    - `cross_entropy`: minus log probability of the right answers.

    Three more are of the logit difference d of each example, with d_full and d_empty those of the
    model and of the empty circuit (MAttr, arXiv 2609.25518):

    - `acc`: `sigmoid(-d)`, a smooth error rate: its gradient is at the border of the decision, and
      what is right with a margin is right enough.
    - `ld_match`: `((d - d_full) / max(|d_full|, 1))^2`.
    - `cmd`: `|d - d_full| / max(|d_full - d_empty|, 1)`, the distance of faithfulness from 1.

    Args:
        name: One of `OBJECTIVES`.
        ends: The full model and the empty circuit; `References` are both.
        task_metric: The task's own metric, for the gap.
        span: Mean metric of the full model minus that of the empty circuit.

    Raises:
        ConfigError: an unknown name.
        MetricError: the gap over a span of zero.
    """
    known: dict[str, Callable[[], Metric]] = {
        "kl": lambda: lambda logits, batch: kl_divergence(ends.full_logits(batch), logits),
        "logit_diff": lambda: lambda logits, batch: -logit_diff(logits, batch),
        "prob_diff": lambda: lambda logits, batch: -prob_diff(logits, batch),
        "faithfulness_gap": lambda: _faithfulness_gap(ends, task_metric, span),
        "cross_entropy": lambda: cross_entropy,
        "acc": lambda: lambda logits, batch: torch.sigmoid(-logit_diff(logits, batch)),
        "cmd": lambda: _distance(ends),
        "ld_match": lambda: _mismatch(ends),
    }
    if name not in known:
        raise ConfigError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}")
    return known[name]()


def make_opposite(name: str, ends: Ends, task_metric: Metric, span: float) -> Metric:
    """The objective of what is left when a circuit is corrupted: to be as if nothing were there.

    An objective that compares with the model compares with the empty circuit instead, so `kl`
    becomes KL(empty || rest); one that rewards the right answers rewards the wrong ones.

    Raises:
        ConfigError, MetricError: as `make_objective`; when it is called, examples without a wrong
            answer, if it is one of those that reward answers.
    """
    forward = make_objective(name, Exchanged(ends), task_metric, span)
    return _of_wrong_answers(forward) if name in REWARDING else forward


def _of_wrong_answers(objective: Metric) -> Metric:
    def opposite(logits: Logits, batch: Batch) -> PerExample:
        if bool((batch.wrong < 0).all(dim=1).any()):
            raise MetricError(
                "gates.direction=joint rewards the wrong answers where a circuit is corrupted, but "
                "some examples have no wrong answer; add `wrong` to the pairs or use objective=kl"
            )
        return objective(logits, replace(batch, answers=batch.wrong, wrong=batch.answers))

    return opposite


def _distance(ends: Ends) -> Metric:
    def distance(logits: Logits, batch: Batch) -> PerExample:
        found, full, empty = (
            logit_diff(one, batch)
            for one in (logits, ends.full_logits(batch), ends.empty_logits(batch))
        )
        return (found - full).abs() / (full - empty).abs().clamp(min=1)

    return distance


def _mismatch(ends: Ends) -> Metric:
    def mismatch(logits: Logits, batch: Batch) -> PerExample:
        found, full = (logit_diff(one, batch) for one in (logits, ends.full_logits(batch)))
        return ((found - full) / full.abs().clamp(min=1)).square()

    return mismatch


def _faithfulness_gap(ends: Ends, task_metric: Metric, span: float) -> Metric:
    if abs(span) < 1e-6:
        raise MetricError(
            "faithfulness_gap is undefined: the task metric does not change when every edge is "
            "ablated; check that clean and corrupt prompts have different answers"
        )

    def gap(logits: Logits, batch: Batch) -> PerExample:
        wanted = task_metric(ends.full_logits(batch), batch)
        return ((task_metric(logits, batch) - wanted) / span).square()

    return gap
