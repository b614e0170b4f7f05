"""Candidate gates of one reader, run in part and stacked, against whole gated runs one by one."""

import pytest
import reference
import torch
from conftest import Batch as Tokens
from torch.testing import assert_close

import circuitprune.patching.candidates
from circuitprune.data.pairs import Batch
from circuitprune.engine.ablation import StackedWriters
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.partial import reach_of
from circuitprune.errors import GraphError
from circuitprune.patching.candidates import CandidateRuns

every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
VISIBLE = 1e-4


def as_pairs(tokens: Tokens) -> Batch:
    none = torch.full((len(tokens.last), 1), -1)
    return Batch(torch.arange(len(none)), *tokens, none, none)


def ablated_by(kind: str, gated: GatedModel, batch: Batch):
    written = gated.record(batch.corrupt, batch.mask)
    if kind == "patch":
        return written
    if kind == "cached":
        lengths = batch.last + 1
        return StackedWriters([written[:, i, :n] for i, n in enumerate(lengths)], written.shape[2])
    return torch.zeros(len(written), 1, 1, 1).double().expand_as(written)


def random_mask(graph, density: float, seed: int):
    """Random edges, and all into the logits, or a change of a late reader may lead nowhere."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(graph.n_edges, generator=generator) < density
    mask[graph.logits_block.edges] = True
    return mask


def one_reader_of_each_kind(graph) -> list[int]:
    """The last of each kind, then a value reader and an MLP of the first layers."""
    last = {kind: place for place, kind in enumerate(graph.reader_kind)}
    return [*last.values(), graph.n_heads + graph.n_kv_readers, graph.readers.index("m1")]


def trials(graph, gates, reader: int, n: int, seed: int):
    """Whole gate vectors that differ from `gates` in the edges of a reader, and those edges."""
    block = graph.block_of_reader(reader)
    start = block.first_edge + (reader - block.first_reader) * block.n_writers
    edges = slice(start, start + block.n_writers)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(n, block.n_writers, generator=generator, dtype=torch.float64)
    rows[: n // 2] = rows[: n // 2].round()
    whole = gates.repeat(n, 1)
    whole[:, edges] = rows
    return whole, rows


@pytest.fixture
def gated(tiny_model, family, kv_readers) -> GatedModel:
    return GatedModel(tiny_model(family), kv_readers)


@every_graph
@pytest.mark.parametrize(
    ("batch_kind", "kind", "density"),
    [("padded", "patch", 1.0), ("unpadded", "zero", 0.7), ("padded", "cached", 0.3)],
)
def test_candidates_are_whole_gated_runs(gated, request, batch_kind, kind, density, tolerance):
    pairs, graph = as_pairs(request.getfixturevalue(f"{batch_kind}_batch")), gated.graph
    ablated, gates = ablated_by(kind, gated, pairs), random_mask(graph, density, 1).double()

    def slow(gates):
        return gated(gates, pairs.clean, pairs.mask, ablated[:], pairs.last)

    assert_close(CandidateRuns(gated, pairs, ablated, gates, 0).logits, slow(gates), **tolerance)
    moved = []
    for reader in one_reader_of_each_kind(graph):
        runs = CandidateRuns(gated, pairs, ablated, gates, reader)
        whole, rows = trials(graph, gates, reader, 2, seed=reader)
        logits = runs(rows)
        for one, expected in zip(logits, whole, strict=True):
            assert_close(one, slow(expected), **tolerance)
        moved.append(bool((logits - runs.logits).abs().max() > VISIBLE))
    assert sum(moved) >= 5


@every_graph
def test_stacking_changes_nothing(gated, padded_batch, tolerance, monkeypatch):
    pairs, graph = as_pairs(padded_batch), gated.graph
    ablated = ablated_by("patch", gated, pairs)
    gates = random_mask(graph, 0.7, 2).double()
    for reader in one_reader_of_each_kind(graph)[:3]:
        runs = CandidateRuns(gated, pairs, ablated, gates, reader)
        _, rows = trials(graph, gates, reader, 5, seed=reader)
        together, apart = runs(rows), torch.cat([runs(row[None]) for row in rows])
        assert_close(together, apart, **tolerance)
        monkeypatch.setattr(circuitprune.patching.candidates, "BUDGET", 1)
        assert runs.at_once == 1
        assert_close(runs(rows), together, **tolerance)
        monkeypatch.undo()
        assert runs.at_once > 5


@every_graph
def test_a_run_leaves_the_model_as_it_was(gated, padded_batch):
    pairs = as_pairs(padded_batch)
    plain = gated.plain(pairs.clean, pairs.mask)
    ablated = ablated_by("patch", gated, pairs)
    before = ablated.clone()
    gates = torch.ones(gated.graph.n_edges).double()
    runs = CandidateRuns(gated, pairs, ablated, gates, reader=3)
    runs(torch.zeros(2, 1))
    assert_close(gated.plain(pairs.clean, pairs.mask), plain, rtol=0, atol=0)
    assert_close(ablated, before, rtol=0, atol=0)


def fed_by(graph, reader: str) -> set[str]:
    return {graph.writers[w] for w in graph.heads_of_reader(graph.readers.index(reader))}


@every_graph
def test_another_circuit_is_run_where_it_differs(gated, padded_batch, tolerance):
    """From the whole model to a sparse circuit and on to another; what starts stays as it is."""
    pairs, graph = as_pairs(padded_batch), gated.graph
    ablated = ablated_by("patch", gated, pairs)
    whole = CandidateRuns(gated, pairs, ablated, torch.ones(graph.n_edges), 0)
    delta, reader = whole.delta.clone(), graph.readers.index("m1")
    first = whole.other(random_mask(graph, 0.3, 4).double(), reader)
    for start, density in ((whole, 0.6), (first, 0.8), (first, 0.1)):
        gates = random_mask(graph, density, 5).double()
        rows = trials(graph, gates, reader, 3, seed=6)[1]
        there, fresh = (
            start.other(gates, reader),
            CandidateRuns(gated, pairs, ablated, gates, reader),
        )
        assert_close(there.logits, fresh.logits, **tolerance)
        assert_close(there(rows), fresh(rows), **tolerance)
        assert (fresh(rows) - fresh.logits).abs().max() > VISIBLE
    inner = slice(0, graph.mlp_writer(graph.n_layers - 1))  # the last is filled at answers only
    assert torch.equal(whole.delta[inner], delta[inner])


def test_what_one_circuit_left_out_is_run_for_another(tiny_model, padded_batch):
    """A head that nobody reads is not run; a circuit that reads it again must not see the gap."""
    gated, pairs = GatedModel(tiny_model("gpt2")), as_pairs(padded_batch)
    edges, ablated = gated.graph.edges, ablated_by("patch", gated, pairs)
    unread = torch.tensor([edge != "input->m0" and "a1.h2->" not in edge for edge in edges])
    again = torch.tensor([edge != "input->m0" for edge in edges])
    whole = CandidateRuns(gated, pairs, ablated, torch.ones(len(edges)), 0)
    there = whole.other(unread.double(), gated.graph.readers.index("m0"))
    there = there.other(again.double(), gated.graph.readers.index("m0"))
    fresh = CandidateRuns(gated, pairs, ablated, again.double(), 0)
    assert_close(there.logits, fresh.logits, rtol=1e-10, atol=1e-10)


def test_a_reader_that_nobody_reads_changes_nothing(tiny_model, padded_batch):
    gated, pairs = GatedModel(tiny_model("gpt2")), as_pairs(padded_batch)
    gates = torch.tensor([not edge.startswith("a1.h2->") for edge in gated.graph.edges]).double()
    ablated, reader = ablated_by("patch", gated, pairs), gated.graph.readers.index("a1.h2<v>")
    runs = CandidateRuns(gated, pairs, ablated, gates, reader)
    assert torch.equal(runs(torch.zeros(3, 6)), runs.logits.expand(3, -1, -1))


@every_graph
def test_reach_is_what_paths_of_kept_edges_lead_to(gated):
    """Against a walk over names."""
    graph, mask = gated.graph, random_mask(gated.graph, 0.2, 3)
    kept = [edge.split("->") for edge, keep in zip(graph.edges, mask.tolist(), strict=True) if keep]
    for start in one_reader_of_each_kind(graph):
        readers, writers = {graph.readers[start]}, set()
        read_by_some = {writer for writer, _ in kept}
        for _ in range(3 * graph.n_layers):
            for reader in readers:
                fed = fed_by(graph, reader)
                writers |= fed if fed & read_by_some else set()
            readers |= {reader for writer, reader in kept if writer in writers}
        useful = {r for r in readers if r == "logits" or fed_by(graph, r) & read_by_some}
        reach = reach_of(graph, mask, torch.arange(graph.n_readers) == start)
        found = {
            graph.readers[block.first_reader + row]
            for block, rows in reach.rows.items()
            for row in rows.tolist()
        }
        assert found == useful
        assert [graph.writers[w] for w in reach.writers] == [
            w for w in graph.writers if w in writers
        ]


def test_what_does_not_fit_is_refused(tiny_model, padded_batch):
    gated, pairs = GatedModel(tiny_model("gpt2")), as_pairs(padded_batch)
    ablated, n = ablated_by("patch", gated, pairs), gated.graph.n_edges
    with pytest.raises(GraphError, match=r"expected .* gates, one per edge"):
        CandidateRuns(gated, pairs, ablated, torch.ones(n - 1), 0)
    with pytest.raises(GraphError, match="reader 40 is not one of"):
        CandidateRuns(gated, pairs, ablated, torch.ones(n), gated.graph.n_readers)
