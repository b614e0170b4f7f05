"""Each objective is its definition, spelled out."""

from dataclasses import replace

import pytest
import torch
from conftest import random_batch
from torch import Tensor
from torch.testing import assert_close

from circuitprune.data.pairs import Batch
from circuitprune.errors import ConfigError, MetricError
from circuitprune.metrics import (
    TASK_METRICS,
    answer_prob,
    cross_entropy,
    faithfulness,
    kl_divergence,
    logit_diff,
    prob_diff,
)
from circuitprune.training.objectives import OBJECTIVES, REWARDING, make_objective, make_opposite

SPAN = -2.5


EMPTY = 3 * torch.randn(3, 11, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


class Full:
    """A full model and an empty circuit with given logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def full_logits(self, batch: Batch) -> Tensor:
        return self.logits

    def empty_logits(self, batch: Batch) -> Tensor:
        return EMPTY


@pytest.fixture
def batch() -> Batch:
    answers = torch.tensor([[3, -1, -1], [5, 0, -1], [1, 2, -1]])
    wrong = torch.tensor([[4, 6, -1], [1, -1, -1], [0, 3, 7]])
    pairs = random_batch([3, 4, 4], seed=0)
    return Batch(torch.arange(3), *pairs, answers, wrong)


@pytest.fixture
def logits():
    """Of a circuit and of the full model."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(2, 3, 11, generator=generator, dtype=torch.float64)


DEFINITIONS = {
    "kl": lambda c, f, b: kl_divergence(f, c),
    "logit_diff": lambda c, f, b: -logit_diff(c, b),
    "prob_diff": lambda c, f, b: -prob_diff(c, b),
    "cross_entropy": lambda c, f, b: cross_entropy(c, b),
    "faithfulness_gap": lambda c, f, b: ((answer_prob(c, b) - answer_prob(f, b)) / SPAN) ** 2,
    "acc": lambda c, f, b: 1 / (1 + logit_diff(c, b).exp()),
    "ld_match": lambda c, f, b: torch.stack(
        [
            ((d - wanted) / max(abs(wanted), 1)) ** 2
            for d, wanted in zip(logit_diff(c, b), logit_diff(f, b), strict=True)
        ]
    ),
    "cmd": lambda c, f, b: torch.stack(
        [
            abs(1 - (d - low) / span) if abs(span := high - low) >= 1 else abs(d - high)
            for d, low, high in zip(*(logit_diff(x, b) for x in (c, EMPTY, f)), strict=True)
        ]
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_its_definition(name, logits, batch):
    circuit, full = logits
    loss = make_objective(name, Full(full), answer_prob, SPAN)(circuit, batch)
    assert_close(loss, DEFINITIONS[name](circuit, full, batch))
    assert loss.shape == (3,) and loss.std() > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_descending_an_objective_improves_what_it_stands_for(name, logits, batch):
    """A step against the gradient; the answers get likelier, or the circuit nearer the model."""
    circuit, full = logits
    circuit = circuit.clone().requires_grad_()
    objective = make_objective(name, Full(full), logit_diff, SPAN)
    (slope,) = torch.autograd.grad(objective(circuit, batch).mean(), circuit)
    better = circuit.detach() - 0.05 * slope
    judge = {
        "kl": lambda c: -kl_divergence(full, c),
        "faithfulness_gap": lambda c: -(logit_diff(c, batch) - logit_diff(full, batch)).abs(),
        "cross_entropy": lambda c: answer_prob(c, batch),
        "acc": lambda c: logit_diff(c, batch).sigmoid(),
        "ld_match": lambda c: -(logit_diff(c, batch) - logit_diff(full, batch)).abs(),
        "cmd": lambda c: -(logit_diff(c, batch) - logit_diff(full, batch)).abs(),
    }.get(name, lambda c: TASK_METRICS[name](c, batch))
    assert judge(better).mean() > judge(circuit.detach()).mean()


@pytest.mark.parametrize("task_metric", TASK_METRICS.values())
def test_the_gap_is_zero_at_faithfulness_1_and_one_at_0(task_metric, batch, logits):
    """Over a single example, where the ratio of means is the ratio."""
    one = Batch(**{name: value[:1] for name, value in vars(batch).items()})
    empty, full = logits[0, :1], logits[1, :1]
    values = [task_metric(x, one).mean() for x in (full, empty)]
    span = (values[0] - values[1]).item()
    objective = make_objective("faithfulness_gap", Full(full), task_metric, span)
    assert_close(objective(full, one), torch.zeros(1).double())
    assert_close(objective(empty, one), torch.ones(1).double())
    between = (empty + full) / 2
    reached = task_metric(between, one).mean()
    expected = (faithfulness(reached, *values) - 1) ** 2
    assert_close(objective(between, one), expected[None])


def test_the_gap_also_charges_for_more_than_the_model(logits, batch):
    full = logits[1]
    more = full.clone()
    more[[0, 1, 1, 2, 2], [3, 5, 0, 1, 2]] += 4.0  # every right answer
    loss = make_objective("faithfulness_gap", Full(full), logit_diff, 2.0)(more, batch)
    assert (loss > 1).all()
    shortcut = make_objective("logit_diff", Full(full), logit_diff, 2.0)
    assert (shortcut(more, batch) < shortcut(full, batch)).all()


def test_what_is_small_is_measured_by_one_logit(batch):
    """A model, or a span, of almost no difference would make every circuit infinitely wrong."""
    flat, circuit = Full(EMPTY + 1e-9), EMPTY.clone()
    circuit[[0, 1, 1, 2, 2], [3, 5, 0, 1, 2]] += 2.0  # every right answer, two logits up
    assert_close(
        make_objective("cmd", flat, logit_diff, 1.0)(circuit, batch), 2 * torch.ones(3).double()
    )
    none = Full(torch.zeros(3, 11).double())
    raised = torch.zeros(3, 11).double()
    raised[[0, 1, 1, 2, 2], [3, 5, 0, 1, 2]] += 0.5
    assert_close(
        make_objective("ld_match", none, logit_diff, 1.0)(raised, batch),
        torch.full((3,), 0.25).double(),
    )


# ------------------------------------------------------------------ the opposite


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_opposite_asks_for_what_no_circuit_does(name, logits, batch):
    """By its own definition: of the empty circuit, or of the wrong answers."""
    circuit, full = logits
    if name == "faithfulness_gap":
        expected = ((answer_prob(circuit, batch) - answer_prob(EMPTY, batch)) / SPAN) ** 2
    elif name == "kl":
        expected = kl_divergence(EMPTY, circuit)
    elif name in ("logit_diff", "prob_diff"):
        expected = TASK_METRICS[name](circuit, batch)
    elif name == "acc":
        expected = logit_diff(circuit, batch).sigmoid()
    elif name == "cross_entropy":
        shares = circuit.softmax(-1)
        wrong = [[4, 6], [1], [0, 3, 7]]
        expected = -torch.stack([p[w].sum().log() for p, w in zip(shares, wrong, strict=True)])
    else:
        d, ends = logit_diff(circuit, batch), (logit_diff(x, batch) for x in (EMPTY, full))
        empty, model = ends
        unit = empty if name == "ld_match" else model - empty
        expected = ((d - empty) / unit.abs().clamp(min=1)).abs() ** (2 if name == "ld_match" else 1)
    assert_close(make_opposite(name, Full(full), answer_prob, SPAN)(circuit, batch), expected)


def test_wrong_answers_can_be_rewarded_only_where_there_are_any(logits, batch):
    none = replace(batch, wrong=torch.full_like(batch.wrong, -1))
    for name in REWARDING:
        with pytest.raises(MetricError, match=r"gates.direction=joint.*objective=kl"):
            make_opposite(name, Full(logits[1]), answer_prob, SPAN)(logits[0], none)
    make_opposite("kl", Full(logits[1]), answer_prob, SPAN)(logits[0], none)


@pytest.mark.parametrize("span", [0.0, 1e-7, -1e-7])
def test_a_gap_over_no_span_is_an_error(span):
    full = Full(torch.zeros(3, 11))
    with pytest.raises(MetricError, match=r"faithfulness_gap is undefined.*clean and corrupt"):
        make_objective("faithfulness_gap", full, logit_diff, span)
    make_objective("kl", full, logit_diff, span)  # nothing to divide by


def test_an_unknown_objective_names_the_known_ones():
    with pytest.raises(ConfigError) as error:
        make_objective("mse", Full(torch.zeros(3, 11)), logit_diff, 1.0)
    assert "'mse'" in str(error.value)
    for name in OBJECTIVES:
        assert name in str(error.value)
