"""What a prediction is worth: per-example metrics on answer-position logits, and their averages.

Answer sets are padded with -1, so a row may have any number of right and of wrong tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from circuitprune.errors import MetricError

Logits = Float[Tensor, "example vocab"]
Tokens = Int[Tensor, "example _"]
PerExample = Float[Tensor, " example"]

TaskMetric = Callable[[Logits, Tokens, Tokens], PerExample]


def _precise(logits: Logits) -> Logits:
    """At least float32: half-precision logits are exact there, their softmax is not."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _gather(values: Float[Tensor, "example vocab"], tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Values at the tokens of each set, 0 at padding, and how many tokens each set has."""
    real = tokens >= 0
    picked = values.gather(1, tokens.clamp(min=0))
    return torch.where(real, picked, torch.zeros_like(picked)), real.sum(dim=1)


def logit_diff(logits: Logits, answers: Tokens, wrong: Tokens) -> PerExample:
    """Mean logit of the right tokens minus mean logit of the wrong ones.

    In logits; higher is better. For one answer and one wrong token it is their plain difference
    (Wang et al. 2022, arXiv 2211.00593).

    Raises:
        MetricError: an example has no wrong token to compare with.
    """
    right, n_right = _gather(_precise(logits), answers)
    bad, n_bad = _gather(_precise(logits), wrong)
    if bool((n_bad == 0).any()):
        raise MetricError(
            "logit_diff compares right with wrong answers, but some examples have no wrong answer; "
            "add `wrong` to the pairs or use the metric 'answer_prob'"
        )
    return right.sum(1) / n_right - bad.sum(1) / n_bad


def prob_diff(logits: Logits, answers: Tokens, wrong: Tokens) -> PerExample:
    """Probability of the right set minus probability of the wrong set; in [-1, 1].

    The greater-than metric of Hanna et al. 2023 (arXiv 2305.00586).
    """
    probs = _precise(logits).softmax(dim=-1)
    return _gather(probs, answers)[0].sum(1) - _gather(probs, wrong)[0].sum(1)


def answer_prob(logits: Logits, answers: Tokens, wrong: Tokens) -> PerExample:
    """Probability of the right set; in [0, 1]."""
    return _gather(_precise(logits).softmax(dim=-1), answers)[0].sum(1)


def cross_entropy(logits: Logits, answers: Tokens, wrong: Tokens) -> PerExample:
    """Minus log probability of the right set, in nats; lower is better."""
    log_probs = _precise(logits).log_softmax(dim=-1).gather(1, answers.clamp(min=0))
    return -log_probs.masked_fill(answers < 0, -torch.inf).logsumexp(dim=1)


def accuracy(logits: Logits, answers: Tokens, wrong: Tokens) -> PerExample:
    """1 where the best right token beats every wrong one or, if none is given, every other one.

    A tie is not a win.
    """
    right, bad = _members(logits, answers), _members(logits, wrong)
    rivals = torch.where(bad.any(dim=1, keepdim=True), bad, ~right)
    best = logits.masked_fill(~right, -torch.inf).amax(1)
    return (best > logits.masked_fill(~rivals, -torch.inf).amax(1)).to(logits.dtype)


def _members(logits: Logits, tokens: Tokens) -> Bool[Tensor, "example vocab"]:
    """Which tokens of the vocabulary belong to each example's set."""
    n_examples, n_vocab = logits.shape
    member = torch.zeros(n_examples, n_vocab + 1, dtype=torch.bool, device=logits.device)
    return member.scatter(1, tokens % (n_vocab + 1), True)[:, :-1]  # padding is the extra column


def kl_divergence(full: Logits, circuit: Logits) -> PerExample:
    """`KL(full || circuit)` in nats, summed over the vocabulary. Both arguments are logits.

    Zero when the distributions agree, whatever the task; lower is better.
    """
    return kl_from_log(log_probabilities(full), circuit)


def log_probabilities(logits: Logits) -> Logits:
    """Of every token, in float32 or better."""
    return _precise(logits).log_softmax(-1)


def kl_from_log(full_log: Logits, circuit: Logits) -> PerExample:
    """`kl_divergence` for many circuits, the full model's `log_probabilities` taken only once."""
    return (full_log.exp() * (full_log - log_probabilities(circuit))).sum(dim=-1)


def exact_match(full: Logits, circuit: Logits) -> PerExample:
    """1 where the circuit's most likely token is the full model's."""
    return (full.argmax(1) == circuit.argmax(1)).to(circuit.dtype)


TASK_METRICS: dict[str, TaskMetric] = {
    "logit_diff": logit_diff,
    "prob_diff": prob_diff,
    "answer_prob": answer_prob,
}
"""Metrics of task performance by name; higher is better."""


def faithfulness(
    circuit: Float[Tensor, ""], full: Float[Tensor, ""], empty: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Fraction of the model's task performance that a circuit recovers, from mean metrics.

    `(circuit - empty) / (full - empty)`: the ratio of means, so that one easy example cannot
    dominate. 1 is the full model, 0 every edge ablated; values outside [0, 1] are real.

    Raises:
        MetricError: full and empty are equal, so there is nothing to recover.

    Example:
        >>> from torch import tensor
        >>> faithfulness(tensor(3.5), tensor(4.0), tensor(0.0))
        tensor(0.8750)

    Source: Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark" (arXiv 2504.13151).
    """
    span = full - empty
    if bool(span.abs() <= 1e-6 * (full.abs() + empty.abs())):
        raise MetricError(
            f"faithfulness is undefined: the full model and the model with every edge ablated both "
            f"score {full.item():.4g}. Check that clean and corrupt prompts have different answers."
        )
    return (circuit - empty) / span


EVIDENCE_NAMES = ("kl", "metric", "accuracy", "exact_match")
"""What is known of a circuit: nats, the task metric's unit, and two fractions."""


def evidence_values(
    circuit: Logits, full: Logits, answers: Tokens, wrong: Tokens, task_metric: TaskMetric
) -> Float[Tensor, "name example"]:
    """The numbers of `EVIDENCE_NAMES` for each example, in float64, from answer-position logits.

    Raises:
        MetricError: NaN or infinite logits.
    """
    for whose, logits in (("gated", circuit), ("full", full)):
        if not bool(torch.isfinite(logits).all()):
            raise MetricError(f"the {whose} model returned NaN or infinite logits")
    circuit, full = _precise(circuit), _precise(full)
    values = (
        kl_divergence(full, circuit),
        task_metric(circuit, answers, wrong),
        accuracy(circuit, answers, wrong),
        exact_match(full, circuit),
    )
    return torch.stack([value.double() for value in values])


class CircuitEvaluation(Metric):
    """Means of every evidence metric over any number of batches: sums and counts in float64.

    `compute()` returns `kl` (nats), `metric` (of `task_metric`), `accuracy`, `exact_match`
    (fractions) and `n`. Sums reduce over ranks, so the result does not depend on the batching.
    """

    full_state_update = False
    names = EVIDENCE_NAMES

    def __init__(self, task_metric: TaskMetric = logit_diff, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task_metric = task_metric
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.sums: Tensor
        self.count: Tensor
        self.add_state("sums", default=zeros, dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, circuit: Logits, full: Logits, answers: Tokens, wrong: Tokens) -> None:
        """Add one batch of answer-position logits."""
        values = evidence_values(circuit, full, answers, wrong, self.task_metric)
        self.sums += torch.stack([each.sum() for each in values])
        self.count += len(circuit)

    def compute(self) -> dict[str, float]:
        """The means; see the class."""
        if int(self.count) == 0:
            raise MetricError("no examples were evaluated; the split is empty")
        means = (self.sums / self.count).tolist()
        return {**dict(zip(self.names, means, strict=True)), "n": int(self.count)}
