"""Exact patching of edges and nodes against hooks, the gated engine and another program."""

from copy import deepcopy
from dataclasses import replace

import pytest
import reference
import reference_patching
import torch
from attribution.test_attribution import by_logit_diff, by_prob_diff, pairs, patched
from engine.test_laws import Boom, raising, raising_module, state_of
from golden_numbers import golden_batches, golden_model
from golden_numbers import scores as golden_scores
from torch.testing import assert_close

from circuitprune.attribution import METHODS
from circuitprune.attribution.nodes import lift
from circuitprune.circuits.graph import Graph
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError, GraphError, NonFiniteError
from circuitprune.patching.effects import edge_effects, node_effects, plan, replay_of
from circuitprune.patching.recorded import RecordedRun

EXACT = dict(rtol=1e-10, atol=1e-10)
every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
both_directions = pytest.mark.parametrize("direction", ["noising", "denoising"])


@pytest.fixture
def references(model, kv_readers) -> References:
    return patched(model, kv_readers)


def rounding(family: str) -> dict[str, float]:
    """1e-10, but where Gemma-2's norms and softmax, in float32, may round another way."""
    return dict(rtol=1e-6, atol=1e-6) if family == "gemma2" else EXACT


def hooked_model(model, family, kv_readers):
    """A model whose modules are those that the graph's readers name."""
    return model if kv_readers == "kv_head" else reference.ungrouped_model(model, family)


def some_edges(graph: Graph, step: int, start: int = 0) -> torch.Tensor:
    """Every `step`-th edge and the last edge of each block."""
    ends = [block.edges.stop - 1 for block in graph.blocks]
    return torch.cat([torch.arange(start, graph.n_edges, step), torch.tensor(ends)])


def by_gates(references, batch, closed, metric=by_logit_diff):
    """`[example]`: the gated engine's change of the metric with some edges closed."""
    gates = (~closed).double()
    gated, ablated = references.gated, references.ablated(batch)
    logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
    return metric(logits, batch) - metric(references.full_logits(batch), batch)


# ------------------------------------------------------------------ against slow references


@every_graph
@both_directions
@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (0, 3)], ids=["padded", "unpadded"])
def test_edges_are_those_of_hooks(model, family, kv_readers, references, direction, rows):
    batch, graph = pairs(rows), references.gated.graph
    edges = some_edges(graph, 17 if len(rows) == 4 else 41)
    tokens = (batch.clean, batch.corrupt)
    expected = reference_patching.edge_effects(
        hooked_model(model, family, kv_readers),
        family,
        *(tokens if direction == "noising" else tokens[::-1]),
        batch,
        lambda logits: by_logit_diff(logits, batch),
        [graph.edges[edge] for edge in edges],
    )
    found = edge_effects(references, [batch], by_logit_diff, edges, direction, per_example=True)
    assert_close(found, expected, **EXACT)
    assert expected.abs().max() > 0.05 and (expected.abs().amax(1) > 1e-4).double().mean() > 0.8


@every_graph
@both_directions
def test_nodes_are_those_of_hooks(model, family, kv_readers, references, direction):
    batch, graph = pairs(), references.gated.graph
    tokens = (batch.clean, batch.corrupt)
    expected = reference_patching.node_effects(
        model,
        family,
        *(tokens if direction == "noising" else tokens[::-1]),
        batch,
        lambda logits: by_logit_diff(logits, batch),
        list(graph.writers),
    )
    found = node_effects(references, [batch], by_logit_diff, direction=direction, per_example=True)
    assert_close(found, expected, **EXACT)
    assert (expected.abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("kind", ["zero", "mean", "positional-mean", "resample", "optimal"])
def test_other_ablations_are_one_closed_gate(model, family, kind):
    batch, close = pairs(), rounding(family)
    gated = GatedModel(model)
    references = References(gated, make_ablation(kind, gated.ports, [batch]))
    edges = some_edges(gated.graph, 37)
    expected = [
        by_gates(references, batch, torch.arange(gated.graph.n_edges) == edge) for edge in edges
    ]
    found = edge_effects(references, [batch], by_logit_diff, edges, per_example=True)
    assert_close(found, torch.stack(expected), **close)
    expected = [by_gates(references, batch, gated.graph.edge_writer == w) for w in (0, 3, 5)]
    found = node_effects(
        references, [batch], by_logit_diff, torch.tensor([0, 3, 5]), per_example=True
    )
    assert_close(found, torch.stack(expected), **close)


def test_the_mean_is_that_of_the_transformer_by_hand(model, family):
    references, batch = patched(model), pairs()
    graph = references.gated.graph
    edges = some_edges(graph, 61).unique()
    expected = reference.exact_scores(
        model,
        family,
        graph,
        batch.clean,
        batch.corrupt,
        batch.mask,
        lambda logits: by_prob_diff(reference.at_last(logits, batch.last), batch),
        [graph.edges[edge] for edge in edges],
    )
    expected = torch.tensor(list(expected.values()), dtype=torch.float64)
    found = edge_effects(references, [batch], by_prob_diff, edges)
    assert_close(found, expected, **rounding(family))


def test_all_scores_equal_those_of_eap_ig():
    """The exact score of all 479 edges, to 1e-9, from batches of 5, 5, 5 and 1."""
    references, golden = patched(golden_model()), golden_scores("exact")
    names = references.gated.graph.edges
    assert set(golden) == set(names) and len(golden) == 479
    expected = torch.tensor([golden[name] for name in names], dtype=torch.float64)
    found = edge_effects(references, golden_batches(5), by_logit_diff)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------ how the work is cut


@every_graph
@pytest.mark.parametrize("tokens_per_pass", [1, 72, 10**6])
def test_passes_of_any_size_give_the_same(references, kv_readers, tokens_per_pass):
    """1: one edge at a time; 72: two of the padded batch."""
    for of in (edge_effects, node_effects):
        expected = of(references, [pairs()], by_logit_diff)
        found = of(references, [pairs()], by_logit_diff, tokens_per_pass=tokens_per_pass)
        assert_close(found, expected, **EXACT)
        assert found.dtype == torch.float64 and found.abs().max() > 0.1


@pytest.mark.parametrize("kv_readers", ["kv_head"])
@both_directions
def test_examples_may_come_in_any_batches(references, family, direction):
    whole = edge_effects(references, [pairs()], by_logit_diff, None, direction, per_example=True)
    parts = [pairs([0]), pairs([1, 2]), pairs([3])]
    for of_edges in (edge_effects, node_effects):
        expected = of_edges(references, [pairs()], by_logit_diff, None, direction)
        found = of_edges(references, parts, by_logit_diff, None, direction)
        assert_close(found, expected, **rounding(family))
    found = edge_effects(references, iter(parts), by_logit_diff, None, direction, per_example=True)
    assert_close(found, whole, **rounding(family))
    assert_close(whole.mean(1), edge_effects(references, [pairs()], by_logit_diff, None, direction))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("kv_readers", ["kv_head"])
def test_shards_and_subsets_give_what_the_whole_gives(references):
    graph = references.gated.graph
    whole = edge_effects(references, [pairs()], by_logit_diff)
    for shard in plan(graph, None, 70):
        assert_close(edge_effects(references, [pairs()], by_logit_diff, shard), whole[shard])
    mixed = torch.tensor([7, 180, 7, 0, graph.n_edges - 1, 33])
    assert_close(edge_effects(references, [pairs()], by_logit_diff, mixed), whole[mixed], **EXACT)
    nodes = node_effects(references, [pairs()], by_logit_diff)
    mixed = torch.tensor([4, 0, 4, graph.n_writers - 1])
    assert_close(node_effects(references, [pairs()], by_logit_diff, mixed), nodes[mixed], **EXACT)
    assert edge_effects(references, [pairs()], by_logit_diff, mixed[:0]).shape == (0,)


def test_a_plan_holds_every_edge_once_and_keeps_shared_work_together():
    graph = Graph(3, 4, 2)
    shards = plan(graph, None, 25)
    assert [len(shard) for shard in shards] == [25] * 7 + [15]
    order = torch.cat(shards)
    assert_close(order.sort().values, torch.arange(graph.n_edges))
    readers = [graph.block_of_reader(int(r)).first_edge for r in graph.edge_reader[order]]
    work = list(zip(readers, graph.edge_writer[order].tolist(), strict=True))
    assert work == sorted(work)
    shuffled = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(0))
    again = plan(graph, shuffled, 25)
    assert all(torch.equal(one, two) for one, two in zip(shards, again, strict=True))
    assert [shard.tolist() for shard in plan(graph, torch.tensor([5, 2]), 9)] in (
        [[2, 5]],
        [[5, 2]],
    )


@pytest.mark.parametrize("of", [edge_effects, node_effects])
def test_progress_counts_what_is_done(tiny_model, of):
    references, calls = patched(tiny_model("llama")), []
    batches = iter([pairs([0]), pairs([1])])
    n = len(of(references, batches, by_logit_diff, progress=lambda *told: calls.append(told)))
    assert calls == sorted(calls) and len(calls) > 2
    assert calls[-1] == (2 * n, 2 * n) and {total for _, total in calls} == {2 * n}


# ------------------------------------------------------------------ laws


@pytest.mark.parametrize("kv_readers", ["kv_head"])
def test_identical_prompts_have_no_effects(references):
    batch = replace(pairs(), corrupt=pairs().clean)
    for of in (edge_effects, node_effects):
        found = of(references, [batch], by_logit_diff)
        assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_part_taken_up_again_is_the_part_that_was_recorded(tiny_model, name, dtype):
    """To the bit: in bfloat16 another kernel for the same GELU moves as much as an edge does."""
    gated, batch = GatedModel(deepcopy(tiny_model(name)).to(dtype)), pairs()
    run = RecordedRun(gated, batch.clean_prompts)
    for layer in range(2):
        again = run.mlp(layer, run.streams[layer] + run.heads[layer])
        assert torch.equal(again, run.written[gated.graph.mlp_writer(layer)])


def test_a_mask_is_its_positions(tiny_model):
    references = patched(tiny_model("llama"))
    mask = torch.arange(references.gated.graph.n_edges) % 9 == 4
    expected = edge_effects(references, [pairs()], by_logit_diff, mask.nonzero().flatten())
    assert torch.equal(edge_effects(references, [pairs()], by_logit_diff, mask), expected)
    with pytest.raises(GraphError, match="a mask of 7"):
        edge_effects(references, [pairs()], by_logit_diff, mask[:7])


@pytest.mark.parametrize("kv_readers", ["kv_head"])
def test_what_stands_in_the_padding_changes_nothing(references):
    batch = pairs()
    other = {"clean": batch.clean.clone(), "corrupt": batch.corrupt.clone()}
    for tokens in other.values():
        tokens[~batch.mask] = 17
    fresh = References(references.gated, references.ablation, max_gb=0.0)
    expected = edge_effects(fresh, [batch], by_logit_diff)
    found = edge_effects(fresh, [replace(batch, **other)], by_logit_diff)
    assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kv_readers", ["kv_head"])
@pytest.mark.parametrize("where", ["embedding", "mlp", "attention", "unembedding"])
def test_an_exception_leaves_the_model_as_it_was(model, family, references, where):
    before = state_of(model)
    replay = replay_of(references, pairs())
    edges = torch.arange(references.gated.graph.n_edges)
    with raising(raising_module(model, family, where)):
        with pytest.raises(Boom):
            edge_effects(references, [pairs()], by_logit_diff)
        if where != "embedding":  # a replay does not embed again
            with pytest.raises(Boom):
                list(replay.edges(edges))
            with pytest.raises(Boom):
                list(replay.nodes([0, 1]))
    assert state_of(model) == before
    edge_effects(references, [pairs()], by_logit_diff, edges[::40])
    assert state_of(model) == before


def test_a_replay_can_be_asked_twice(tiny_model):
    """What is stacked and added in place is never the record."""
    replay = replay_of(patched(tiny_model("gemma2")), pairs())
    edges = torch.arange(0, replay.graph.n_edges, 5)
    first, second = (
        torch.cat([logits.clone() for _, logits in replay.edges(edges)]) for _ in range(2)
    )
    assert torch.equal(first, second)
    nodes = [torch.cat([logits for _, logits in replay.nodes(range(6))]) for _ in range(2)]
    assert torch.equal(*nodes)


# ------------------------------------------------------------------ what is refused


def test_denoising_needs_a_corrupt_run(tiny_model):
    gated = GatedModel(tiny_model("gpt2"))
    references = References(gated, make_ablation("zero", gated.ports, []))
    with pytest.raises(ConfigError, match=r"not for 'zero'; set ablation=patch"):
        edge_effects(references, [pairs()], by_logit_diff, direction="denoising")
    with pytest.raises(ConfigError, match="got 'sideways'"):
        edge_effects(references, [pairs()], by_logit_diff, direction="sideways")


def test_no_batches_and_unknown_edges_are_errors(tiny_model):
    references = patched(tiny_model("gpt2"))
    n = references.gated.graph.n_edges
    for of in (edge_effects, node_effects):
        with pytest.raises(DataError, match="given no batches"):
            of(references, [], by_logit_diff)
        for bad in (n, -1):
            with pytest.raises(GraphError, match=f"no (edge|writer) {bad} in"):
                of(references, [pairs()], by_logit_diff, torch.tensor([0, bad]))
    with pytest.raises(GraphError, match="per_shard=0"):
        plan(references.gated.graph, None, 0)


def test_edges_and_nodes_go_by_their_names(tiny_model):
    references = patched(tiny_model("gpt2"))
    graph, given = references.gated.graph, (references, [pairs()], by_logit_diff)
    edges, nodes = ["m0->logits", "input->a1.h0<q>"], ["a0.h1", "m2"]
    positions = torch.tensor([graph.edge_index(name) for name in edges])
    assert torch.equal(edge_effects(*given, edges), edge_effects(*given, positions))
    positions = torch.tensor([graph.writer_index(name) for name in nodes])
    assert torch.equal(node_effects(*given, nodes), node_effects(*given, positions))
    assert torch.equal(edge_effects(*given, "m0->logits"), edge_effects(*given, edges[:1]))
    for of, names, words in (
        (edge_effects, ["m0->x"], "no reader 'x'"),
        (node_effects, ["m0", "x"], "no writer 'x'"),
    ):
        with pytest.raises(GraphError, match=words):
            of(*given, names)


def test_effects_that_are_not_finite_name_their_examples(tiny_model):
    def metric(logits, batch):
        return by_logit_diff(logits, batch) * (torch.nan if 22 in batch.index else 1.0)

    with pytest.raises(NonFiniteError, match=r"on examples \[22, 23\]"):
        node_effects(patched(tiny_model("gpt2")), [pairs([0, 1]), pairs([2, 3])], metric)


# ------------------------------------------------------------------ as attribution methods


def test_methods_are_these_effects_and_negative_means_that_an_edge_helps(tiny_model):
    references = patched(tiny_model("llama"))
    graph, given = references.gated.graph, (references, [pairs()], by_logit_diff)
    assert_close(METHODS["exact"].score(*given), edge_effects(*given))
    restored = edge_effects(*given, direction="denoising")
    assert_close(METHODS["exact_denoising"].score(*given), -restored)
    assert_close(METHODS["exact_nodes"].score(*given), lift(graph, node_effects(*given)))
    direct = graph.edge_index("m2->logits")  # the same change there and back, but for the norm
    assert (
        METHODS["exact"].score(*given)[direct].sign()
        == METHODS["exact_denoising"].score(*given)[direct].sign()
    )
