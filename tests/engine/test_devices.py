"""The same numbers on every device that is there: the laws in short, and what draws and trains."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import build_tiny_model
from evidence_cases import pairs
from torch.testing import assert_close

from circuitprune.attribution import METHODS
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.evaluation import evaluate
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check
from circuitprune.metrics import logit_diff
from circuitprune.patching.effects import edge_effects
from circuitprune.training.gates import HardConcrete, TopK

DEVICES = [
    "cpu",
    *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else []),
]
BATCHES = [pairs([9, 9, 7, 6, 8], seed=0), pairs([6, 5, 6], seed=1, first=5)]
CLOSE = dict(rtol=1e-5, atol=1e-5)

on_every_device = pytest.mark.parametrize("device", DEVICES)


def references(family, device, ablation="patch") -> References:
    gated = GatedModel(deepcopy(build_tiny_model(family)).to(device))
    on_device = [batch.to(device) for batch in BATCHES]
    return References(gated, make_ablation(ablation, gated.ports, on_device))


@pytest.fixture(params=["gpt2", "gemma2"])
def family(request):
    return request.param


@on_every_device
@pytest.mark.parametrize("ablation", ["patch", "mean"])
def test_open_gates_are_the_model_and_closed_ones_the_corrupt_run(family, device, ablation):
    refs = references(family, device, ablation)
    self_check(refs.gated)
    for batch in BATCHES:  # as loaders give them: on the CPU
        run, there = refs.run(batch), batch.to(device)
        ones = torch.ones(refs.gated.graph.n_edges, dtype=torch.bool)
        clean, corrupt = (
            refs.gated.plain(tokens, there.mask, there.last)
            for tokens in (there.clean, there.corrupt)
        )
        assert run(ones).device.type == device
        assert_close(run(ones), clean, **CLOSE)
        if ablation == "patch":
            assert_close(run(~ones), corrupt, **CLOSE)


@on_every_device
@pytest.mark.parametrize("method", ["eap", "gate_ig", "relp", "random"])
def test_scores_are_those_of_the_cpu(family, device, method):
    here, there = (references(family, place) for place in ("cpu", device))
    score = METHODS[method].score
    expected = score(here, BATCHES, logit_diff, 2)
    found = score(there, [batch.to(device) for batch in BATCHES], logit_diff, 2)
    assert_close(found.cpu(), expected, **CLOSE)


@on_every_device
def test_exact_effects_and_evidence_are_those_of_the_cpu(family, device):
    here, there = (references(family, place) for place in ("cpu", device))
    edges = torch.arange(0, here.gated.graph.n_edges, 17)
    on_device = [batch.to(device) for batch in BATCHES]
    expected = edge_effects(here, BATCHES, logit_diff, edges)
    assert_close(edge_effects(there, on_device, logit_diff, edges).cpu(), expected, **CLOSE)
    mask = torch.rand(here.gated.graph.n_edges, generator=torch.Generator().manual_seed(0)) < 0.5
    one, other = (evaluate(refs, {"": mask}, BATCHES, logit_diff)[""] for refs in (here, there))
    assert one.n == other.n == 8
    for name in ("kl", "metric", "accuracy", "exact_match"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5, abs=1e-5)


@on_every_device
@pytest.mark.parametrize("learner", [TopK, HardConcrete])
def test_a_step_of_training_sees_the_same_gates_and_gradient(device, learner):
    """Noise is drawn on the CPU, so a run may go on elsewhere."""
    found = []
    for place in ("cpu", device):
        refs = references("gpt2", place)
        scores = torch.randn(refs.gated.graph.n_edges, generator=torch.Generator().manual_seed(4))
        learned = learner(scores.double()).to(place)
        gates = learned.sample(seed=1, step=2)
        logit_diff(refs.run(BATCHES[0])(gates), BATCHES[0].to(place)).mean().backward()
        (parameter,) = learned.parameters()
        found.append((gates.detach().cpu(), parameter.grad.cpu(), learned.ranking().cpu()))
    for one, other in zip(*found, strict=True):
        assert_close(other, one, **CLOSE)
    assert found[0][1].abs().max() > 0


@on_every_device
def test_a_batch_of_another_device_is_moved_and_the_cache_serves_both(device):
    refs = references("gpt2", device)
    refs.fill(BATCHES)
    ours = refs.full_logits(BATCHES[0].to(device))
    other = replace(BATCHES[0], index=BATCHES[0].index + 100)
    assert_close(refs.run(other).full, ours, rtol=0, atol=0)
