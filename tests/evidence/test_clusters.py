"""Clusters of pairs: planted mechanisms come back, and one mechanism is called one."""

from dataclasses import replace
from importlib import import_module
from math import sqrt

import pytest
import torch
from evidence_cases import in_a_file, pairs, tiny_case, written
from torch.testing import assert_close

from circuitprune.attribution import gate_ig
from circuitprune.circuits.selection import select
from circuitprune.data.batches import Batch
from circuitprune.evidence.clusters import _scores, clusters
from circuitprune.evidence.grouping import centres_of, directions, k_means, silhouette
from circuitprune.metrics import kl_divergence

LENGTH = 6


def planted(kinds: list[str], seed: int, first: int = 0) -> Batch:
    """Pairs that differ in one token: the `last`, which MLP 0 works on, or the `first`."""
    batch = pairs([LENGTH] * len(kinds), seed, first)
    corrupt = batch.clean.clone()
    for row, kind in enumerate(kinds):
        place = {"last": LENGTH - 1, "first": 0}[kind]
        corrupt[row, place] = (corrupt[row, place] + 7) % 40
    return replace(batch, corrupt=corrupt)


def case_of(kinds: list[str], **changes):
    """A circuit of 6 edges in a model of two mechanisms.

    MLP 0 and head a1.h0 alone are left with weights to write with: what differs at the first
    position comes to the answer by the head, what differs at the last by the MLP and directly.
    """
    case = tiny_case(**changes)
    for layer, block in enumerate(case.references.gated.model.transformer.h):
        heads, mlp = block.attn.c_proj.weight.data, block.mlp.c_proj.weight.data
        of_first = heads[: len(heads) // case.graph.n_heads].clone()
        heads *= 0.01
        if layer == 1:
            heads[: len(of_first)] = 3 * of_first
            mlp *= 0.01
    case = replace(case, mask=select(case.graph, case.ranking, 6))
    train, held_out = planted(kinds, 11, first=200), planted(kinds, 12)
    return replace(case, batches=[held_out], train_batches=[train])


@pytest.fixture(autouse=True, scope="module")
def two_steps():
    """Of five: the tests are of what is done with scores."""
    module = import_module("circuitprune.evidence.clusters")  # the package has the function
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEPS", 2)
        yield


@pytest.fixture(scope="module")
def two():
    kinds = ["last", "first", "first", "last", "first", "last", "first", "last"]
    case = case_of(kinds)
    return kinds, case, clusters(case)


def test_a_gain_that_is_sure_and_small_is_no_second_mechanism(two, monkeypatch):
    """A share of the common circuit's KL that no gain can be: then one circuit is enough."""
    monkeypatch.setattr(import_module("circuitprune.evidence.clusters"), "PART", 1.0)
    found = clusters(two[1])
    assert found.gain.low > 0 and found.one_is_enough


def test_two_planted_mechanisms_come_back_with_a_circuit_each(two):
    kinds, _, found = two
    assert len(found.clusters) == 2 and found.silhouettes["2"] == max(found.silhouettes.values())
    for cluster, kind in zip(found.clusters, ("last", "first"), strict=True):
        assert sorted(cluster.examples) == [i for i, own in enumerate(kinds) if own == kind]
        assert cluster.own_kl <= cluster.common_kl and cluster.own_kl < 0.2 * cluster.other_kl
        assert cluster.n_train_pairs == cluster.n_pairs == len(kinds) // 2
    assert found.clusters[1].own_kl < 0.2 * found.clusters[1].common_kl
    assert found.clusters[1].n_shared < found.clusters[0].n_shared == found.n_edges == 6
    assert not found.one_is_enough and found.gain.low > 0
    assert "does not describe the data" in found.sentence
    assert written(found) == found and in_a_file(found)


def test_numbers_are_those_of_the_circuits_run_by_themselves(two):
    """Circuits cut from mean magnitudes of the pairs of a kind, each run on its own pairs."""
    kinds, case, found = two
    (train,), (held_out,) = case.train_batches, case.batches
    scores = _scores(case, [train], "")
    run, kl = case.references.run(held_out), {}
    for name in ("last", "first", "common"):
        here = torch.tensor([name in (kind, "common") for kind in kinds])
        mask = select(case.graph, scores[here].mean(0), int(case.mask.sum()))
        kl[name] = kl_divergence(run.full, run(mask.double()))
    own = torch.stack([kl[kind][i] for i, kind in enumerate(kinds)])
    assert_close(found.own_kl.value, own.mean().item())
    assert_close(found.common_kl.value, kl["common"].mean().item())
    assert_close(found.gain.value, (kl["common"] - own).mean().item())


def test_pairs_of_one_kind_have_one_circuit():
    found = clusters(case_of(["first"] * 8))
    assert found.one_is_enough and "as well as several" in found.sentence


def test_too_few_pairs_are_not_told_apart():
    found = clusters(case_of(["first", "last"] * 2))
    assert len(found.clusters) == 1 and found.silhouettes == {}
    assert found.gain.value == 0 and "Too few" in found.sentence


def test_a_pairs_scores_are_gate_ig_of_its_kl(two):
    _, case, _ = two
    (train,) = case.train_batches

    def minus_kl(logits, batch):
        return -kl_divergence(case.references.full_logits(batch), logits)

    alone = Batch(**{name: values[3:4] for name, values in vars(train).items()})
    expected = gate_ig(case.references, [alone], minus_kl, 2).abs()
    assert_close(_scores(case, [train], "")[3], expected)


# ------------------------------------------------------------------ grouping, by hand


def test_directions_leave_lengths_out_and_zeros_alone():
    points = directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64))
    assert points.tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_silhouette_by_hand():
    """Two at 0 degrees, one at 90 and one at 45; distances are 1 minus cosines."""
    s = 1 / sqrt(2)
    points = torch.tensor([[1, 0], [1, 0], [0, 1], [s, s]], dtype=torch.float64)
    a, b = 1 - s, 1.0
    # the first two are one point; the last is as far from them, a, as from the third of its group
    expected = [1.0, 1.0, (b - a) / b, (a - a) / a]
    assert_close(silhouette(points, torch.tensor([0, 0, 1, 1])), sum(expected) / 4)
    assert silhouette(points, torch.tensor([0, 0, 1, 2])) == pytest.approx((1 + 1) / 4)


def test_k_means_finds_groups_and_numbers_them_by_their_first_member():
    generator = torch.Generator().manual_seed(0)
    centres = directions(torch.randn(3, 20, generator=generator).double())
    of = torch.tensor([2, 0, 0, 1, 2, 1, 1, 0, 2])
    points = centres[of] + 0.05 * torch.randn(9, 20, generator=generator).double()
    labels = k_means(directions(points), 3, generator)
    assert labels.tolist() == [0, 1, 1, 2, 0, 2, 2, 1, 0]
    kept = centres_of(directions(points), labels.clamp_max(1), centres)
    assert_close(kept[2], centres[2])  # a group without members keeps its centre
