"""What a prediction is worth: per-example metrics on answer-position logits, and their averages.

Answer sets are padded with -1, so a row may have any number of right and of wrong tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torchmetrics
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.errors import MetricError
from circuitprune.files.records import to_json

Logits = Float[Tensor, "example vocab"]
Tokens = Int[Tensor, "example _"]
PerExample = Float[Tensor, " example"]

Metric = Callable[[Logits, Batch], PerExample]
"""Per-example worth of answer-position logits: of a task, for attribution, or to be minimised."""


@runtime_checkable
class Answered(Protocol):
    """All that the metrics of this file ask of a batch."""

    @property
    def answers(self) -> Tokens:
        """Right tokens; short rows end in -1."""

    @property
    def wrong(self) -> Tokens:
        """Wrong tokens; short rows end in -1."""


def _precise(logits: Logits) -> Logits:
    """At least float32: half-precision logits are exact there, their softmax is not."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _gather(values: Float[Tensor, "example vocab"], tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Values at the tokens of each set, 0 at padding, and how many tokens each set has."""
    real = tokens >= 0
    picked = values.gather(1, tokens.clamp(min=0))
    return torch.where(real, picked, torch.zeros_like(picked)), real.sum(dim=1)


def logit_diff(logits: Logits, batch: Answered) -> PerExample:
    """Mean logit of the right tokens minus mean logit of the wrong ones.

    In logits; higher is better. For one answer and one wrong token it is their plain difference
    (Wang et al. 2022, arXiv 2211.00593).

    Raises:
        MetricError: an example has no wrong token to compare with.
    """
    right, n_right = _gather(_precise(logits), distinct(batch.answers))
    bad, n_bad = _gather(_precise(logits), distinct(batch.wrong))
    if bool((n_bad == 0).any()):
        raise MetricError(
            "logit_diff compares right with wrong answers, but some examples have no wrong answer; "
            "add `wrong` to the pairs or use the metric 'answer_prob'"
        )
    return right.sum(1) / n_right - bad.sum(1) / n_bad


def prob_diff(logits: Logits, batch: Answered) -> PerExample:
    """Probability of the right set minus probability of the wrong set; in [-1, 1].

    The greater-than metric of Hanna et al. 2023 (arXiv 2305.00586).
    """
    return _prob_of(logits, batch.answers) - _prob_of(logits, batch.wrong)


def answer_prob(logits: Logits, batch: Answered) -> PerExample:
    """Probability of the right set; in [0, 1]."""
    return _prob_of(logits, batch.answers)


def _prob_of(logits: Logits, tokens: Tokens) -> PerExample:
    """Probability of each set; a token that stands in it twice counts once."""
    probs = _precise(logits).softmax(dim=-1)
    return _gather(probs, distinct(tokens))[0].sum(1)


def distinct(tokens: Tokens) -> Tokens:
    """Each row's set: a token that stands there again becomes padding."""
    earlier = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril(-1)
    same = tokens.unsqueeze(2) == tokens.unsqueeze(1)
    again = (same & earlier.to(tokens.device)).any(dim=2)
    return tokens.masked_fill(again, -1)


def cross_entropy(logits: Logits, batch: Answered) -> PerExample:
    """Minus log probability of the right set, in nats; lower is better."""
    answers = distinct(batch.answers)
    log_probs = _precise(logits).log_softmax(dim=-1).gather(1, answers.clamp(min=0))
    return -log_probs.masked_fill(answers < 0, -torch.inf).logsumexp(dim=1)


def accuracy(logits: Logits, batch: Answered) -> PerExample:
    """1 where the best right token beats every wrong one or, if none is given, every other one.

    A tie is not a win.
    """
    right, bad = _members(logits, batch.answers), _members(logits, batch.wrong)
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


KL_FLOOR = 1e-5
"""The least KL that a curve tells from 0, in nats."""


def log10_kl(kl: float) -> float:
    """A KL in nats as a power of ten, for curves: `log10(max(kl, KL_FLOOR))`.

    Example:
        >>> from circuitprune.metrics import log10_kl
        >>> log10_kl(0.01), log10_kl(0.0)
        (-2.0, -5.0)
    """
    return math.log10(max(kl, KL_FLOOR)) if math.isfinite(kl) else math.log10(KL_FLOOR)


def exact_match(full: Logits, circuit: Logits) -> PerExample:
    """1 where the circuit's most likely token is the full model's."""
    return (full.argmax(1) == circuit.argmax(1)).to(circuit.dtype)


TASK_METRICS: dict[str, Metric] = {
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


@dataclass(frozen=True)
class Means:
    """What is measured on each pair, as means over the pairs."""

    kl: float
    """`KL(full model || circuit)` of the next token, in nats."""
    metric: float
    """Of the task, in its unit, higher is better."""
    accuracy: float
    """Fraction of pairs on which a right token beats every wrong one."""
    exact_match: float
    """Fraction of pairs on which the most likely token is the full model's."""
    n: int
    """Pairs behind the means."""


@dataclass(frozen=True)
class Evidence(Means):
    """What is known of a circuit from held-out pairs: means over the pairs."""

    faithfulness: float | None = None
    """Share of the full model's metric recovered; None until it is compared (see `against`), and
    where the full and the empty model score the same, so that it is undefined."""

    def against(self, full: "Evidence", empty: "Evidence") -> "Evidence":
        """The same evidence with `faithfulness`: the share of the task metric recovered, of means.

        Raises:
            MetricError: full and empty have the same metric.
        """
        means = (torch.tensor(of.metric, dtype=torch.float64) for of in (self, full, empty))
        return replace(self, faithfulness=faithfulness(*means).item())

    def compared(self, full: "Evidence", empty: "Evidence") -> "Evidence":
        """The same as `against`, without `faithfulness` where that is undefined."""
        try:
            return self.against(full, empty)
        except MetricError:
            return replace(self, faithfulness=None)

    def to_json(self) -> dict[str, float]:
        """The fields as a file holds them: no `faithfulness` where there is none."""
        found = to_json(self)
        assert isinstance(found, dict)
        return found

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.to_json().items())
        return f"Evidence({values})"


EVIDENCE_NAMES = ("kl", "metric", "accuracy", "exact_match")
"""What is measured on each pair: nats, the task metric's unit, and two fractions."""


def evidence_values(
    circuit: Logits, full: Logits, batch: Batch, metric: Metric
) -> Float[Tensor, "name example"]:
    """The numbers of `EVIDENCE_NAMES` for each example, in float64, on the CPU.

    Args:
        circuit: Answer-position logits of the circuit.
        full: Of the full model.
        batch: The pairs.
        metric: Of task performance, higher is better.

    Raises:
        MetricError: NaN or infinite logits.
    """
    circuit, full, batch = circuit.cpu(), full.cpu(), batch.to("cpu")
    for whose, logits in (("gated", circuit), ("full", full)):
        if not bool(torch.isfinite(logits).all()):
            raise MetricError(f"the {whose} model returned NaN or infinite logits")
    circuit, full = _precise(circuit), _precise(full)
    values = (
        kl_divergence(full, circuit),
        metric(circuit, batch),
        accuracy(circuit, batch),
        exact_match(full, circuit),
    )
    return torch.stack([value.double() for value in values])


class CircuitEvaluation(torchmetrics.Metric):
    """Evidence over any number of batches: sums and counts in float64.

    Means do not depend on the batching, nor on which process ran which examples.

    Args:
        metric: Of task performance, higher is better.
        shared: Whether each process has a part of the examples: all of them must call `compute`.
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self, metric: Metric = logit_diff, shared: bool = False) -> None:
        super().__init__(sync_on_compute=shared)
        self.metric = metric
        zeros = torch.zeros(len(EVIDENCE_NAMES), dtype=torch.float64)
        self.add_state("sums", default=zeros, dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, circuit: Logits, full: Logits, batch: Batch) -> None:
        """Add one batch of answer-position logits; see `evidence_values`."""
        values = evidence_values(circuit, full, batch, self.metric)
        self.sums += torch.stack([each.sum() for each in values])
        self.count += len(circuit)

    def compute(self) -> Float[Tensor, "5"]:
        """The means in the order of `EVIDENCE_NAMES`, then the number of examples.

        Raises:
            MetricError: no examples.
        """
        if int(self.count) == 0:
            raise MetricError("no examples were evaluated; the split is empty")
        return torch.cat([self.sums / self.count, self.count[None].double()])

    def evidence(self) -> Evidence:
        """`compute`, typed: torchmetrics itself cannot pass a frozen dataclass on."""
        kl, metric, right, same, n = self.compute().tolist()
        return Evidence(kl, metric, right, same, int(n))
