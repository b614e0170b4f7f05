"""Scores of parts at spans: against hooks, token by token, and against the parts' own scores."""

from typing import NamedTuple

import pytest
import reference_parts
import torch
from engine.test_feature_sites import F, dictionary, place
from family_configs import build
from reference import plain_logits
from torch import Tensor
from torch.testing import assert_close

from attribution.test_part_edges import by_hooks, double
from circuitprune.attribution.methods import METHODS
from circuitprune.attribution.part_edges import part_edges
from circuitprune.attribution.parts import eap
from circuitprune.attribution.per_writer_ig import per_writer_ig
from circuitprune.circuits.span_graph import Span
from circuitprune.data.batches import Dealt
from circuitprune.engine.gated_part_spans import GatedPartSpans
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.references import References
from circuitprune.evidence.minimality import removals
from circuitprune.metrics import logit_diff
from circuitprune.patching.effects import edge_effects, node_effects

NAMES = ["input", "a0.h1", "a1.h2", "m0.n3", "m1.n0", "m2.n5"]
CLOSE = dict(rtol=1e-5, atol=1e-8)


class Case(NamedTuple):
    """Each token a span of its own."""

    whole: References
    spanned: References
    batch: Dealt

    @property
    def n(self) -> int:
        return self.batch.clean.shape[1]

    def of(self, scores: Tensor, name: str) -> Tensor:
        """Scores of a part at each token."""
        first = self.spanned.gated.graph.edge_index(f"{name}@0")
        return scores[first : first + self.n].double()


def made(gated: GatedParts, pairs) -> Case:
    one, n = reference_parts.as_batch(pairs), pairs.clean.shape[1]
    batch = Dealt(**vars(one), dealt=torch.arange(n).expand_as(pairs.clean))
    free = [Span(str(i), tuple(range(n)), True, True) for i in range(n)]
    ends = References(gated, "patch"), References(GatedPartSpans(gated, free), "patch")
    return Case(*ends, batch)


@pytest.fixture(scope="module", params=["gpt2", "gemma2"])
def case(request: pytest.FixtureRequest, padded_batch):
    """Neurons of a model, and one batch."""
    gated = GatedParts(build(request.param), "neuron")
    yield made(gated, padded_batch)
    gated.release()


def test_eap_at_a_token_is_the_gradient_by_hooks(case: Case) -> None:
    scores = eap(case.spanned, [case.batch], logit_diff)
    slow = reference_parts.eap_by_token(case.spanned.gated.model, case.batch, NAMES, logit_diff)
    for name in NAMES:
        assert_close(case.of(scores, name), slow[name].sum(0) / len(case.batch), **CLOSE)


@pytest.mark.parametrize(
    "name", ["eap", "eap_ig_inputs", "eap_ig_inputs_midpoint", "gate_ig", "per_writer_ig"]
)
def test_what_a_part_scores_at_all_spans_is_its_score(case: Case, name: str) -> None:
    """Of integrals too: all spans of what is moved move together."""
    method = METHODS[name].score_parts
    plain, found = (method(r, [case.batch], logit_diff, 2) for r in (case.whole, case.spanned))
    grid = found.view(-1, case.n)
    assert_close(grid.sum(dim=1), plain, rtol=1e-6, atol=1e-9)
    assert grid.std(dim=1).max() > 1e-4, "all tokens score alike"


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_is_hooks_at_one_token(case: Case, direction: str) -> None:
    batch, model = case.batch, case.spanned.gated.model
    ends = [batch.clean, batch.corrupt][:: 1 if direction == "noising" else -1]
    rows = torch.arange(len(batch))

    def worth(shares: dict[str, Tensor]) -> Tensor:
        logits = reference_parts.patched(model, *ends, batch.mask, shares)
        return logit_diff(logits[rows, batch.last], batch)

    names = [f"{name}@{token}" for name in NAMES for token in (2, 5)]
    expected = []
    for name in names:
        part, _, token = name.partition("@")
        elsewhere = (batch.dealt != int(token)).double().unsqueeze(-1)
        expected.append((worth({part: elsewhere}) - worth({})).mean())
    found = edge_effects(case.spanned, [batch], logit_diff, names, direction)
    assert_close(found, torch.stack(expected), rtol=1e-6, atol=1e-9)
    assert found.abs().max() > 1e-3
    few = edge_effects(case.spanned, [batch], logit_diff, names, direction, tokens_per_pass=1)
    assert_close(few, found, rtol=1e-6, atol=1e-9)
    nodes = [node_effects(r, [batch], logit_diff, ["m1"]) for r in (case.whole, case.spanned)]
    assert_close(*nodes)


def test_removals_are_runs_without_each(case: Case) -> None:
    graph = case.spanned.gated.graph
    mask = graph.mask_of([f"{name}@{token}" for name in NAMES for token in (1, 3, 5, 6)])
    found = removals(case.spanned, mask, [case.batch], logit_diff)
    run = case.spanned.run(case.batch)
    base = logit_diff(run(mask), case.batch)
    for row, gate in enumerate(found.edges.tolist()):
        smaller = mask.clone()
        smaller[gate] = False
        moved = (logit_diff(run(smaller), case.batch) - base).double()
        assert_close(found.metric[row], moved, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def features(padded_batch):
    """Features of two MLPs, and one batch."""
    dictionaries = [dictionary(site) for site in ("m0", "m2")]
    gated = GatedParts(build("gpt2"), "feature", dictionaries=dictionaries)
    yield made(gated, padded_batch)
    gated.release()


def integrated(model, batch, site: str, steps: int) -> tuple[Tensor, Tensor]:
    """Effects of Marks et al. with positions kept, by hooks: features `[pos, F]`, error `[pos]`.

    The place alone moves from clean to ablated, by the midpoint rule.
    """
    one, ends = double(site), []
    for tokens in (batch.clean, batch.corrupt):
        handle = place(model, site, lambda x: ends.append(x.detach()) or x)
        plain_logits(model, tokens, batch.mask)
        handle.remove()
    clean, there = ends
    slope = torch.zeros_like(clean)
    for k in range(steps):
        leaf = (clean + (k + 0.5) / steps * (there - clean)).requires_grad_()
        handle = place(model, site, lambda _, leaf=leaf: leaf)
        with torch.enable_grad():
            logits = plain_logits(model, batch.clean, batch.mask)
            value = logit_diff(logits[torch.arange(len(batch)), batch.last], batch).sum()
            slope += torch.autograd.grad(value, leaf)[0] / steps
        handle.remove()
    change = one.encode(there) - one.encode(clean)
    error = (there - one.decode(one.encode(there))) - (clean - one.decode(one.encode(clean)))
    by_feature = (change * (slope @ one.w_dec.T)).sum(0) / len(batch)
    return by_feature, (error * slope).sum((0, 2)) / len(batch)


@pytest.mark.parametrize("site", ["m0", "m2"])
def test_effects_of_features_at_a_token_are_those_of_hooks(features: Case, site: str) -> None:
    """Node effects of Marks et al. 2024, aggregation `none`."""
    scores = per_writer_ig(features.spanned, [features.batch], logit_diff, steps=3)
    slow, error = integrated(features.spanned.gated.model, features.batch, site, 3)
    for j in range(F):
        assert_close(features.of(scores, f"{site}.f{j}"), slow[:, j], rtol=1e-5, atol=1e-8)
    assert_close(features.of(scores, f"{site}.error"), error, rtol=1e-5, atol=1e-8)
    assert slow.count_nonzero() > 20


def test_ways_out_of_a_part_at_a_span_sum_to_its_eap(features: Case) -> None:
    """Into parts at all spans; and what is summed over both spans is the edge without them."""
    batches, n, graph = [features.batch], features.n, features.whole.gated.graph
    into = [*range(graph.edge_index("m2.f0"), graph.n_edges)]
    own = [n * part + token for part in into for token in range(n)]
    found = part_edges(features.spanned, batches, logit_diff, own, steps=1)
    whole = part_edges(features.whole, batches, logit_diff, into, steps=1)
    assert found.readers[0] == "m2.f0@0"
    summed = found.values[:-1].unflatten(0, (-1, n)).unflatten(-1, (-1, n)).sum((1, 3))
    assert_close(summed, whole.values[:-1], rtol=1e-6, atol=1e-10)
    last = graph.edge_index("a2.h0")
    every = part_edges(features.spanned, batches, logit_diff, [*range(n * last, n * into[0])], 1)
    ways = found.values.sum(0) + every.values[:-1].sum(0)
    behind = slice(n * last, n * graph.n_edges)
    scores = eap(features.spanned, batches, logit_diff)
    assert_close(ways[behind], scores[behind], rtol=1e-6, atol=1e-9)
    assert scores[behind].abs().max() > 1e-4


@pytest.mark.parametrize("token", [6, 8])
def test_an_edge_between_spans_is_the_one_way_that_hooks_leave(features: Case, token: int) -> None:
    batch, graph = features.batch, features.spanned.gated.graph
    into = [f"m2.f{j}@{token}" for j in range(F)]
    found = part_edges(features.spanned, [batch], logit_diff, into, steps=2)
    with torch.enable_grad():
        slow = by_hooks(features.spanned.gated.model, batch, 2, at=(batch.dealt == token).double())
    first = graph.edge_index("m0.f0@0")
    own = found.values[:-1, first : first + F * features.n].unflatten(-1, (F, features.n))
    assert_close(own.transpose(1, 2), slow, rtol=1e-6, atol=1e-10)
    assert slow[:, token].count_nonzero() > 10
