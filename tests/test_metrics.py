"""Metrics against loops over examples, SciPy, and numbers worked by hand."""

import math

import pytest
import reference
import scipy.special
import scipy.stats
import torch
from torch.testing import assert_close

from circuitprune.data.batches import Batch
from circuitprune.errors import MetricError
from circuitprune.metrics import (
    TASK_METRICS,
    CircuitEvaluation,
    Evidence,
    accuracy,
    answer_prob,
    cross_entropy,
    exact_match,
    faithfulness,
    kl_divergence,
    logit_diff,
    prob_diff,
)

ANSWERS = [[3], [5, 0, 9], [1, 2], [10]]
WRONG = [[4, 6], [1], [0, 3, 7, 9], [2]]
NONE = [[]] * 4


def padded(rows, width=4):
    """Rows of tokens as a rectangle, filled up with -1."""
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])


def pairs(answers, wrong):
    """A batch with these token sets and prompts of one token."""
    n, tokens = len(answers), torch.zeros(len(answers), 1, dtype=torch.long)
    return Batch(torch.arange(n), tokens, tokens, tokens == 0, tokens[:, 0], answers, wrong)


def random_logits(seed, n=4, vocab=11, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, vocab, generator=generator, dtype=torch.float64)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------ against slow loops


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["logit_diff", "prob_diff"])
def test_differences_of_ragged_sets_are_the_slow_loops(name, seed):
    logits = random_logits(seed)
    expected = getattr(reference, name)(logits, ANSWERS, WRONG)
    assert_close(TASK_METRICS[name](logits, pairs(padded(ANSWERS), padded(WRONG))), expected)
    assert expected.abs().min() > 1e-3


@pytest.mark.parametrize("widths", [(7, 7), (3, 4), (7, 9)])
@pytest.mark.parametrize("name", [*TASK_METRICS, "cross_entropy", "accuracy"])
def test_the_width_of_the_padding_changes_nothing(name, widths):
    """Nor need right and wrong sets be equally wide."""
    metric = {**TASK_METRICS, "cross_entropy": cross_entropy, "accuracy": accuracy}[name]
    logits = random_logits(0)
    expected = metric(logits, pairs(padded(ANSWERS), padded(WRONG)))
    assert_close(
        metric(logits, pairs(padded(ANSWERS, widths[0]), padded(WRONG, widths[1]))), expected
    )


@pytest.mark.parametrize("seed", range(3))
def test_probability_of_a_set_and_its_cross_entropy(seed):
    logits = random_logits(seed)
    answers, wrong = padded(ANSWERS), padded(WRONG)
    probs = torch.from_numpy(scipy.special.softmax(logits.numpy(), axis=1))
    expected = torch.stack([probs[row, ids].sum() for row, ids in enumerate(ANSWERS)])
    assert_close(answer_prob(logits, pairs(answers, wrong)), expected)
    assert_close(cross_entropy(logits, pairs(answers, wrong)), -expected.log())
    assert_close(answer_prob(logits, pairs(answers, padded(NONE))), expected)
    assert_close(cross_entropy(logits, pairs(answers, padded(NONE))), -expected.log())


def test_cross_entropy_of_one_answer_is_that_of_torch():
    logits, answers = random_logits(0), torch.tensor([3, 5, 0, 10])
    expected = torch.nn.functional.cross_entropy(logits, answers, reduction="none")
    assert_close(cross_entropy(logits, pairs(answers[:, None], padded(NONE, 1))), expected)


def test_cross_entropy_and_its_gradient_are_finite_for_an_unlikely_answer():
    logits = tensor([0.0, 800.0]).requires_grad_()
    loss = cross_entropy(logits, pairs(padded([[0]]), padded([[]])))
    assert_close(loss, tensor(800.0))
    loss.sum().backward()
    assert_close(logits.grad, tensor([-1.0, 1.0]))


@pytest.mark.parametrize("seed", range(3))
def test_kl_is_that_of_scipy_and_the_slow_loop(seed):
    full, circuit = random_logits(seed), random_logits(seed + 10)
    p, q = (scipy.special.softmax(x.numpy(), axis=1) for x in (full, circuit))
    expected = torch.from_numpy(scipy.stats.entropy(p, q, axis=1))
    assert_close(kl_divergence(full, circuit), expected)
    assert_close(kl_divergence(full, circuit), reference.kl(full, circuit))
    assert (kl_divergence(circuit, full) - expected).abs().max() > 1e-2  # not symmetric


def test_kl_is_zero_for_the_same_distribution_and_positive_for_another():
    full = random_logits(0)
    assert_close(kl_divergence(full, full + 3.0), torch.zeros(4).double())
    assert (kl_divergence(full, random_logits(1)) > 0).all()


def test_kl_where_a_probability_underflows():
    full, circuit = tensor([0.0, -900.0]), tensor([-900.0, 0.0])
    assert_close(kl_divergence(full, circuit), tensor(900.0))


# ------------------------------------------------------------------ errors of the sets


def test_logit_diff_without_wrong_answers_says_what_to_do():
    wrong = padded([[1], [], [2], [3]])
    with pytest.raises(MetricError, match=r"no wrong answer.*`wrong`.*'answer_prob'"):
        logit_diff(random_logits(0), pairs(padded(ANSWERS), wrong))
    with pytest.raises(MetricError, match="no wrong answer"):
        logit_diff(random_logits(0), pairs(padded(ANSWERS), padded(NONE)))


def test_prob_diff_without_wrong_answers_is_the_probability_of_the_right_ones():
    logits, answers = random_logits(0), padded(ANSWERS)
    assert_close(
        prob_diff(logits, pairs(answers, padded(NONE))),
        answer_prob(logits, pairs(answers, padded(NONE))),
    )


# ------------------------------------------------------------------ fractions


def slow_accuracy(logits, answers, wrong):
    """A row without wrong answers has every other token for a rival."""
    values = []
    for row, right_ids, wrong_ids in zip(logits.tolist(), answers, wrong, strict=True):
        rivals = wrong_ids or [i for i in range(len(row)) if i not in right_ids]
        beats = max(row[i] for i in right_ids) > max(row[i] for i in rivals)
        values.append(float(beats))
    return tensor(*values)


@pytest.mark.parametrize("wrong", [WRONG, NONE, [[4, 6], [], [0], []]])
def test_accuracy_is_the_slow_loop(wrong):
    seen = []
    for seed in range(20):
        logits = random_logits(seed)
        expected = slow_accuracy(logits, ANSWERS, wrong)
        assert_close(accuracy(logits, pairs(padded(ANSWERS), padded(wrong))), expected)
        seen += expected.tolist()
    assert 0.1 < sum(seen) / len(seen) < 0.9


def test_accuracy_with_a_wrong_set_of_width_zero():
    logits = tensor([0.0, 1.0, 2.0], [0.0, 3.0, 2.0])
    assert_close(
        accuracy(logits, pairs(torch.tensor([[2], [2]]), torch.zeros(2, 0).long())),
        tensor(1.0, 0.0),
    )


def test_accuracy_looks_only_at_the_wrong_answers_given():
    logits = tensor([0.0, 1.0, 9.0])
    assert_close(accuracy(logits, pairs(torch.tensor([[1]]), torch.tensor([[0]]))), tensor(1.0))


@pytest.mark.parametrize(("right", "bad"), [(1, 2), (2, 1)])
def test_accuracy_of_a_tie_with_a_wrong_answer_is_zero_whatever_the_token_ids(right, bad):
    """A model that cannot tell the two apart has not beaten the wrong answer."""
    logits = tensor([0.0, 7.0, 7.0])
    assert_close(
        accuracy(logits, pairs(torch.tensor([[right]]), torch.tensor([[bad]]))), tensor(0.0)
    )


@pytest.mark.parametrize("right", [1, 2])
def test_a_tie_without_wrong_answers_is_no_success_either(right):
    logits = tensor([0.0, 7.0, 7.0])
    assert_close(accuracy(logits, pairs(padded([[right]]), padded([[]]))), tensor(0.0))


def test_a_tie_below_the_best_token_is_no_success():
    logits = tensor([9.0, 7.0, 7.0])
    assert_close(accuracy(logits, pairs(torch.tensor([[1]]), torch.tensor([[2]]))), tensor(0.0))


def test_exact_match_compares_the_most_likely_tokens():
    full = tensor([0.0, 1.0, 2.0], [5.0, 1.0, 2.0], [0.0, 4.0, 2.0])
    circuit = tensor([0.0, 3.0, 9.0], [1.0, 2.0, 0.0], [-9.0, -1.0, -2.0])
    assert_close(exact_match(full, circuit), tensor(1.0, 0.0, 1.0))


# ------------------------------------------------------------------ faithfulness


@pytest.mark.parametrize(
    ("circuit", "full", "empty", "expected"),
    [
        (3.5, 4.0, 0.0, 0.875),
        (4.0, 4.0, 0.0, 1.0),
        (0.0, 4.0, 0.0, 0.0),
        (5.0, 4.0, 2.0, 1.5),
        (1.0, 4.0, 2.0, -0.5),
        (-2.0, 1.0, -3.0, 0.25),
        (3.0, 1.0, 5.0, 0.5),  # ablating everything helps: still a fraction of the way
    ],
)
def test_faithfulness_of_worked_numbers(circuit, full, empty, expected):
    value = faithfulness(*(torch.tensor(x).double() for x in (circuit, full, empty)))
    assert_close(value, torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("full", "empty"), [(2.0, 2.0), (0.0, 0.0), (3e5, 3e5 + 1e-3), (1.0, 1.0 + 1.5e-6)]
)
def test_faithfulness_without_an_effect_to_recover_is_undefined(full, empty):
    with pytest.raises(MetricError) as error:
        faithfulness(*(torch.tensor(x).double() for x in (1.0, full, empty)))
    for part in ("undefined", f"score {full:.4g}", "clean and corrupt prompts", "different"):
        assert part in str(error.value)


@pytest.mark.parametrize("effect", [1e-4, 1.1e-6])
def test_faithfulness_of_a_small_effect_is_defined(effect):
    """A millionth of both ends together is the least."""
    value = faithfulness(*(torch.tensor(x).double() for x in (1.0, 1.0 + effect, 1.0 - effect)))
    assert_close(value, torch.tensor(0.5).double())


# ------------------------------------------------------------------ the evidence over batches


def evaluation_over(parts, task_metric=logit_diff, n=20):
    """An evaluation of n fixed examples that were fed in parts of these sizes."""
    generator = torch.Generator().manual_seed(0)
    circuit, full = 2 * torch.randn(2, n, 11, generator=generator, dtype=torch.float64)
    tokens = torch.stack([torch.randperm(11, generator=generator)[:4] for _ in range(n)])
    answers, wrong = tokens[:, :2].clone(), tokens[:, 2:].clone()
    answers[::3, 1] = wrong[::2, 1] = -1
    evaluation = CircuitEvaluation(task_metric)
    for rows in torch.arange(n).split(parts):
        evaluation.update(circuit[rows], full[rows], pairs(answers[rows], wrong[rows]))
    return evaluation, (circuit, full, answers, wrong)


@pytest.mark.parametrize("parts", [[20], [1] * 20, [7, 7, 6], [19, 1]])
@pytest.mark.parametrize("task_metric", [logit_diff, prob_diff])
def test_evaluation_is_the_mean_over_examples_however_they_are_batched(parts, task_metric):
    evaluation, (circuit, full, answers, wrong) = evaluation_over(parts, task_metric)
    values = evaluation.evidence().to_json()
    expected = {
        "kl": kl_divergence(full, circuit),
        "metric": task_metric(circuit, pairs(answers, wrong)),
        "accuracy": accuracy(circuit, pairs(answers, wrong)),
        "exact_match": exact_match(full, circuit),
    }
    assert values.pop("n") == 20
    for name, value in expected.items():
        assert_close(values.pop(name), value.mean().item())
        assert value.std() > 0.1
    assert values == {}


def test_evaluations_of_two_ranks_add_up():
    """As torchmetrics merges the states of ranks: sums and counts."""
    whole, (circuit, full, answers, wrong) = evaluation_over([20])
    parts = [CircuitEvaluation(), CircuitEvaluation()]
    for part, rows in zip(parts, (slice(0, 6), slice(6, 20)), strict=True):
        part.update(circuit[rows], full[rows], pairs(answers[rows], wrong[rows]))
    parts[0].merge_state(parts[1])
    assert parts[0].evidence().to_json() == pytest.approx(whole.evidence().to_json(), rel=1e-12)


def test_sums_are_in_float64():
    """In float32, 2^24 + 1 is 2^24."""
    evaluation = CircuitEvaluation(lambda logits, batch: logits[:, 0])
    for value in (2.0**24, 1.0, 1.0, 2.0):
        logits = torch.tensor([[value, 0.0]])
        evaluation.update(logits, logits, pairs(torch.tensor([[1]]), torch.tensor([[0]])))
    assert evaluation.evidence().metric == (2**24 + 4) / 4


def test_evidence_says_its_numbers_and_no_faithfulness_before_it_is_compared():
    full, empty = Evidence(0.0, 4.0, 1.0, 1.0, 8), Evidence(2.0, 0.0, 0.5, 0.25, 8)
    alone = Evidence(0.1234567, 3.5, 0.875, 0.75, 8)
    assert repr(alone) == "Evidence(kl=0.1235, metric=3.5, accuracy=0.875, exact_match=0.75, n=8)"
    compared = alone.against(full, empty)
    assert compared.faithfulness == 0.875 and repr(compared).endswith("n=8, faithfulness=0.875)")
    assert list(alone.to_json()) == ["kl", "metric", "accuracy", "exact_match", "n"]
    assert Evidence(**compared.to_json()) == compared
    assert full.against(full, empty).faithfulness == 1
    assert empty.against(full, empty).to_json()["faithfulness"] == 0
    assert alone.compared(full, empty) == compared
    alike = alone.compared(full, full)  # nothing to recover: undefined, where `against` refuses
    assert alike.faithfulness is None and alike == alone
    with pytest.raises(MetricError, match="undefined"):
        alone.against(full, full)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    full, answers = random_logits(0), padded(ANSWERS)
    circuit = full.clone()
    circuit[2, 5] = bad
    with pytest.raises(MetricError, match="NaN or infinite logits"):
        CircuitEvaluation().update(circuit, full, pairs(answers, padded(WRONG)))


def test_nothing_to_evaluate_is_an_error():
    evaluation, _ = evaluation_over([20])
    evaluation.reset()
    for empty in (evaluation, CircuitEvaluation()):
        with (
            pytest.raises(MetricError, match=r"no examples.*split is empty"),
            pytest.warns(UserWarning, match="before the ``update``"),
        ):
            empty.compute()


@pytest.mark.parametrize("metric", [logit_diff, prob_diff, answer_prob, cross_entropy, accuracy])
def test_a_token_that_stands_twice_in_a_set_counts_once(metric):
    logits = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twice = pairs(torch.tensor([[1, 2, 1], [3, 3, -1]]), torch.tensor([[5, 4, 5], [0, 6, -1]]))
    once = pairs(torch.tensor([[1, 2], [3, -1]]), torch.tensor([[5, 4], [0, 6]]))
    assert_close(metric(logits, twice), metric(logits, once))
