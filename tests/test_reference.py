"""The slow truth is itself held against untouched Hugging Face models."""

import math

import pytest
import reference
import torch
from golden_numbers import golden_batches, golden_model
from golden_numbers import scores as golden_scores
from torch.testing import assert_close

from circuitprune.circuits.graph import Graph

every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)


@pytest.fixture
def graph(model, family, kv_readers) -> Graph:
    return reference.graph_of(model, family, kv_readers)


@pytest.fixture
def plain(model, batch):
    return reference.plain_logits(model, batch.clean, batch.mask)


@pytest.fixture
def corrupt(model, family, batch):
    return reference.writers(model, family, batch.corrupt, batch.mask)


def gated(model, family, batch, gates, ablated):
    return reference.gated_logits(model, family, batch.clean, batch.mask, gates, ablated)


def test_writers_add_up_to_the_final_residual(model, family, batch, tolerance):
    written = reference.writers(model, family, batch.clean, batch.mask)
    total = written["input"].clone()
    for number, layer in enumerate(reference.layers(model, family)):
        heads = reference.bias(layer.output) + sum(written[f"a{number}.h{h}"] for h in range(4))
        total += layer.post_attention(heads) + written[f"m{number}"]
    norm = reference.final_norm(model, family)
    stream = reference.seen(model, batch.clean, batch.mask, reference.changed_input, norm)
    assert_close(batch.real(total), batch.real(stream), **tolerance)


@every_graph
def test_open_gates_give_the_model(model, family, batch, graph, corrupt, plain, tolerance):
    gates = dict.fromkeys(graph.edges, 1.0)
    logits = gated(model, family, batch, gates, corrupt)
    assert_close(batch.real(logits), batch.real(plain), **tolerance)


@every_graph
def test_closed_gates_give_the_corrupt_run(model, family, batch, graph, corrupt, plain, tolerance):
    gates = dict.fromkeys(graph.edges, 0.0)
    logits = gated(model, family, batch, gates, corrupt)
    expected = reference.plain_logits(model, batch.corrupt, batch.mask)
    assert_close(batch.real(logits), batch.real(expected), **tolerance)
    assert batch.real(expected - plain).abs().amax(-1).min() > 1e-2


@every_graph
def test_closed_node_is_activation_patching(model, family, batch, graph, corrupt, plain, tolerance):
    for node in graph.writers:
        gates = {e: 0.0 if e.startswith(f"{node}->") else 1.0 for e in graph.edges}
        logits = gated(model, family, batch, gates, corrupt)
        expected = reference.patched_logits(
            model, family, batch.clean, batch.mask, node, corrupt[node]
        )
        assert_close(batch.real(logits), batch.real(expected), **tolerance)
        assert (batch.real(expected) - batch.real(plain)).abs().max() > 1e-2, node


@every_graph
def test_patching_a_head_is_patching_its_slice(model, family, batch, graph, corrupt, tolerance):
    for node in (name for name in graph.writers if name[0] == "a"):
        written = reference.patched_logits(
            model, family, batch.clean, batch.mask, node, corrupt[node]
        )
        sliced = reference.patched_head_logits(
            model, family, batch.clean, batch.corrupt, batch.mask, node
        )
        assert_close(batch.real(written), batch.real(sliced), **tolerance)


@every_graph
def test_closed_reader_is_patching_its_slice(
    model, family, batch, graph, corrupt, plain, tolerance
):
    """By query head, the untouched model is Hugging Face's own with each KV head copied."""
    untouched = model
    if graph.n_kv_readers != reference.sizes(model, family).n_kv:
        untouched = reference.ungrouped_model(model, family)
    for reader in graph.readers:
        gates = {e: 0.0 if e.endswith(f"->{reader}") else 1.0 for e in graph.edges}
        logits = gated(model, family, batch, gates, corrupt)
        expected = reference.patched_reader_logits(
            untouched, family, batch.clean, batch.corrupt, batch.mask, reader
        )
        assert_close(batch.real(logits), batch.real(expected), **tolerance)
        assert (batch.real(expected) - batch.real(plain)).abs().max() > 1e-2, reader


def test_padding_changes_nothing(model, family, padded_batch, tolerance):
    """Each row alone, at its own length, gives the logits that it gives among longer rows."""
    graph, batch = reference.graph_of(model, family), padded_batch
    gates = random_gates(graph)
    ablated = reference.writers(model, family, batch.corrupt, batch.mask)
    together = gated(model, family, batch, gates, ablated)
    for row, end in enumerate(batch.last + 1):
        clean, corrupt, mask = (part[row : row + 1, :end] for part in batch[:3])
        ablated = reference.writers(model, family, corrupt, mask)
        alone = reference.gated_logits(model, family, clean, mask, gates, ablated)
        assert_close(together[row, :end], alone[0], **tolerance)


def random_gates(graph):
    values = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(3))
    return reference.gate_dict(graph, values.double())


def test_ungrouped_model_is_the_same_function(model, family, batch, plain, tolerance):
    wide = reference.ungrouped_model(model, family)
    assert_close(reference.plain_logits(wide, batch.clean, batch.mask), plain, **tolerance)


def test_metrics_on_numbers_worked_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0, 2.0]])
    assert_close(reference.logit_diff(logits, [[0, 1]], [[2, 3]]), torch.tensor([1.0]))
    even, sixths = torch.zeros(1, 4), torch.tensor([[3.0, 1.0, 1.0, 1.0]]).log()
    assert_close(reference.prob_diff(sixths, [[0, 1]], [[2]]), torch.tensor([0.5]))
    assert_close(reference.kl(even, even), torch.tensor([0.0]))
    expected = math.log(0.25 / 0.5) / 4 + 3 * math.log(0.25 / (1 / 6)) / 4
    assert_close(reference.kl(even, sixths), torch.tensor([expected]))


GOLDEN_EDGES = [
    "input->a0.h0<q>",
    "input->a0.h3<k>",
    "input->a1.h2<v>",
    "a0.h1->m0",
    "a0.h2->a1.h1<q>",
    "a1.h3->a3.h0<k>",
    "a0.h0->a2.h3<v>",
    "m0->a1.h3<v>",
    "m0->m2",
    "m1->logits",
    "a3.h2->logits",
    "a2.h1->m3",
    "input->logits",
]


def test_exact_scores_equal_those_of_eap_ig():
    (batch,) = golden_batches()

    def metric(logits):
        return reference.logit_diff(logits[:, -1], batch.answers.tolist(), batch.wrong.tolist())

    scores = reference.exact_scores(
        golden_model(),
        "gpt2",
        Graph(4, 4, 4),
        batch.clean,
        batch.corrupt,
        torch.ones_like(batch.clean),
        metric,
        GOLDEN_EDGES,
    )
    golden = golden_scores("exact")
    expected = {edge: golden[edge] for edge in GOLDEN_EDGES}
    assert_close(scores, expected, rtol=1e-9, atol=1e-9)
