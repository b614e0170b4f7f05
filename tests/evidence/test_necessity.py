"""Necessity: the circuit ablated and all else kept, against whole gated runs."""

from dataclasses import replace

import pytest
import torch
from evidence_cases import in_a_file, tiny_case, written
from torch.testing import assert_close

from circuitprune.evidence.bootstrap import Bootstrap
from circuitprune.evidence.draws import matched
from circuitprune.evidence.necessity import necessity, verdict
from circuitprune.metrics import kl_divergence, logit_diff


@pytest.fixture(scope="module")
def case():
    return tiny_case()


@pytest.fixture(scope="module")
def found(case):
    return necessity(case)


def slow(case, mask):
    """KL and metric of each pair under a mask, by one whole gated run of each batch."""
    rows = []
    for batch in case.batches:
        gated, ablated = case.references.gated, case.references.ablated(batch)[:]
        logits = gated(mask.double(), batch.clean, batch.mask, ablated, batch.last)
        full = gated.plain(batch.clean, batch.mask, batch.last)
        rows.append(torch.stack([kl_divergence(full, logits), logit_diff(logits, batch)]))
    return torch.cat(rows, dim=1)


def test_the_complement_is_the_model_without_the_circuit(case, found):
    kl, metric = slow(case, ~case.mask)
    _, full = slow(case, case.full_mask)
    _, empty = slow(case, case.empty_mask)
    assert_close(found.complement.kl.value, kl.mean().item())
    assert_close(found.complement.metric.value, metric.mean().item())
    kept = (metric.mean() - empty.mean()) / (full.mean() - empty.mean())
    assert_close(found.lost.value, 1 - kept.item())
    draw = Bootstrap.draw(case.n_examples, case.n_bootstrap, case.generator("necessity"))
    interval = draw.faithfulness(metric, full, empty)
    assert_close((1 - interval.high, 1 - interval.low), (found.lost.low, found.lost.high))


def test_random_circuits_are_ablated_in_the_same_way(case, found):
    generator = case.generator("necessity/random")
    drawn = [~matched(case.graph, case.mask, generator) for _ in range(case.n_random)]
    assert_close(list(found.random_kl), [slow(case, mask)[0].mean().item() for mask in drawn])
    assert_close(found.kl, slow(case, ~case.mask)[0].mean().item())
    n_worse = sum(kl >= found.kl for kl in found.random_kl)
    assert found.p == (1 + n_worse) / (1 + case.n_random)


def test_without_all_edges_everything_is_lost_and_without_none_nothing(case):
    whole = necessity(replace(case, mask=case.full_mask, n_random=2))
    none = necessity(replace(case, mask=case.empty_mask, n_random=2))
    assert_close((whole.lost.value, none.lost.value), (1.0, 0.0), atol=1e-9, rtol=0)


def test_nineteen_random_circuits_cannot_reject_and_twenty_can():
    assert (verdict(1 / 20, 19), verdict(1 / 21, 20)) == ("undecided", "pass")


def test_the_verdict_is_by_the_random_circuits():
    assert [verdict(0.01, 100), verdict(0.2, 100), verdict(0.1, 5)] == [
        "pass",
        "fail",
        "undecided",
    ]


def test_it_is_a_record_with_a_sentence(found):
    assert written(found) == found and in_a_file(found)
    assert "loses this share of its metric" in found.sentence
