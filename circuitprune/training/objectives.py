"""What mask training minimises: metrics of a circuit's predictions, lower is better."""

from circuitprune.data.batches import Batch
from circuitprune.engine.references import References
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

OBJECTIVES = ("kl", "logit_diff", "prob_diff", "faithfulness_gap", "cross_entropy")


def make_objective(name: str, references: References, task_metric: Metric, span: float) -> Metric:
    """The objective of that name.

    - `kl`: KL(full || circuit), in nats: the circuit behaves as the model, whatever the task.
    - `logit_diff`, `prob_diff`: minus the metric; unbounded below or rewarded beyond the model,
      so the circuit may overshoot it (faithfulness above 1).
    - `faithfulness_gap`: `((m(circuit) - m(full)) / span)^2` with m the task metric: bounded,
      best where faithfulness is 1.
    - `cross_entropy`: minus log probability of the right answers.

    Args:
        name: One of `OBJECTIVES`.
        references: Whose cached logits of the full model `kl` and the gap compare with.
        task_metric: The task's own metric, for the gap.
        span: Mean metric of the full model minus that of the empty circuit.

    Raises:
        ConfigError: an unknown name.
        MetricError: the gap over a span of zero.
    """
    if name == "kl":
        return lambda logits, batch: kl_divergence(references.full_logits(batch), logits)
    if name == "logit_diff":
        return lambda logits, batch: -logit_diff(logits, batch)
    if name == "prob_diff":
        return lambda logits, batch: -prob_diff(logits, batch)
    if name == "cross_entropy":
        return cross_entropy
    if name == "faithfulness_gap":
        return _faithfulness_gap(references, task_metric, span)
    raise ConfigError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}")


def _faithfulness_gap(references: References, task_metric: Metric, span: float) -> Metric:
    if abs(span) < 1e-6:
        raise MetricError(
            "faithfulness_gap is undefined: the task metric does not change when every edge is "
            "ablated; check that clean and corrupt prompts have different answers"
        )

    def gap(logits: Logits, batch: Batch) -> PerExample:
        wanted = task_metric(references.full_logits(batch), batch)
        return ((task_metric(logits, batch) - wanted) / span).square()

    return gap
