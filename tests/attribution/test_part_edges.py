"""Edges between parts: the chain rule, and hooks that let one way alone be open."""

from dataclasses import replace

import pytest
import torch
from engine.test_feature_sites import F, dictionary, place
from family_configs import build
from reference import plain_logits
from reference_parts import as_batch, layers_of
from torch import Tensor
from torch.testing import assert_close

from circuitprune import Study
from circuitprune.attribution.part_edges import part_edges
from circuitprune.attribution.parts import eap
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, GraphError
from circuitprune.metrics import logit_diff
from circuitprune.models.dictionary import Dictionary


def features(family: str, *sites: str) -> References:
    gated = GatedParts(build(family), "feature", dictionaries=[dictionary(site) for site in sites])
    return References(gated, "patch")


@pytest.mark.parametrize(
    ("family", "sites"),
    [("gpt2", ("m1", "resid1", "a2", "input")), ("gemma2", ("m1", "a2")), ("llama", ("resid0",))],
)
def test_all_ways_out_of_a_part_sum_to_its_eap(padded_batch, family, sites):
    references, batch = features(family, *sites), as_batch(padded_batch)
    graph = references.gated.graph
    found = part_edges(references, [batch], logit_diff, graph.edges, steps=1)
    scores = eap(references, [batch], logit_diff)
    assert found.values.shape == (graph.n_edges + 1, graph.n_edges)
    assert_close(found.values.sum(0), scores, rtol=1e-6, atol=1e-9)
    assert scores.abs().max() > 1e-3
    backwards = found.values[:-1].tril(-1).count_nonzero()
    assert backwards and not found.values[:-1].triu(0).any()  # rows are readers: from before alone
    references.gated.release()


def double(site: str) -> Dictionary:
    one = dictionary(site)
    return Dictionary(
        **{k: v.double() if isinstance(v, Tensor) else v for k, v in vars(one).items()}
    )


def seen_at(model, batch, tokens: Tensor, site: str) -> Tensor:
    seen = []
    handle = place(model, site, lambda x: seen.append(x.detach()) or x)
    plain_logits(model, tokens, batch.mask)
    handle.remove()
    return seen[0]


def by_hooks(model, batch, steps: int, at: Tensor | float = 1.0) -> Tensor:
    """`[feature of m2, token, feature of m0]`: heads and MLP of layer 1, heads of layer 2 given.

    Into what m2 has where `at` is 1, from what m0 has at each token.
    """
    low, high = double("m0"), double("m2")
    clean, corrupt = (seen_at(model, batch, t, "m2") for t in (batch.clean, batch.corrupt))
    slope = torch.zeros_like(clean)
    for k in range(steps):
        leaf = (clean + k / steps * (corrupt - clean)).requires_grad_()
        handle = place(model, "m2", lambda _, leaf=leaf: leaf)
        logits = plain_logits(model, batch.clean, batch.mask)
        value = logit_diff(logits[torch.arange(len(batch)), batch.last], batch).sum()
        slope += torch.autograd.grad(value, leaf)[0] / steps
        handle.remove()
    written, there = (seen_at(model, batch, t, "m0") for t in (batch.clean, batch.corrupt))
    leaf, kept = written.clone().requires_grad_(), {}
    layers = layers_of(model)
    handles = [
        place(model, "m0", lambda _: leaf),
        place(model, "m2", lambda x: kept.update(x=x) or x),
        *(
            module.register_forward_hook(lambda _, args, out: out.detach())
            for module in (layers[1].attn.c_proj, layers[1].mlp, layers[2].attn.c_proj)
        ),
    ]
    plain_logits(model, batch.clean, batch.mask)
    for handle in handles:
        handle.remove()
    change, rows = low.encode(there) - low.encode(written), []
    for j in range(F):
        target = (at * high.encode(kept["x"])[..., j] * (slope @ high.w_dec[j])).sum()
        (gradient,) = torch.autograd.grad(target, leaf, retain_graph=True)
        rows.append((change * (gradient @ low.w_dec.T)).sum(0))
    return torch.stack(rows) / len(batch)


@pytest.mark.parametrize("steps", [1, 3])
def test_an_edge_is_the_one_way_that_hooks_leave(padded_batch, steps):
    references, batch = features("gpt2", "m0", "m2"), as_batch(padded_batch)
    graph = references.gated.graph
    into = [f"m2.f{j}" for j in range(F)]
    found = part_edges(references, [batch], logit_diff, into, steps)
    with torch.enable_grad():
        slow = by_hooks(references.gated.model, batch, steps).sum(1)
    first = graph.edge_index("m0.f0")
    assert_close(found.values[:-1, first : first + F], slow, rtol=1e-6, atol=1e-10)
    assert slow.count_nonzero() > 20
    references.gated.release()


def test_edges_are_told_by_name_and_means_are_over_pairs(padded_batch):
    references, batch = features("gpt2", "m0", "m2"), as_batch(padded_batch)
    into = ["m2.f3", "m2.error", "a1.h0"]
    found = part_edges(references, [batch], logit_diff, into, steps=2)
    assert found.readers == ("a1.h0", "m2.f3", "m2.error", "logits")  # in the graph's order
    rows = found.stronger(1e-4).rows
    assert rows and [abs(w) for _, w in rows] == sorted((abs(w) for _, w in rows), reverse=True)
    name, value = rows[0]
    part, _, reader = name.partition("->")
    at = found.readers.index(reader), references.gated.graph.edge_index(part)
    assert value == float(found.values[at])
    halves = [
        replace(batch, **{k: t[of] for k, t in vars(batch).items()})
        for of in (slice(None, 2), slice(2, None))
    ]
    again = part_edges(references, halves, logit_diff, into, steps=2)
    assert_close(again.values, found.values, rtol=1e-8, atol=1e-12)
    with pytest.raises(GraphError, match="no part 'm9'"):
        part_edges(references, [batch], logit_diff, ["m9"])
    with pytest.raises(ConfigError, match="steps"):
        part_edges(references, [batch], logit_diff, into, steps=0)
    references.gated.release()


def test_a_study_is_asked_for_them():
    options = dict(level="feature", dictionaries=["zoo/small"], n_train=8, n_test=8)
    study = Study("zoo/small", "ioi", **options, progress=False)
    top = [name for name, _ in study.attribute("eap").top(12).rows]
    found = study.part_edges(top, steps=2)
    assert set(found.readers) == {*top, "logits"} and found.stronger(0.1).rows
    with pytest.raises(ConfigError, match="level=node, neuron or feature"):
        Study("zoo/small", "ioi", n_train=4, n_test=4).part_edges(["m0"])


def test_errors_that_are_always_ablated_are_so_in_every_gradient():
    options = dict(level="feature", dictionaries=["zoo/small"], errors="corrupt")
    study = Study("zoo/small", "ioi", **options, n_train=4, n_test=4, progress=False)
    found = study.part_edges(["m3"], steps=1)
    late = [study.graph.edge_index(f"a3.h{head}") for head in range(8)]  # behind the dictionary
    eap = study.attribute("eap").values[late]
    assert_close(found.values[:, late].sum(0), eap, rtol=1e-4, atol=1e-6)
    study.gated.release()
