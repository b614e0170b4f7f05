"""Overlap by layer: exact against every deal of a small set, and against many random ones."""

from itertools import combinations

import pytest
import torch

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layer_null import (
    edge_null,
    hypergeometric,
    node_null,
    null_overlap,
)
from circuitprune.circuits.overlap import node_mask, overlaps

GRAPH = Graph(3, 4, 2)


def test_two_uniform_sets_share_what_every_deal_says():
    for n, a, b in ((6, 3, 2), (5, 4, 3), (4, 4, 4), (7, 1, 5)):
        first, seen = set(range(a)), [0] * (min(a, b) + 1)
        for second in combinations(range(n), b):
            seen[len(first & set(second))] += 1
        expected = torch.tensor(seen, dtype=torch.float64) / sum(seen)
        torch.testing.assert_close(hypergeometric(n, a, b), expected)


def drawn(kinds, mask, generator):
    """The set with its members of each kind dealt anew, one kind after the other."""
    out = torch.zeros_like(mask)
    for kind in dict.fromkeys(kinds):
        members = torch.tensor([i for i, one in enumerate(kinds) if one == kind])
        order = torch.randperm(len(members), generator=generator)
        out[members[order[: int(mask[members].sum())]]] = True
    return out


def test_the_null_is_that_of_random_deals_within_kinds():
    generator = torch.Generator().manual_seed(0)
    kinds = [*"aaaaaabbbbccccccccd"]
    first, second = (torch.rand(len(kinds), generator=generator) < 0.5 for _ in range(2))
    found = null_overlap(kinds, first, second)
    assert found.shared == int((first & second).sum())
    assert found.containment == found.shared / min(int(first.sum()), int(second.sum()))
    shared = torch.tensor(
        [int((first & drawn(kinds, second, generator)).sum()) for _ in range(4000)]
    ).double()
    assert found.expected == pytest.approx(shared.mean().item(), abs=0.06)
    assert found.p == pytest.approx((shared >= found.shared).double().mean().item(), abs=0.03)


def test_the_strata_are_layer_and_kind():
    """The same heads of one layer, another head of it, and the same heads of another layer."""
    names = [*GRAPH.writers, "logits"]

    def nodes(*kept):
        return torch.tensor([name in kept for name in names])

    same = node_null(GRAPH, nodes("a1.h0", "m1"), nodes("a1.h0", "m1"))
    # the MLP is the only one of its layer: shared for certain; the head by 1 of 4
    assert (same.shared, same.expected, same.p) == (2, 1.25, pytest.approx(0.25))
    other = node_null(GRAPH, nodes("a1.h0"), nodes("a1.h1"))
    assert (other.shared, other.expected, other.p) == (0, 0.25, pytest.approx(1.0))
    apart = node_null(GRAPH, nodes("a1.h0"), nodes("a2.h0"))
    assert (apart.expected, apart.p, apart.containment) == (0, pytest.approx(1.0), 0.0)
    assert node_null(GRAPH, nodes(), nodes("a1.h0")).containment is None


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        (("a0.h1->m2", "a0.h2->m2"), 1 / 4),
        (("a0.h1->a1.h0<q>", "a0.h1->a1.h3<q>"), 1 / 16),
        (("a0.h1->a1.kv0<k>", "a0.h1->a1.kv1<k>"), 1 / 8),
        (("m0->logits", "m1->logits"), 0),
        (("a0.h1->a1.h0<q>", "a0.h1->a2.h0<q>"), 0),
        (("a0.h1->a1.kv0<k>", "a0.h1->a1.kv0<v>"), 0),
    ],
)
def test_edges_are_dealt_among_those_of_their_layers_and_kinds(edges, expected):
    first, second = (GRAPH.mask_of([edge]) for edge in edges)
    found = edge_null(GRAPH, first, second)
    assert found.expected == pytest.approx(expected) and found.shared == 0


def test_overlaps_carry_both():
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(GRAPH.n_edges, generator=generator) < 0.2 for name in "ab"}
    (row,) = overlaps(GRAPH, masks)
    assert row.edges == edge_null(GRAPH, masks["a"], masks["b"])
    ends = [node_mask(GRAPH, mask) for mask in masks.values()]
    assert row.nodes == node_null(GRAPH, *ends) and row.edges.shared == row.shared_edges
