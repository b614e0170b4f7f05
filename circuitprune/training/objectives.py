"""What mask training minimises: per-example losses of a circuit's answer-position logits."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from circuitprune.data.pairs import Batch
from circuitprune.errors import ConfigError, MetricError
from circuitprune.metrics import TaskMetric, cross_entropy, kl_divergence, logit_diff, prob_diff

Objective = Callable[
    [Float[Tensor, "batch vocab"], Float[Tensor, "batch vocab"], Batch], Float[Tensor, " batch"]
]
"""`(circuit logits, full model's logits, batch) -> loss per example`; lower is better."""

OBJECTIVES = ("kl", "logit_diff", "prob_diff", "faithfulness_gap", "cross_entropy")


def make_objective(name: str, task_metric: TaskMetric, span: float) -> Objective:
    """The objective of that name.

    - `kl`: KL(full || circuit), in nats: the circuit behaves as the model, whatever the task.
    - `logit_diff`, `prob_diff`: minus the metric; unbounded below or rewarded beyond the model,
      so the circuit may overshoot it (faithfulness above 1).
    - `faithfulness_gap`: `((m(circuit) - m(full)) / span)^2` with m the task metric: bounded,
      best where faithfulness is 1.
    - `cross_entropy`: minus log probability of the right answers.

    Args:
        name: One of `OBJECTIVES`.
        task_metric: The task's own metric, for the gap.
        span: Mean metric of the full model minus that of the empty circuit.

    Raises:
        ConfigError: an unknown name.
        MetricError: the gap over a span of zero.
    """
    if name == "kl":
        return lambda circuit, full, batch: kl_divergence(full, circuit)
    if name == "logit_diff":
        return lambda circuit, full, batch: -logit_diff(circuit, batch.answers, batch.wrong)
    if name == "prob_diff":
        return lambda circuit, full, batch: -prob_diff(circuit, batch.answers, batch.wrong)
    if name == "cross_entropy":
        return lambda circuit, full, batch: cross_entropy(circuit, batch.answers, batch.wrong)
    if name == "faithfulness_gap":
        return _faithfulness_gap(task_metric, span)
    raise ConfigError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}")


def _faithfulness_gap(task_metric: TaskMetric, span: float) -> Objective:
    if abs(span) < 1e-6:
        raise MetricError(
            "faithfulness_gap is undefined: the task metric does not change when every edge is "
            "ablated; check that clean and corrupt prompts have different answers"
        )

    def gap(
        circuit: Float[Tensor, "batch vocab"], full: Float[Tensor, "batch vocab"], batch: Batch
    ) -> Float[Tensor, " batch"]:
        reached = task_metric(circuit, batch.answers, batch.wrong)
        wanted = task_metric(full, batch.answers, batch.wrong)
        return ((reached - wanted) / span).square()

    return gap
