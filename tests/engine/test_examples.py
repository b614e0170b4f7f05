"""Numbers of each pair, against the verifier's means and against one pair at a time."""

from dataclasses import replace

import pytest
import torch
from evidence_cases import tiny_case

from circuitprune.engine.evaluation import (
    evaluate,
    evaluate_each,
    evaluate_full,
    evaluate_full_each,
)
from circuitprune.errors import DataError, GraphError, MetricError


@pytest.mark.parametrize("ablation", ["patch", "mean"])
def test_means_are_the_verifiers(ablation):
    case = tiny_case(ablation=ablation)
    masks = {"circuit": case.mask, "empty": case.empty_mask, "full": case.full_mask}
    found = evaluate_each(case.references, masks, case.batches, case.task_metric)
    expected = evaluate(case.references, masks, case.batches, case.task_metric)
    for name in masks:
        assert found[name].mean().to_json() == pytest.approx(
            expected[name].to_json(), rel=1e-12, abs=1e-12
        )
        assert len(found[name]) == case.n_examples == 8
    whole = evaluate_full_each(case.references, case.batches, case.task_metric)
    full = evaluate_full(case.references, case.batches, case.task_metric)
    assert whole.mean().to_json() == pytest.approx(full.to_json(), rel=1e-12)
    verified = expected["circuit"].against(expected["full"], expected["empty"])
    assert found["circuit"].faithfulness(found["full"], found["empty"]) == pytest.approx(
        verified.faithfulness
    )


def test_rows_are_in_the_order_of_the_pairs():
    case = tiny_case()
    whole = evaluate_each(case.references, {"c": case.mask}, case.batches, case.task_metric)["c"]
    at = 0
    for batch in case.batches:
        for row in range(len(batch)):
            one = type(batch)(**{k: v[row : row + 1] for k, v in vars(batch).items()})
            alone = evaluate_each(case.references, {"c": case.mask}, [one], case.task_metric)["c"]
            assert alone.metric.item() == pytest.approx(whole.metric[at].item(), rel=1e-9)
            assert alone.kl.item() == pytest.approx(whole.kl[at].item(), rel=1e-9)
            at += 1
    assert whole.metric.dtype == torch.float64


@pytest.mark.parametrize("measure", [evaluate, evaluate_each])
def test_every_run_is_told(measure):
    case, seen = tiny_case(), []
    masks = {"a": case.mask, "b": case.full_mask}
    arguments = (case.references, masks, case.batches, case.task_metric)
    measure(*arguments, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_pairs_is_an_error():
    case = tiny_case()
    with pytest.raises(MetricError, match="empty"):
        evaluate_each(case.references, {"c": case.mask}, [], case.task_metric)
    with pytest.raises(DataError, match="no held-out pair"):
        replace(case, batches=[])


def test_a_case_refuses_what_does_not_fit():
    case = tiny_case()
    with pytest.raises(GraphError, match="mask has shape"):
        replace(case, mask=case.mask[1:], ranking=case.ranking[1:], scores=None, sizes={})
    with pytest.raises(GraphError, match="ranking holds NaN"):
        replace(case, ranking=case.ranking * torch.nan)


def test_each_section_draws_its_own_numbers():
    def draw(case, name):
        return torch.rand(4, generator=case.generator(name)).tolist()

    case = tiny_case()
    assert draw(case, "a") == draw(case, "a") != draw(case, "b")
    assert draw(case, "a") != draw(replace(case, seed=1), "a")
