"""Readers of several layers mixed together: any cut of the layers gives the same numbers."""

from collections.abc import Callable

import pytest
import torch
from conftest import build_tiny_model, random_batch
from torch import Tensor
from torch.testing import assert_close

from circuitprune.circuits.graph import Graph
from circuitprune.data.pairs import Batch
from circuitprune.engine import contraction, gated_stream
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.layout import Layout
from circuitprune.engine.panels import ROOM, SHARE, Member, Panel, layers_in_panels
from circuitprune.engine.tapped import edge_scores

FAMILIES = [
    ("gpt2", "kv_head"),
    ("llama", "kv_head"),
    ("llama", "query_head"),
    ("gpt_neox", "kv_head"),  # a parallel block
    ("gemma2", "kv_head"),  # norms behind the attention
]
CUTS = {
    "each layer alone": [[0], [1], [2]],
    "two and one": [[0, 1], [2]],
    "one and two": [[0], [1, 2]],
    "all": [[0, 1, 2]],
}
EXACT = dict(rtol=1e-12, atol=1e-12)


def cut(monkeypatch, runs: list[list[int]]) -> None:
    for module in (gated_stream, contraction):
        monkeypatch.setattr(module, "layers_in_panels", lambda *_: runs)


@pytest.fixture(params=FAMILIES, ids=" ".join)
def gated(request) -> GatedModel:
    family, kv_readers = request.param
    return GatedModel(build_tiny_model(family), kv_readers)


def fractions(gated: GatedModel) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(gated.graph.n_edges, generator=generator, dtype=torch.float64)


def logits_and_slopes(gated: GatedModel, at_answers: bool) -> Callable[[], tuple[Tensor, Tensor]]:
    """Logits of random gates and the gradient of a weighted sum of them."""
    batch = random_batch([9, 9, 7, 6], seed=0)
    ablated, last = gated.record(batch.corrupt, batch.mask), batch.last if at_answers else None

    def run() -> tuple[Tensor, Tensor]:
        gates = fractions(gated).requires_grad_()
        logits = gated(gates, batch.clean, batch.mask, ablated, last)
        real = logits if at_answers else batch.real(logits)
        weights = torch.linspace(-1, 1, real.shape[-1], dtype=real.dtype)
        (slopes,) = torch.autograd.grad((real * weights).sum(), gates)
        with torch.no_grad():
            again = gated(gates, batch.clean, batch.mask, ablated, last)
        assert_close(again, logits.detach(), rtol=0, atol=0)
        return real.detach(), slopes

    return run


@pytest.mark.parametrize("at_answers", [True, False])
def test_any_cut_gives_the_same_logits_and_gradient(gated, at_answers, monkeypatch):
    run = logits_and_slopes(gated, at_answers)
    cut(monkeypatch, CUTS["each layer alone"])
    logits, slopes = run()
    assert slopes.abs().median() > 1e-4
    for runs in CUTS.values():
        cut(monkeypatch, runs)
        for one, expected in zip(run(), (logits, slopes), strict=True):
            assert_close(one, expected, **EXACT)


@pytest.mark.parametrize("runs", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("worth", [0.0, 1e9], ids=["all kept", "none kept"])
def test_inputs_mixed_again_give_the_same_gradient(runs, worth, monkeypatch):
    """One buffer for all panels, or one for each: and a second pass starts from gradients."""
    gated = GatedModel(build_tiny_model("llama"))
    run = logits_and_slopes(gated, True)
    expected = run()
    cut(monkeypatch, runs)
    monkeypatch.setattr(gated_stream, "WORTH_KEEPING", worth)
    for one, other in zip(run(), expected, strict=True):
        assert_close(one, other, **EXACT)
    batch, gates = random_batch([9, 6], seed=1), fractions(gated).requires_grad_()
    logits = gated(gates, batch.clean, batch.mask, gated.record(batch.corrupt, batch.mask))
    passes = [torch.autograd.grad(logits[:, -1].sum(), gates, retain_graph=True)[0] for _ in "123"]
    assert_close(passes[1], passes[0], **EXACT)
    assert_close(passes[2], passes[0], **EXACT)


def test_gradient_of_each_gate_is_a_finite_difference(monkeypatch):
    """Torch's own check, at the answers, with every edge of a model in two panels."""
    gated = GatedModel(build_tiny_model("gpt2"))
    batch = random_batch([5, 4], seed=2)
    ablated = gated.record(batch.corrupt, batch.mask)
    cut(monkeypatch, CUTS["one and two"])

    def score(gates: Tensor) -> Tensor:
        logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
        return (logits * torch.linspace(-1, 1, logits.shape[-1], dtype=logits.dtype)).sum()

    gates = fractions(gated).requires_grad_()
    # a second pass mixes the inputs again, in another order
    assert torch.autograd.gradcheck(score, gates, atol=1e-6, nondet_tol=1e-12, fast_mode=True)


def test_any_cut_gives_the_same_scores(gated, monkeypatch):
    none = torch.full((4, 1), -1)
    batch = Batch(torch.arange(4), *random_batch([9, 9, 7, 6], seed=0), none, none)

    def metric(logits: Tensor, _: Batch) -> Tensor:
        return logits @ torch.linspace(-1, 1, logits.shape[-1], dtype=logits.dtype)

    def scores() -> Tensor:
        return edge_scores(gated, batch, metric, gated.record(batch.corrupt, batch.mask))

    cut(monkeypatch, CUTS["each layer alone"])
    expected = scores()
    assert expected.abs().median() > 1e-4
    for runs in CUTS.values():
        cut(monkeypatch, runs)
        assert_close(scores(), expected, **EXACT)


# ------------------------------------------------------------------ how layers are cut


@pytest.mark.parametrize("n_layers", [1, 2, 3, 12, 24, 30, 80])
@pytest.mark.parametrize("row_bytes", [1, 1 << 18, 1 << 24, 1 << 40])
def test_runs_of_layers_are_as_long_as_memory_allows(n_layers, row_bytes):
    graph = Graph(n_layers=n_layers, n_heads=12, n_kv_readers=4)
    runs = layers_in_panels(graph, row_bytes)
    assert [layer for run in runs for layer in run] == list(range(n_layers))
    longest = max(map(len, runs))
    assert longest - min(map(len, runs)) <= 1 and longest <= round(n_layers**0.5)
    room = max(ROOM, SHARE * graph.n_writers * row_bytes)
    assert longest == 1 or longest * graph.readers_per_layer * row_bytes <= room
    if row_bytes == 1:
        assert len(runs) == -(-n_layers // round(n_layers**0.5))


def test_known_shapes():
    gpt2_small, smollm2 = Graph(12, 12, 12), Graph(30, 9, 3)
    assert set(map(len, layers_in_panels(gpt2_small, 320 * 768 * 4))) == {3}
    assert set(map(len, layers_in_panels(smollm2, 112 * 576 * 4))) == {5}
    assert set(map(len, layers_in_panels(gpt2_small, 960 * 768 * 4))) == {2}  # 218 of 268 MB


def test_a_panel_knows_where_its_readers_lie():
    graph = Graph(2, 4, 2)
    attention, mlp, logits = graph.attention_block(1), graph.mlp_block(1), graph.logits_block
    keys_values = Member(attention, slice(4, None), attention.n_writers)
    panel = Panel([keys_values, Member(mlp, slice(None), 6), Member(logits, slice(None), 11)], 6)
    assert [panel.rows[block] for block in (attention, mlp, logits)] == [
        slice(0, 4),
        slice(4, 5),
        slice(5, 6),
    ]
    assert panel.layers == {1: slice(0, 5), 2: slice(5, 6)} and panel.n_rows == 6
    assert panel.n_writers == {1: 6, 2: 11}


def test_a_base_lies_in_front_of_its_writers():
    layout = Layout(11, [1, 6, 11])
    taken = [*layout.writer_rows.tolist(), *(layout.base(start) for start in layout.starts)]
    assert sorted(taken) == list(range(layout.n_rows)) and layout.starts == [0, 1, 6]
    assert [layout.base(writer) for writer in (0, 1, 5, 6, 10)] == [0, 2, 2, 8, 8]
    assert [layout.up_to(n) for n in (0, 1, 2, 6, 7, 11)] == [0, 2, 4, 8, 10, 14]
    gates = torch.rand(3, 6)
    wide = layout.widened(gates.unsqueeze(0))[0]
    assert_close(wide[:, [0, 2]], torch.ones(3, 2))
    assert_close(wide[:, layout.writer_rows[:6]], gates)
    assert layout.rows(slice(2, 6)) == slice(4, 8)
