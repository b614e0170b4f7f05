"""Uniform gradient sampling: its gates, what it learns, and its limits."""

from copy import deepcopy

import pytest
import torch
from conftest import shapes_unchecked
from torch.testing import assert_close

from attribution.test_attribution import by_logit_diff, minus_kl, pairs, patched
from circuitprune.attribution import METHODS
from circuitprune.attribution.ugs import sampled_gates, ugs
from circuitprune.data.pairs import Batch
from circuitprune.errors import MetricError
from circuitprune.metrics import kl_divergence


@pytest.fixture(scope="module")
def learned(tiny_model):
    """A model whose head a1.h2 writes nothing, and what is learned on it."""
    model = deepcopy(tiny_model("gpt2"))
    model.transformer.h[1].attn.c_proj.weight.data[16:24] = 0
    references = patched(model)
    with shapes_unchecked():  # a hundred times the same calls
        return references, ugs(references, [pairs()], minus_kl(references))


def test_gates_are_open_with_probability_theta():
    theta = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).repeat_interleave(20_000)
    gates = sampled_gates(theta, torch.Generator().manual_seed(0)).view(3, -1)
    assert_close(gates.mean(1), torch.tensor([0.1, 0.5, 0.9]).double(), rtol=0, atol=0.01)
    assert gates.min() == 0 and gates.max() == 1
    fractional = ((gates > 0) & (gates < 1)).double().mean(1)
    assert_close(fractional, torch.tensor([0.09, 0.25, 0.09]).double(), rtol=0, atol=0.01)


def test_the_gradient_of_the_mean_gate_is_one():
    theta = torch.full((40_000,), 0.3, dtype=torch.float64, requires_grad=True)
    gates = sampled_gates(theta, torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad(gates.sum(), theta)
    assert slope.mean().item() == pytest.approx(1, abs=0.03)
    assert set(slope.round(decimals=6).tolist()) == {0.0, round(1 / 0.21, 6)}


def test_useless_edges_are_driven_closed_and_the_rest_is_not(learned):
    references, theta = learned
    graph = references.gated.graph
    useless = graph.edge_writer == graph.writer_index("a1.h2")
    assert theta[useless].max() < 0.05
    assert theta.max() > 0.9 and theta.min() >= 0 and theta.max() <= 1
    assert (theta > 0.5).sum() > 10


@pytest.mark.usefixtures("untyped")
def test_what_it_keeps_is_closer_to_the_model_than_random_circuits(learned):
    references, theta = learned
    n = theta.numel() // 3

    def distance(scores):
        batch, gates = pairs(), torch.zeros_like(scores)
        gates[scores.argsort(descending=True)[:n]] = 1
        logits = references.gated(
            gates, batch.clean, batch.mask, references.ablated(batch), batch.last
        )
        return kl_divergence(references.full_logits(batch), logits).mean()

    generator = torch.Generator().manual_seed(3)
    others = [torch.rand(len(theta), generator=generator, dtype=torch.float64) for _ in range(20)]
    assert distance(theta) < min(map(distance, others)) / 2


def test_the_open_edges_alone_do_better_than_none_and_their_rest_does_worse(learned):
    """What the metric asks for is kept, not what works against it."""
    references, theta = learned
    run, metric = references.run(pairs()), minus_kl(references)
    kept = (theta > 0.5).cpu()
    worth = {
        name: metric(run(mask), pairs()).mean().item()
        for name, mask in (("kept", kept), ("none", kept & ~kept), ("rest", ~kept))
    }
    assert 0.05 < kept.double().mean() < 0.5
    assert 0 > worth["kept"] > 0.75 * worth["none"] and worth["kept"] > worth["rest"]


@pytest.mark.usefixtures("untyped")
def test_it_is_deterministic_and_uses_each_step(learned):
    references, theta = learned
    few = [ugs(references, [pairs()], minus_kl(references), steps=1) for _ in range(2)]
    assert_close(few[0], few[1], rtol=0, atol=0)
    assert (few[0] - theta).abs().max() > 0.1


def test_pairs_without_a_difference_teach_nothing(tiny_model):
    batch = Batch(**{**vars(pairs()), "corrupt": pairs().clean})
    with pytest.raises(MetricError, match="ugs is undefined"):
        ugs(patched(tiny_model("gpt2")), [batch], by_logit_diff)


def test_ugs_is_a_method():
    assert METHODS["ugs"].score is ugs
