"""The curve and the cross-ablation, against the verifier and against ablations made by hand."""

from dataclasses import replace

import pytest
from evidence_cases import SIZES, in_a_file, pairs, tiny_case, written

from circuitprune.engine.ablation import ABLATIONS, make_ablation
from circuitprune.engine.evaluation import (
    evaluate,
    evaluate_each,
    evaluate_full,
    evaluate_full_each,
)
from circuitprune.engine.references import References
from circuitprune.evidence.bootstrap import Interval
from circuitprune.evidence.cross_ablation import cross_ablation
from circuitprune.evidence.faithfulness import faithfulness_curve, verdict

NAMES = ("kl", "metric", "accuracy", "exact_match", "faithfulness")


def verified(case, references=None):
    """Of the circuit and of each size, by the verifier."""
    references = references or case.references
    masks = {"circuit": case.mask, "empty": case.empty_mask, **case.sizes}
    found = evaluate(references, masks, case.batches, case.task_metric)
    full = evaluate_full(references, case.batches, case.task_metric)
    return {name: e.against(full, found["empty"]).to_json() for name, e in found.items()}


def test_the_curve_is_the_verifiers():
    case = tiny_case()
    found, expected = written(faithfulness_curve(case)), verified(case)
    assert [point.size for point in found.sizes] == list(SIZES)
    for point, of in [(found.circuit, "circuit"), *((p, p.size) for p in found.sizes)]:
        for name in NAMES:
            assert getattr(point, name).value == pytest.approx(expected[of][name], abs=1e-12)
            assert getattr(point, name).low <= getattr(point, name).high
    assert vars(found.full.faithfulness) == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert found.empty.faithfulness == Interval(0.0, 0.0, 0.0)
    assert found.n_pairs == 8 and found.n_without_ratio == 0
    assert "On 8 pairs" in found.sentence


def test_pairs_without_a_ratio_are_counted_and_left_out():
    case = tiny_case()
    same = [
        replace(b, corrupt=b.clean.where(b.index[:, None] == 2, b.corrupt)) for b in case.batches
    ]
    case = replace(
        case, batches=same, references=References(case.references.gated, case.references.ablation)
    )  # pair 2 is its own corruption: full and empty agree on it
    found = faithfulness_curve(case)
    assert found.n_without_ratio == 1
    others = [i != 2 for i in range(8)]
    masks = {"c": case.mask, "e": case.empty_mask}
    each = evaluate_each(case.references, masks, case.batches, case.task_metric)
    full = evaluate_full_each(case.references, case.batches, case.task_metric).metric
    own = (each["c"].metric - each["e"].metric) / (full - each["e"].metric)
    assert found.circuit.mean_of_ratios.value == pytest.approx(own[others].mean().item())


def test_the_same_seed_gives_the_same_bytes():
    one, two = (in_a_file(faithfulness_curve(tiny_case())) for _ in range(2))
    assert one == two
    assert one != in_a_file(faithfulness_curve(tiny_case(seed=1)))


@pytest.mark.parametrize("found_with", ["patch", "mean"])
def test_cross_ablation_is_the_verifier_under_each_kind(found_with):
    case = tiny_case(ablation=found_with)
    found = written(cross_ablation(case))
    assert found.found_with == found_with and found.n_train_pairs == 3
    assert set(found.kinds) == {*ABLATIONS}
    gated = case.references.gated
    for kind, numbers in found.kinds.items():
        ablation = make_ablation(kind, gated.ports, case.train_batches)
        expected = verified(case, References(gated, ablation))["circuit"]
        for name in NAMES:
            assert getattr(numbers, name).value == pytest.approx(
                expected[name], rel=1e-9, abs=1e-12
            )


def test_the_kinds_really_differ():
    kinds = cross_ablation(tiny_case()).kinds
    values = [numbers.kl.value for numbers in kinds.values()]
    assert len({round(value, 6) for value in values}) == len(ABLATIONS)


def test_a_kind_that_cannot_be_is_named():
    found = cross_ablation(tiny_case(train_batches=[pairs([5, 4], seed=2, first=50)]))
    assert "longer references" in found.kinds["positional-mean"].error
    assert "Not computable here: positional-mean" in found.sentence
    assert found.kinds["mean"].faithfulness.value is not None


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.85, 1.1, "pass"),
        (0.7, 0.9, "undecided"),
        (0.5, 0.7, "fail"),
        (1.3, 2.0, "fail"),
        (None, None, "undecided"),
    ],
)
def test_verdicts(low, high, says):
    assert verdict(Interval(1.0, low, high)) == says
