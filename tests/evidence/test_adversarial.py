"""The adversarial complement against all corners of a few gates, and whole gated runs."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from evidence_cases import in_a_file, tiny_case, written
from torch.testing import assert_close

from circuitprune.evidence.adversarial import N_RANDOM, adversarial, attack
from circuitprune.metrics import kl_divergence


@pytest.fixture(scope="module")
def case():
    return tiny_case(n_adversarial=6)


def slow_kl(case, gates) -> float:
    """Mean KL under gates, by whole gated runs."""
    rows = []
    for batch in case.batches:
        gated, ablated = case.references.gated, case.references.ablated(batch)[:]
        logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
        rows.append(kl_divergence(gated.plain(batch.clean, batch.mask, batch.last), logits))
    return torch.cat(rows).mean().item()


def test_the_kl_told_is_that_of_the_gates_found(case):
    found = attack(case.references, case.mask, case.batches, 6)
    assert_close(found.worst_kl, slow_kl(case, found.gates))
    assert_close(found.closed_kl, slow_kl(case, case.mask.double()))
    assert found.worst_kl > found.closed_kl and found.worst_kl >= max(found.path)
    assert bool((found.gates[case.mask] == 1).all())
    assert found.gates.min() >= 0 and found.gates.max() <= 1
    assert_close(found.path[0], slow_kl(case, torch.where(case.mask, 1.0, 0.5).double()))


def test_no_corner_of_a_few_free_gates_is_worse(case):
    effects = case.scores.abs().argsort(descending=True)[:5]
    mask = case.full_mask.clone()
    mask[effects] = False
    found = attack(case.references, mask, case.batches, 12)
    corners = []
    for corner in product((0.0, 1.0), repeat=5):
        gates = torch.ones(len(mask)).double()
        gates[effects] = torch.tensor(corner).double()
        corners.append(slow_kl(case, gates))
    assert max(corners) > 0 and found.worst_kl >= 0.98 * max(corners)


def test_nothing_is_free_in_the_whole_model(case):
    found = attack(case.references, case.full_mask, case.batches, 2)
    assert_close((found.closed_kl, found.worst_kl), (0.0, 0.0), atol=1e-9, rtol=0)


def test_more_steps_are_at_least_as_bad_and_none_leaves_all_closed(case):
    none = attack(case.references, case.mask, case.batches, 0)
    assert none.worst_kl == none.closed_kl and none.path == ()


def test_the_section_says_what_was_found(case):
    told = []
    watch = lambda what, unit: lambda done, total: told.append((done, total))  # noqa: E731
    found = adversarial(replace(case, watch=watch))
    alone = attack(case.references, case.mask, case.batches, case.n_adversarial)
    assert_close(found.circuit.worst_kl, alone.worst_kl)
    assert found.circuit.n_open == int((alone.gates[~case.mask] > 0.5).sum())
    assert len(found.random) == N_RANDOM and found.n_outside == int((~case.mask).sum())
    assert_close(found.empty_kl, slow_kl(case, case.empty_mask.double()))
    assert told[-1] == (4 * case.n_adversarial, 4 * case.n_adversarial)
    assert written(found) == found and in_a_file(found)
    assert "lower bound" in found.sentence
