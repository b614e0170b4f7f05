"""Scores of parts: every method that has any, against hooks, exact patching and each other."""

import pytest
import reference_parts
import torch
from family_configs import build
from torch.testing import assert_close

from circuitprune.attribution.gate_ig import gate_ig
from circuitprune.attribution.methods import METHODS, names_with
from circuitprune.attribution.parts import eap, eap_ig_inputs
from circuitprune.attribution.per_writer_ig import per_writer_ig
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError
from circuitprune.evidence.minimality import removals
from circuitprune.metrics import logit_diff
from circuitprune.patching.effects import edge_effects, node_effects

NAMES = ["input", "a0.h1", "a1.h2", "m0.n3", "m1.n0", "m2.n5"]


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2"])
def made(request: pytest.FixtureRequest, padded_batch):
    """Neurons of a model, and one batch."""
    gated = GatedParts(build(request.param), "neuron")
    yield References(gated, "patch"), reference_parts.as_batch(padded_batch)
    gated.release()


def of(references: References, scores: torch.Tensor) -> torch.Tensor:
    index = references.gated.graph.edge_index
    return torch.stack([scores[index(name)] for name in NAMES]).double()


def test_eap_is_the_gradient_by_hooks(made) -> None:
    references, batch = made
    slow = reference_parts.eap(references.gated.model, batch, NAMES, logit_diff)
    expected = torch.stack([slow[name] for name in NAMES]) / len(batch)
    assert_close(
        of(references, eap(references, [batch], logit_diff)), expected, rtol=1e-5, atol=1e-8
    )


def test_eap_is_minus_the_gradient_of_the_gates(made) -> None:
    references, batch = made
    gates = torch.ones(references.gated.graph.n_edges, dtype=torch.float64, requires_grad=True)
    value = logit_diff(references.run(batch)(gates), batch).mean()
    (gradient,) = torch.autograd.grad(value, gates)
    assert_close(eap(references, [batch], logit_diff), -gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_is_hooks(made, direction: str) -> None:
    references, batch = made
    model = references.gated.model
    clean, corrupt = batch.clean, batch.corrupt
    if direction == "denoising":
        clean, corrupt = corrupt, clean
    rows = torch.arange(len(batch))

    def worth(shares: dict[str, float]) -> torch.Tensor:
        logits = reference_parts.patched(model, clean, corrupt, batch.mask, shares)
        return logit_diff(logits[rows, batch.last], batch)

    expected = torch.stack([(worth({name: 0.0}) - worth({})).mean() for name in NAMES])
    found = edge_effects(references, [batch], logit_diff, NAMES, direction)
    assert_close(found, expected, rtol=1e-6, atol=1e-9)
    few = edge_effects(references, [batch], logit_diff, NAMES, direction, tokens_per_pass=1)
    assert_close(few, found, rtol=1e-6, atol=1e-9)


def test_a_node_is_all_of_its_parts(made) -> None:
    references, batch = made
    graph = references.gated.graph
    gates = (graph.edge_writer != graph.writer_index("m1")).double()
    run = references.run(batch)
    change = logit_diff(run(gates), batch) - logit_diff(run.full, batch)
    found = node_effects(references, [batch], logit_diff, ["m1"])
    assert_close(found[0], change.mean(), rtol=1e-6, atol=1e-9)


def test_integrated_gates_sum_to_what_all_do(made) -> None:
    references, batch = made
    total = gate_ig(references, [batch], logit_diff, steps=40).sum()
    run = references.run(batch)
    ends = [
        logit_diff(run(torch.full_like(total, v).expand(references.gated.graph.n_edges)), batch)
        for v in (0.0, 1.0)
    ]
    assert_close(total, (ends[0] - ends[1]).mean(), rtol=2e-2, atol=2e-3)


def test_integrated_at_a_node_sums_to_its_effect(made) -> None:
    """The sum over the neurons of an MLP, which move together, is what patching all of it does."""
    references, batch = made
    graph = references.gated.graph
    scores = per_writer_ig(references, [batch], logit_diff, steps=20)
    own = scores[graph.edge_writer == graph.writer_index("m1")].sum()
    effect = node_effects(references, [batch], logit_diff, ["m1"])[0]
    assert_close(own, effect, rtol=2e-2, atol=2e-3)


def test_one_right_step_of_inputs_is_eap(made) -> None:
    references, batch = made
    right = eap_ig_inputs(references, [batch], logit_diff, steps=1, rule="right")
    assert_close(right, eap(references, [batch], logit_diff), rtol=1e-6, atol=1e-9)


def test_removals_are_runs_without_each(made) -> None:
    references, batch = made
    graph = references.gated.graph
    mask = graph.mask_of([*NAMES, "a2.h0", "a2.h1", "m2.n1"])
    found = removals(references, mask, [batch], logit_diff)
    run = references.run(batch)
    base = logit_diff(run(mask), batch)
    for row, part in enumerate(found.edges.tolist()):
        smaller = mask.clone()
        smaller[part] = False
        assert_close(
            found.metric[row],
            (logit_diff(run(smaller), batch) - base).double(),
            rtol=1e-6,
            atol=1e-9,
        )


def test_methods_of_edges_alone_say_so() -> None:
    assert {"eap", "gate_ig", "exact", "per_writer_ig"} <= {*names_with("parts")}
    with pytest.raises(ConfigError, match="edges alone; parts are scored by eap"):
        _ = METHODS["relp"].score_parts
