"""Rival circuits: the path with the circuit held closed, and what is found along it."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from evidence_cases import in_a_file, tiny_case, written
from torch.testing import assert_close

from circuitprune.attribution import gate_ig
from circuitprune.circuits.selection import select
from circuitprune.evidence.bootstrap import Estimate
from circuitprune.evidence.rivals import PENALTIES, Rival, _reading, _scores, rivals
from circuitprune.metrics import kl_divergence


@pytest.fixture(scope="module")
def case():
    return tiny_case()


@pytest.fixture(scope="module")
def found(case):
    return rivals(case)


def mean_kl(case, gates) -> torch.Tensor:
    (batch,) = case.train_batches
    run = case.references.run(batch)
    return kl_divergence(run.full, run(gates)).mean()


def test_without_a_penalty_it_is_gate_ig(case):
    def metric(logits, batch):
        return -kl_divergence(case.references.full_logits(batch), logits)

    expected = gate_ig(case.references, case.train_batches, metric, 5)
    everywhere = torch.ones(case.graph.n_edges).double()
    assert_close(_scores(case, everywhere, case.train_batches), -expected)


def test_scores_sum_to_the_fall_of_the_kl_along_the_path(case, monkeypatch):
    module = import_module("circuitprune.evidence.rivals")  # the package has the function
    monkeypatch.setattr(module, "STEPS", 40)
    reach = 1 - 0.5 * case.mask.double()
    fall = mean_kl(case, torch.zeros_like(reach)) - mean_kl(case, reach)
    assert_close(_scores(case, reach, case.train_batches).sum(), fall, rtol=0.02, atol=1e-4)


def test_a_closed_edge_has_no_score_and_more_penalty_shares_less(case, found):
    reach = 1 - case.mask.double()
    assert bool((_scores(case, reach, case.train_batches)[case.mask] == 0).all())
    shared = [rival.n_shared for rival in found.rivals]
    assert shared == sorted(shared, reverse=True) and shared[0] > shared[-1]


def test_rivals_are_those_of_the_scores_measured_on_the_held_out_pairs(case, found):
    for rival, penalty in zip(found.rivals, PENALTIES, strict=True):
        reach = 1 - penalty * case.mask.double()
        scores = _scores(case, reach, case.train_batches).abs()
        mask = select(case.graph, scores, int(case.mask.sum()))
        rows = []
        for batch in case.batches:
            run = case.references.run(batch)
            rows.append(kl_divergence(run.full, run(mask.double())))
        assert_close(rival.kl.value, torch.cat(rows).mean().item())
        assert rival.n_shared == int((mask & case.mask).sum())
        assert rival.jaccard == rival.n_shared / int((mask | case.mask).sum())
    assert written(found) == found and in_a_file(found)
    assert found.sentence.endswith(_reading(found.rivals, found.empty_kl))


@pytest.mark.parametrize(
    ("free", "apart", "words"),
    [
        ((0.16, 0.20), (0.19, 0.25), "more than one way"),
        ((0.16, 0.20), (0.10, 0.12), "more than one way"),
        ((0.16, 0.20), (0.57, 0.65), "no way around the circuit's edges"),
        ((0.16, 0.20), (0.30, 0.40), "other edges do part of the task"),
        ((0.56, 0.60), (0.55, 0.61), "says nothing"),
    ],
)
def test_the_sentence_says_what_was_found(free, apart, words):
    kls = [Estimate(sum(ends) / 2, *ends) for ends in (free, apart)]
    rows = [Rival(0.0, 10, 9, 0.8, kls[0]), Rival(1.0, 10, 5, 0.3, kls[1])]
    assert words in _reading(rows, 0.6)
    assert "no other way" in _reading([rows[0], replace(rows[1], n_shared=6)], 0.6)
