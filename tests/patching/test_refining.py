"""Refinement against brute force over all changes of one edge, and the promises around it."""

from functools import cache
from itertools import combinations, pairwise, product

import pytest
import torch
from attribution.test_attribution import pairs, patched
from conftest import VOCAB, randomise
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import joinable_edges, live_edges
from circuitprune.circuits.selection import select
from circuitprune.errors import DataError, NonFiniteError
from circuitprune.metrics import kl_divergence
from circuitprune.patching.circuit_kl import SOFTNESS, CircuitKL
from circuitprune.patching.refining import Refinement, refine
from patching.test_acdc import small

some_families = pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
N_EDGES = 5
LARGER = 12
"""Of which many an edge can go or be exchanged and leave a circuit."""
EVERY = 10_000
"""More tries than there are edges: nothing is left out."""


def slow_kl(references, mask, batch) -> float:
    """A circuit's KL by one whole gated run."""
    gated, full = references.gated, references.full_logits(batch)
    ablated = references.ablated(batch)[:]
    logits = gated(mask.double(), batch.clean, batch.mask, ablated, batch.last)
    return kl_divergence(full, logits).mean().item()


def start_of(graph, seed: int = 0, n_edges: int = N_EDGES):
    """A random circuit of live edges."""
    generator = torch.Generator().manual_seed(seed)
    return select(graph, torch.rand(graph.n_edges, generator=generator), n_edges)


def neighbours(graph, mask, n_edges):
    """Every other circuit that an addition, a removal or an exchange of an edge leads to, once."""
    kept, others = mask.nonzero().flatten().tolist(), (~mask).nonzero().flatten().tolist()
    found = {}
    for gone, new in product([None, *kept], [None, *others]):
        changed = mask.clone()
        changed[[edge for edge in (gone,) if edge is not None]] = False
        changed[[edge for edge in (new,) if edge is not None]] = True
        changed = live_edges(graph, changed)
        if int(changed.sum()) <= n_edges and not torch.equal(changed, mask):
            found[tuple(changed.nonzero().flatten().tolist())] = changed
    return found.values()


@cache
def tiny() -> PreTrainedModel:
    """Two layers of two heads: few enough edges to try all changes."""
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=16, vocab_size=VOCAB)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed=1)
    return model.double().eval().requires_grad_(False)


def searching(tries: int = EVERY, least_gain: float = 0.0, n_edges: int = N_EDGES) -> Refinement:
    return Refinement(CircuitKL(patched(tiny()), [pairs()]), n_edges, tries, least_gain)


@cache
def refined(tries: int = EVERY, seed: int = 0):
    """A search, its end, and the state after each round."""
    search, states = searching(tries), []
    found = refine(search, start_of(search.graph, seed), on_round=states.append)
    return search, found, states


def mask_of(graph, edges):
    mask = graph.no_edges()
    mask[list(edges)] = True
    return mask


# ------------------------------------------------------------------ the numbers


@some_families
def test_the_kl_of_a_circuit_is_that_of_a_whole_run(family):
    references = patched(small(family))
    kl, batch = CircuitKL(references, [pairs((0, 1)), pairs((2, 3))]), pairs()
    for seed in range(3):
        mask = start_of(kl.graph, seed)
        assert_close(kl.of(mask), slow_kl(references, mask, batch))


@some_families
def test_changing_an_edge_is_the_kl_of_the_circuit_with_it_changed(family):
    references = patched(small(family))
    kl, batch = CircuitKL(references, [pairs((0, 1)), pairs((2, 3))]), pairs()
    mask = start_of(kl.graph)
    edges = torch.randperm(kl.graph.n_edges, generator=torch.Generator().manual_seed(1))[:10]
    edges = torch.cat([edges, mask.nonzero().flatten()])
    expected = []
    for edge in edges.tolist():
        changed = mask.clone()
        changed[edge] = ~changed[edge]
        expected.append(slow_kl(references, changed, batch))
    assert_close(kl.changed(mask, edges).tolist(), expected)


def test_circuits_run_together_are_those_run_alone():
    references = patched(tiny())
    kl = CircuitKL(references, [pairs((0, 1)), pairs((2, 3))])
    masks = [start_of(kl.graph, seed) for seed in range(3)]
    assert kl.each(masks).tolist() == [kl.of(mask) for mask in masks]
    assert kl.each([]).tolist() == []


# ------------------------------------------------------------------ the search


def test_every_accepted_circuit_has_the_kl_that_is_told_and_a_lower_one_than_before():
    search, found, states = refined()
    circuits = [start_of(search.graph), *(mask_of(search.graph, one.edges) for one in states)]
    passed = [mask for i, mask in enumerate(circuits) if not i or (mask != circuits[i - 1]).any()]
    assert len(passed) == len(found.rounds) > 2
    for mask, told in zip(passed, found.rounds, strict=True):
        assert_close(told.kl, slow_kl(search.kl.references, mask, pairs()))
        assert torch.equal(mask, live_edges(search.graph, mask))
        assert int(mask.sum()) == told.n_edges <= N_EDGES
    assert all(after.kl < before.kl for before, after in pairwise(found.rounds))


def test_no_change_of_one_edge_helps_where_the_search_ends():
    search = searching(n_edges=LARGER)
    found = refine(search, start_of(search.graph, n_edges=LARGER))
    others = neighbours(search.graph, mask_of(search.graph, found.edges), LARGER)
    assert len(others) > 20 and len(found.rounds) > 2
    assert min(map(search.kl.of, others)) >= found.rounds[-1].kl - 1e-12


def test_a_node_outside_joins_where_no_single_edge_could():
    search = searching(n_edges=3)
    found = refine(search, search.graph.mask_of(["input->logits"]))
    nodes = {search.graph.edge_name(edge).split("->")[0] for edge in found.edges}
    assert len(found.edges) == 3 and nodes != {"input"}
    assert found.rounds[-1].kl < found.rounds[0].kl


class Landscape(CircuitKL):
    """A KL by formula: each set of edges takes away its weight where all of it is kept."""

    def __init__(self, graph, weights: dict[tuple[str, ...], float]) -> None:
        self.graph, self.weights = graph, weights

    def at(self, gates):
        parts = [
            weight * gates[[self.graph.edge_index(name) for name in names]].prod()
            for names, weight in self.weights.items()
        ]
        return 1 - torch.stack(parts).sum()

    def each(self, masks):
        return torch.tensor([self.at(mask.double()) for mask in masks], dtype=torch.float64)

    def changed(self, mask, edges):
        masks = mask.repeat(len(edges), 1)
        masks[range(len(edges)), edges] = ~mask[edges]
        return self.each(masks)

    def slopes(self, mask):
        gates = (SOFTNESS + (1 - 2 * SOFTNESS) * mask.double()).requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.at(gates), gates)[0]


FIRST = ("input->a0.h0<k>", "input->a0.h0<v>", "a0.h0->logits")
SECOND = ("input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->logits")
"""Two nodes that help with all three edges only."""


def stuck(tries: int = EVERY) -> Refinement:
    """A search for three edges where no exchange of one leads from the first to the second."""
    return Refinement(Landscape(Graph(1, 2, 2), {FIRST: 0.5, SECOND: 0.6}), 3, tries, 0.0)


@pytest.mark.parametrize("tries", [8, EVERY])
def test_a_node_takes_the_place_of_another_where_no_exchange_of_an_edge_helps(tries):
    search = stuck(tries)
    graph, start = search.graph, search.graph.mask_of(FIRST)
    assert search.kl.each(neighbours(graph, start, 3)).min() >= search.kl.of(start)

    found = refine(search, start)
    every = [mask_of(graph, edges) for edges in combinations(range(graph.n_edges), 3)]
    assert_close(found.rounds[-1].kl, search.kl.each(every).min().item())
    assert torch.equal(mask_of(graph, found.edges), graph.mask_of(SECOND))
    assert [one.exchanged for one in found.rounds] == [0, 1]


def test_a_search_goes_on_behind_a_node_that_took_a_place():
    search, states = stuck(), []
    whole = refine(search, search.graph.mask_of(FIRST), on_round=states.append)
    assert len(states) == 2 and states[-1] == whole
    for state in states:
        assert refine(stuck(), search.graph.mask_of(FIRST), state=state) == whole


def brought(graph, rest, slopes, node: int, most: int) -> list[int]:
    """The edges by which a node joins a circuit, edge by edge; none where it cannot."""

    def lives(edge: int) -> bool:
        return bool(live_edges(graph, rest | mask_of(graph, [edge]))[edge])

    to_logits = graph.edge_index(f"{graph.writers[node]}->logits")
    new = [edge for edge in range(graph.n_edges) if not rest[edge]]
    into = [e for e in new if node in graph.heads_of_reader(int(graph.edge_reader[e]))]
    into = [
        e for e in into if lives(graph.edge_index(f"{graph.writers[graph.edge_writer[e]]}->logits"))
    ]
    out_of = [e for e in new if graph.edge_writer[e] == node]
    out_of = [
        e
        for e in out_of
        if lives(graph.edge_index(f"input->{graph.readers[graph.edge_reader[e]]}"))
    ]
    needed = [] if lives(to_logits) or rest[to_logits] else [into]
    needed += [] if node in graph.edge_writer[rest].tolist() else [out_of]
    if not all(needed) or len(needed) > most:
        return []
    best = [min(edges, key=lambda edge: slopes[edge].item()) for edges in needed]
    others = {edge for edge in (*into, *out_of) if slopes[edge] < 0} - set(best)
    return (best + sorted(others, key=lambda edge: slopes[edge].item()))[:most]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_place_taken_is_that_of_a_loop_over_all_nodes(seed):
    search = searching()
    graph, kl = search.graph, search.kl
    mask = start_of(graph, seed)
    expected = []
    for gone in set(graph.edge_writer[mask].tolist()):
        rest = live_edges(graph, mask & (graph.edge_writer != gone))
        slopes, free = kl.slopes(rest), N_EDGES - int(rest.sum())
        for node in range(graph.n_writers):
            if edges := brought(graph, rest, slopes, node, free):
                expected.append(slow_kl(kl.references, rest | mask_of(graph, edges), pairs()))
    (found,) = search._with_a_node_replaced(mask, kl.slopes(mask))
    assert len(expected) > 8 and int(found.sum()) <= N_EDGES
    assert_close(slow_kl(kl.references, found, pairs()), min(expected))


def test_several_are_exchanged_by_adding_exactly_so_many_first():
    """Those with the lowest slopes, where the circuit has room for all of them."""
    search = searching(tries=2, n_edges=LARGER)
    mask = start_of(search.graph)
    slopes = search.kl.slopes(mask)
    ready = (joinable_edges(search.graph, mask) & ~mask).nonzero().flatten()
    expected = mask.clone()
    expected[ready[slopes[ready].argsort(stable=True)][:3]] = True
    first = next(iter(search._proposals(mask, slopes, 3)))
    assert torch.equal(first, live_edges(search.graph, expected))
    assert int(first.sum()) == int(mask.sum()) + 3


def test_few_tries_never_make_it_worse():
    few, every = refined(tries=4)[1], refined()[1]
    assert every.rounds[0].kl == few.rounds[0].kl > few.rounds[-1].kl


def test_a_search_that_goes_on_sees_the_same_bits():
    _, whole, states = refined()
    assert states[-1] == whole
    for state in states[:: max(1, len(states) // 2)]:
        again = searching()
        assert refine(again, start_of(again.graph), state=state) == whole


def test_the_circuit_is_the_one_that_validation_pairs_like_best():
    validation = CircuitKL(patched(tiny()), [pairs((2, 3))])
    search = Refinement(CircuitKL(patched(tiny()), [pairs((0, 1))]), N_EDGES, EVERY, 0.0)
    found = refine(search, start_of(search.graph), validation)
    values = [one.validation_kl for one in found.rounds]
    assert_close(validation.of(mask_of(search.graph, found.best)), min(values))
    assert values[-1] > min(values)  # the last is overfitted, else this shows nothing


def test_the_search_is_bounded_and_tells_how_far_it_is():
    search, told = searching(8), []
    found = refine(
        search,
        start_of(search.graph),
        most_rounds=1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert len(found.rounds) == 2
    assert told[-1] == (1, 1) and all(total == 1 for _, total in told)


def test_a_gain_below_the_least_is_none():
    search = searching(8, least_gain=0.999)
    assert len(refine(search, start_of(search.graph)).rounds) == 1


def test_pairs_are_needed_and_logits_must_be_finite():
    references = patched(tiny())
    with pytest.raises(DataError, match="no batches"):
        CircuitKL(references, [])
    kl, start = CircuitKL(references, [pairs()]), start_of(references.gated.graph)
    broken = torch.full_like(references.full_logits(pairs()), torch.nan)
    references.full_logits = lambda batch: broken
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        kl.of(start)
