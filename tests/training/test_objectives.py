"""Each objective is its definition, spelled out."""

import pytest
import torch
from conftest import random_batch
from torch import Tensor
from torch.testing import assert_close

from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
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
from circuitprune.training.objectives import OBJECTIVES, make_objective

SPAN = -2.5


class Full(References):
    """A full model with given logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def full_logits(self, batch: Batch) -> Tensor:
        return self.logits


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
