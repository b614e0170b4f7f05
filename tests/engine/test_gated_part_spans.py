"""The laws of gates on parts at spans: the plain circuit, and hooks at one token."""

from functools import partial
from typing import NamedTuple

import pytest
import reference_parts
import torch
from conftest import Batch as Pairs
from family_configs import build
from torch import Tensor
from torch.testing import assert_close

from circuitprune.circuits.span_graph import Span, spans_of
from circuitprune.data.batches import Dealt
from circuitprune.engine.gated_part_spans import GatedPartSpans
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.references import References
from circuitprune.errors import DataError, GraphError
from engine.test_feature_sites import by_hooks, dictionary
from engine.test_gated_spans import EXACT, FREE, NAMES, are_the_plain_circuit, random_gates

SINGLE = dict(rtol=1e-6, atol=1e-6)
"""Of norms that Hugging Face computes in float32 whatever the model's type."""


class Case(NamedTuple):
    """One model, some pairs that begin alike, and their tokens dealt to spans."""

    gated: GatedParts
    pairs: Pairs

    @property
    def dealt(self) -> Tensor:
        places = torch.arange(self.pairs.clean.shape[1]).expand_as(self.pairs.clean)
        return 1 + (places == self.pairs.last[:, None]).long() - (places < 4).long()

    def batch(self) -> Dealt:
        p, one = self.pairs, torch.full((len(self.pairs.last), 1), 5)
        return Dealt(torch.arange(len(one)), *p, one, one + 1, dealt=self.dealt)

    def run(self, gated: GatedParts, gates: Tensor, last: Tensor | None = None) -> Tensor:
        p = self.pairs
        ablated = self.gated.record(p.corrupt, p.mask)
        return gated(gates, p.clean, p.mask, ablated, last, None, self.dealt)

    def hooked(self, shares: dict[str, Tensor]) -> Tensor:
        p = self.pairs
        return reference_parts.patched(self.gated.model, p.clean, p.corrupt, p.mask, shares)

    def known(self) -> GatedPartSpans:
        """Gates only where they can matter, by what the pairs show."""
        columns, lengths = (self.dealt, *self.pairs[:2]), (self.pairs.last + 1).tolist()
        rows = [tuple(c[i, :n].tolist() for c in columns) for i, n in enumerate(lengths)]
        return GatedPartSpans(self.gated, spans_of(NAMES, rows, everywhere=False))


def alike_in_front(pairs: Pairs) -> Pairs:
    corrupt = pairs.corrupt.clone()
    corrupt[:, :4] = pairs.clean[:, :4]
    return pairs._replace(corrupt=corrupt)


@pytest.fixture(params=[(f, level) for f in ("gpt2", "gemma2") for level in ("node", "neuron")])
def case(request: pytest.FixtureRequest, padded_batch: Pairs):
    family, level = request.param
    gated = GatedParts(build(family), level)
    yield Case(gated, alike_in_front(padded_batch))
    gated.release()


def test_equal_gates_are_the_plain_circuit(case: Case) -> None:
    gated, p, n = GatedPartSpans(case.gated, FREE), case.pairs, case.gated.graph.n_edges
    assert gated.graph.n_edges == 3 * n

    def plain(gates: Tensor, last: Tensor | None) -> Tensor:
        return case.gated(gates, p.clean, p.mask, case.gated.record(p.corrupt, p.mask), last)

    are_the_plain_circuit(partial(case.run, gated), plain, n, p)


def test_one_part_at_one_token_is_a_hook(case: Case) -> None:
    """Every token a span of its own: closed there, that part alone is patched, at it alone."""
    p, n = case.pairs, case.pairs.clean.shape[1]
    spans = [Span(str(i), tuple(range(n)), True, True) for i in range(n)]
    gated = GatedPartSpans(case.gated, spans)
    dealt = torch.arange(n).expand_as(p.clean)
    ablated = case.gated.record(p.corrupt, p.mask)
    last = [name for name in case.gated.graph.edges if name.startswith("m2")][-1]
    for name in ("input", "a1.h2", last):
        for place in (4, 6):
            gates = torch.ones(gated.graph.n_edges, dtype=torch.float64)
            gates[gated.graph.edge_index(f"{name}@{place}")] = 0
            logits = gated(gates, p.clean, p.mask, ablated, None, None, dealt)
            elsewhere = (dealt != place).double().unsqueeze(-1)
            hooked = case.hooked({name: elsewhere})
            assert_close(p.real(logits), p.real(hooked), **SINGLE)
            assert torch.equal(logits[:, :place], gated.plain(p.clean, p.mask)[:, :place])
            assert (logits - gated.plain(p.clean, p.mask))[p.mask].abs().max() > 1e-4, name


def test_fractions_of_many_at_each_span_are_hooks(case: Case) -> None:
    gated, p = GatedPartSpans(case.gated, FREE), case.pairs
    base = case.gated.graph.edges
    names = ["input", "a0.h1", "a2.h0", *[one for one in base if one[0] == "m"][::5]]
    gates = torch.ones(gated.graph.n_edges, dtype=torch.float64)
    shares = {}
    for seed, name in enumerate(names):
        own = random_gates(3, seed)
        for span, gate in zip(NAMES, own, strict=True):
            gates[gated.graph.edge_index(f"{name}@{span}")] = gate
        shares[name] = own[case.dealt].unsqueeze(-1)
    assert_close(p.real(case.run(gated, gates)), p.real(case.hooked(shares)), **SINGLE)


def test_where_there_is_no_gate_none_could_matter(case: Case) -> None:
    """Patched there, the answers are as they were; and with all gates closed, the corrupt ones."""
    gated, p = case.known(), case.pairs
    graph, rows = gated.graph, torch.arange(len(case.pairs.last))
    assert 0 < graph.n_edges < 3 * graph.base.n_edges
    assert not [name for name in graph.edges if name.endswith("@head")], "alike in front"
    assert {name.partition("@")[2] for name in graph.edges if name.startswith("a2")} == {"end"}
    plain = gated.plain(p.clean, p.mask, p.last)
    for part, span in (~graph.exists).nonzero()[::7].tolist():
        elsewhere = (case.dealt != span).double().unsqueeze(-1)
        hooked = case.hooked({graph.base.edges[part]: elsewhere})[rows, p.last]
        assert_close(hooked, plain, **SINGLE)
    closed = case.run(gated, torch.zeros(graph.n_edges, dtype=torch.float64), p.last)
    assert_close(closed, gated.plain(p.corrupt, p.mask, p.last), **SINGLE)
    opened = case.run(gated, torch.ones(graph.n_edges, dtype=torch.float64), p.last)
    assert torch.equal(opened, plain)


def test_what_prompts_begin_with_alike_may_be_left_out(case: Case) -> None:
    gated, batch = case.known(), case.batch()
    gates = random_gates(gated.graph.n_edges, seed=5)
    rest, whole = (References(gated, "patch", prefixes=some).run(batch) for some in (True, False))
    assert rest.batch.clean.shape[1] < batch.clean.shape[1]
    assert_close(rest(gates), whole(gates), **SINGLE)
    assert_close(whole(gates), case.run(gated, gates, batch.last), **EXACT)


def test_gates_of_some_circuits_side_by_side(case: Case) -> None:
    gated, p, batch = case.known(), case.pairs, case.batch()
    gates = torch.stack([random_gates(gated.graph.n_edges, seed) for seed in (6, 7)])
    ablated = case.gated.record(p.corrupt, p.mask)
    found = gated.each(gates, batch.clean_prompts, ablated, batch.spans)
    for row, own in zip(found, gates, strict=True):
        assert_close(row, case.run(gated, own, p.last), **SINGLE)


@pytest.mark.parametrize("site", ["m1", "resid1"])
def test_features_at_a_span_are_hooks(padded_batch: Pairs, site: str) -> None:
    """A feature closed at all spans is one closed; at one, the rest of the logits is as it was."""
    made = GatedParts(build("gpt2"), "feature", dictionaries=[dictionary(site)])
    case, closed = Case(made, padded_batch), [0, 3, 5, 9, 12]
    gated, p = GatedPartSpans(made, FREE), padded_batch
    gates = torch.ones(gated.graph.n_edges, dtype=torch.float64)
    for span in NAMES[::-1]:
        for j in closed:
            gates[gated.graph.edge_index(f"{site}.f{j}@{span}")] = 0
        logits = case.run(gated, gates)
        open_ = (case.dealt < NAMES.index(span)) & p.mask
        assert torch.equal(logits[open_], gated.plain(p.clean, p.mask)[open_])
    assert_close(p.real(logits), p.real(by_hooks(made.model, p, site, closed, False)), **SINGLE)
    made.release()


def test_tokens_must_be_dealt(case: Case) -> None:
    gated, p = case.known(), case.pairs
    gates, ablated = torch.ones(gated.graph.n_edges), case.gated.record(p.corrupt, p.mask)
    with pytest.raises(DataError, match="spans head, middle, end, and tokens are dealt to none"):
        gated(gates, p.clean, p.mask, ablated, p.last)
    with pytest.raises(GraphError, match=f"expected {gated.graph.n_edges} gates"):
        case.run(gated, gates[1:])
