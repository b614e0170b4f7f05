"""Scores of edges at spans: gradients of their gates, parts of whole edges' scores, exact runs."""

from typing import NamedTuple

import pytest
import torch
from conftest import random_batch
from family_configs import build
from torch import Tensor
from torch.testing import assert_close

from circuitprune.attribution import METHODS
from circuitprune.circuits.span_graph import Span, grid_of, spans_of
from circuitprune.data.batches import Dealt
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_spans import GatedSpans
from circuitprune.engine.references import References
from circuitprune.errors import GraphError
from circuitprune.metrics import logit_diff
from circuitprune.patching import edge_effects, node_effects
from circuitprune.patching.paths import effect_of, path_effects

NAMES = ("head", "middle", "end")
FREE = tuple(Span(name, (0, 1, 2), True, True) for name in NAMES)
CLOSE = dict(rtol=1e-5, atol=1e-7)
"""RMSNorms of Hugging Face's round to float32."""
WHOLE = ("eap", "eap_ig_inputs", "eap_ig_activations", "conductance", "mc_ig", "clean_corrupted")
GATES = ("gate_ig", "relp", "gim")


class Case(NamedTuple):
    gated: GatedModel
    batch: Dealt

    def free(self) -> References:
        return References(GatedSpans(self.gated, FREE), "patch")

    def known(self) -> References:
        b = self.batch
        columns = [one.tolist() for one in (b.dealt, b.clean, b.corrupt, b.last)]
        rows = [(d[: n + 1], c[: n + 1], k[: n + 1]) for d, c, k, n in zip(*columns, strict=True)]
        return References(GatedSpans(self.gated, spans_of(NAMES, rows, False)), "patch")


@pytest.fixture(params=["llama", "gemma2"])
def case(request: pytest.FixtureRequest):
    gated = GatedModel(build(request.param))
    pairs = random_batch([7, 5], seed=3)
    pairs.corrupt[:, :2] = pairs.clean[:, :2]
    places = torch.arange(7).expand(2, 7)
    dealt = 1 + (places == pairs.last[:, None]).long() - (places < 3).long()
    one = torch.ones(2, 1, dtype=torch.long)
    yield Case(gated, Dealt(torch.arange(2), *pairs, 5 * one, 6 * one, dealt=dealt))
    gated.release()


def score(name: str, references: References, batch: Dealt) -> Tensor:
    return METHODS[name].score(references, [batch], logit_diff, 2)


def test_eap_is_the_gradient_of_the_gates(case: Case) -> None:
    references = case.known()
    gates = torch.ones(references.gated.graph.n_edges, dtype=torch.float64, requires_grad=True)
    worth = logit_diff(references.run(case.batch)(gates), case.batch).mean()
    (slopes,) = torch.autograd.grad(worth, gates)
    assert_close(score("eap", references, case.batch), -slopes, **CLOSE)
    assert slopes.abs().max() > 1e-3


@pytest.mark.parametrize("name", [*WHOLE, *GATES])
def test_what_an_edge_scores_at_all_spans_is_its_score(case: Case, name: str, untyped) -> None:
    if name in GATES[1:] and case.gated.ports.post_norms:
        pytest.skip("rules of llama are enough")
    plain = score(name, References(case.gated, "patch"), case.batch)
    found = score(name, case.free(), case.batch).view(-1, 3)
    assert_close(found.sum(dim=1), plain, **CLOSE)
    assert found.std(dim=1).max() > 1e-4, "all spans score alike"


def test_exact_effects_are_runs_without_one_gate(case: Case, untyped) -> None:
    references = case.known()
    graph, run = references.gated.graph, references.run(case.batch)
    edges = torch.arange(0, graph.n_edges, 5)
    found = edge_effects(references, [case.batch], logit_diff, edges)
    open_ = torch.ones(graph.n_edges, dtype=torch.float64)
    before = logit_diff(run(open_), case.batch)
    for edge, effect in zip(edges.tolist(), found.tolist(), strict=True):
        gates = open_.clone()
        gates[edge] = 0
        after = logit_diff(run(gates), case.batch)
        assert (after - before).mean().item() == pytest.approx(effect, rel=1e-4, abs=1e-7)
    assert found.abs().max() > 1e-3
    assert_close(score("exact", references, case.batch)[edges], found, **CLOSE)


def test_restored_edges_into_the_logits_are_whole_ones(case: Case, untyped) -> None:
    """They have gates at the end alone; elsewhere, what is restored is the clean run's."""
    references, whole = case.known(), References(case.gated, "patch")
    graph = references.gated.graph
    found, plain = (
        edge_effects(one, [case.batch], logit_diff, None, "denoising")
        for one in (references, whole)
    )
    into = graph.base.logits_block.edges
    assert_close(grid_of(graph, found, 0.0)[into].sum(dim=1), plain[into], **CLOSE)
    assert found.abs().max() > 1e-3


def test_effects_by_name(case: Case) -> None:
    references, whole, batches = case.known(), References(case.gated, "patch"), [case.batch]
    name = references.gated.graph.edges[7]
    effect = edge_effects(references, batches, logit_diff, [name]).item()
    assert effect_of(references, batches, logit_diff, name) == effect
    nodes = [node_effects(one, batches, logit_diff, ["m0", "a1.h0"]) for one in (references, whole)]
    assert_close(*nodes)
    with pytest.raises(GraphError, match="paths lead along whole edges"):
        path_effects(references, batches, logit_diff, ["m0->logits"])
