"""The tokens that model and circuit would say next, against a forward by hand."""

from dataclasses import replace

import pytest
import torch
from evidence_cases import tiny_case

from circuitprune.lens.predictions import N_TOP, predictions


def top_by_hand(logits):
    """Tokens and probabilities of one pair, slowly."""
    weights = [torch.tensor(x, dtype=torch.float64).exp().item() for x in logits.tolist()]
    order = sorted(range(len(weights)), key=lambda token: -weights[token])[:N_TOP]
    return [(f"t{token}", weights[token] / sum(weights)) for token in order]


def assert_is(found, expected):
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=6e-5)


def found_in(case, mask):
    return predictions(case.references, mask, case.batches, lambda token: f"t{token}")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_model_and_circuit_say_what_their_own_forwards_say(family):
    case = tiny_case(family)
    rows = iter(found_in(case, case.mask))
    model = case.references.gated.model
    for batch in case.batches:
        ablated = case.references.ablated(batch)
        circuit = case.references.gated(
            case.mask.float(), batch.clean, batch.mask, ablated, batch.last
        )
        for i in range(len(batch)):
            end, row = int(batch.last[i]) + 1, next(rows)
            for name, prompts in (("model", batch.clean), ("model_corrupt", batch.corrupt)):
                logits = model(prompts[i : i + 1, :end]).logits[0, -1]
                assert_is(getattr(row, name), top_by_hand(logits))
            assert_is(row.circuit, top_by_hand(circuit[i]))
    assert next(rows, None) is None


def test_the_full_circuit_is_the_model_and_the_empty_one_sees_the_corrupt_prompt():
    case = tiny_case()
    for row in found_in(case, case.full_mask):
        assert_is(row.circuit, row.model)
    for row in found_in(case, case.empty_mask):
        assert_is(row.circuit, row.model_corrupt)


def test_a_small_vocabulary_is_shown_whole(monkeypatch):
    case = tiny_case()
    monkeypatch.setattr("circuitprune.lens.predictions.N_TOP", 10_000)
    case = replace(case, batches=case.batches[:1])
    for row in found_in(case, case.mask):
        for prediction in vars(row).values():
            values = [p for _, p in prediction]
            assert sum(values) == pytest.approx(1, abs=0.01) and values == sorted(values)[::-1]
