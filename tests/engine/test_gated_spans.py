"""The laws of gates at spans of positions: against the plain engine, and spelled out by hand."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import reference
import torch
from conftest import TOLERANCE
from conftest import Batch as Pairs
from family_configs import build
from torch import Tensor
from torch.testing import assert_close

from circuitprune.circuits.span_graph import Span, SpanGraph, spans_of
from circuitprune.data.batches import Dealt
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_spans import GatedSpans
from circuitprune.engine.references import References
from circuitprune.errors import DataError, GraphError

EXACT = dict(rtol=1e-12, atol=1e-12)
NAMES = ("head", "middle", "end")
FREE = tuple(Span(name, (0, 1, 2), True, True) for name in NAMES)
"""Of which nothing is known: every gate is there at each."""
SHAPES = ("gpt2", "llama", "gemma2")
Run = Callable[[Tensor, Tensor | None], Tensor]
"""Logits from gates, at the last token of each prompt if that is given."""


class Case(NamedTuple):
    """One model, some pairs, and their tokens dealt to three spans."""

    family: str
    gated: GatedModel
    pairs: Pairs
    dealt: Tensor

    def ablated(self) -> Tensor:
        return self.gated.record(self.pairs.corrupt, self.pairs.mask)

    def run(self, gated: GatedSpans, gates: Tensor, last: Tensor | None = None) -> Tensor:
        p = self.pairs
        return gated(gates, p.clean, p.mask, self.ablated(), last, None, self.dealt)

    def slow(self, graph: SpanGraph, gates: Tensor, fill: float = 0.0) -> Tensor:
        """Logits by hand: each edge has a gate of its own at each position."""
        grid = torch.full(graph.exists.shape, fill, dtype=gates.dtype)
        grid = grid.masked_scatter(graph.exists, gates)
        by_name = {
            name: row[self.dealt].unsqueeze(-1)
            for name, row in zip(graph.base.edges, grid, strict=True)
        }
        named = dict(zip(graph.base.writers, self.ablated(), strict=True))
        model, p = self.gated.model, self.pairs
        return reference.gated_logits(model, self.family, p.clean, p.mask, by_name, named)


@pytest.fixture(params=SHAPES)
def case(request: pytest.FixtureRequest, padded_batch: Pairs):
    """Prompts that begin alike, their first and their middle tokens told apart."""
    gated = GatedModel(build(request.param))
    clean, corrupt = padded_batch.clean, padded_batch.corrupt.clone()
    corrupt[:, :2] = clean[:, :2]
    corrupt[:, 4:6] = clean[:, 4:6]
    places = torch.arange(clean.shape[1]).expand_as(clean)
    dealt = 1 + (places == padded_batch.last[:, None]).long() - (places < 4).long()
    yield Case(request.param, gated, padded_batch._replace(corrupt=corrupt), dealt)
    gated.release()


def known(case: Case) -> GatedSpans:
    """Gates only where they can matter, by what the pairs show."""
    lengths = (case.pairs.last + 1).tolist()
    columns = (case.dealt, case.pairs.clean, case.pairs.corrupt)
    rows = [tuple(c[i, :n].tolist() for c in columns) for i, n in enumerate(lengths)]
    return GatedSpans(case.gated, spans_of(NAMES, rows, everywhere=False))


def random_gates(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def are_the_plain_circuit(spanned: Run, plain: Run, n: int, p: Pairs) -> None:
    """Of three gates alike for each of n: logits, and the gradient, whose sum is the one gate's."""
    gates = random_gates(n).requires_grad_()
    for last in (None, p.last):
        where = slice(None) if last is not None else p.mask
        own = gates.detach().repeat_interleave(3).requires_grad_()
        found, expected = spanned(own, last)[where], plain(gates, last)[where]
        assert_close(found, expected, **EXACT)
        (slope,) = torch.autograd.grad(expected.pow(2).sum(), gates)
        (slopes,) = torch.autograd.grad(found.pow(2).sum(), own)
        assert_close(slopes.view(-1, 3).sum(1), slope, rtol=1e-9, atol=1e-9)
        assert slopes.view(-1, 3).std(1).max() > 1e-3, "every span has the same slope"


def test_equal_gates_are_the_plain_circuit(case: Case) -> None:
    gated, p, n = GatedSpans(case.gated, FREE), case.pairs, case.gated.graph.n_edges
    assert gated.graph.n_edges == 3 * n

    def plain(gates: Tensor, last: Tensor | None) -> Tensor:
        return case.gated(gates, p.clean, p.mask, case.ablated(), last)

    are_the_plain_circuit(partial(case.run, gated), plain, n, p)


def test_gates_of_each_span_are_spelled_out_by_hand(case: Case) -> None:
    gated, tolerance = GatedSpans(case.gated, FREE), TOLERANCE[case.family]
    close = dict(rtol=tolerance, atol=tolerance)
    gates = random_gates(gated.graph.n_edges, seed=1)
    by_hand = case.slow(gated.graph, gates)
    assert_close(case.run(gated, gates)[case.pairs.mask], by_hand[case.pairs.mask], **close)
    answers = reference.at_last(by_hand, case.pairs.last)
    assert_close(case.run(gated, gates, case.pairs.last), answers, **close)


def test_gradients_are_those_of_the_model_by_hand(case: Case) -> None:
    gated = known(case)
    gates = random_gates(gated.graph.n_edges, seed=2).requires_grad_()
    weights = random_gates(case.pairs.last.numel(), seed=3)
    last = case.pairs.last
    fast = (case.run(gated, gates, last)[:, 5] * weights).sum()
    slow = (reference.at_last(case.slow(gated.graph, gates), last)[:, 5] * weights).sum()
    (found,), (expected,) = (torch.autograd.grad(one, gates) for one in (fast, slow))
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.abs().max() > 1e-3


def test_where_there_is_no_gate_none_could_matter(case: Case) -> None:
    """Open or closed there, the answers are the same; and a gate that is there moves them."""
    gated, last = known(case), case.pairs.last
    graph = gated.graph
    assert 0 < graph.n_edges < 3 * graph.base.n_edges
    assert {n.rpartition("@")[2] for n in graph.edges if n.startswith("input")} == {*NAMES}
    gates = random_gates(graph.n_edges, seed=4)
    answers = [reference.at_last(case.slow(graph, gates, fill), last) for fill in (0.0, 0.5, 1.0)]
    for found in answers[1:]:
        assert_close(found, answers[0], **EXACT)
    moved = gates.clone()
    moved[::7] = 0
    assert (case.run(gated, moved, last) - answers[0]).abs().max() > 1e-3
    everything = case.run(gated, torch.ones_like(gates), last)
    plain = case.gated.plain(case.pairs.clean, case.pairs.mask, last)
    assert_close(everything, plain, rtol=1e-6, atol=1e-6)


def dealt_batch(case: Case) -> Dealt:
    p, one = case.pairs, torch.ones(len(case.pairs.last), 1, dtype=torch.long)
    return Dealt(torch.arange(len(one)), *p, one, 2 * one, dealt=case.dealt)


def test_what_prompts_begin_with_alike_may_be_left_out(case: Case) -> None:
    gated, batch = known(case), dealt_batch(case)
    gates = random_gates(gated.graph.n_edges, seed=5)
    rest, whole = (References(gated, "patch", prefixes=some).run(batch) for some in (True, False))
    assert rest.batch.clean.shape[1] < batch.clean.shape[1]
    assert torch.equal(rest.batch.spans[0], batch.dealt[0, 2:])
    assert_close(rest(gates), whole(gates), rtol=1e-6, atol=1e-6)
    assert_close(whole(gates), case.run(gated, gates, batch.last), **EXACT)


def test_tokens_must_be_dealt(case: Case) -> None:
    gated, p = known(case), case.pairs
    gates = random_gates(gated.graph.n_edges)
    with pytest.raises(DataError, match=r"spans head, middle, end, and tokens are dealt to none"):
        gated(gates, p.clean, p.mask, case.ablated(), p.last)
    with pytest.raises(DataError, match=r"dealt to \[3\]"):
        gated(gates, p.clean, p.mask, case.ablated(), p.last, None, 0 * case.dealt + 3)
    with pytest.raises(GraphError, match="gates, one per edge"):
        case.run(gated, gates[1:])
