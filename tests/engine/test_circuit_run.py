"""Circuits run by what they reach give the logits of the gated model, whatever the family."""

import pytest
import torch
from models.test_prefixes import Both

from circuitprune.circuits.reachability import live_edges
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.circuit_run import SMALL
from circuitprune.engine.references import References

CIRCUITS = 3


def circuits(both: Both) -> list[torch.Tensor]:
    """Random ones, of more and more edges; then the empty one, and paths through one component."""
    graph, generator = both.gated.graph, torch.Generator().manual_seed(3)
    draws = torch.rand(CIRCUITS, graph.n_edges, generator=generator)
    shares = torch.linspace(0.02, 0.15, CIRCUITS)
    masks = list(draws < shares[:, None])
    masks.append(graph.no_edges())
    for name in ("a1.h2", "m1"):
        path = graph.no_edges()
        into = {"a1.h2": "input->a1.h2<q>", "m1": "input->m1"}[name]
        path[[graph.edge_index(into), graph.edge_index(f"{name}->logits")]] = True
        masks.append(path)
    return masks


def check(both: Both) -> int:
    """All circuits by reach and under gates, and of whole prompts what is live in them.

    Returns how many were run by reach.
    """
    by_reach = 0
    for references in (both.left_out, both.whole):
        run = references.run(both.batch)
        with torch.no_grad():
            full = run(torch.ones(both.gated.graph.n_edges, dtype=both.gated.dtype))
        for mask in circuits(both):
            circuit = live_edges(both.gated.graph, mask) if references is both.whole else mask
            by_reach += run.circuits.reach(circuit) is not None
            with torch.no_grad():
                expected, got = run(circuit.to(both.gated.dtype)), run(circuit)
            error = ((got - expected).abs().max() / full.std()).item()
            assert error <= both.tolerance, f"{int(circuit.sum())} edges: {error:.2g}"
    return by_reach


MECHANISMS = (
    *("gpt2", "gpt_neox", "gpt_neox_sequential", "llama", "gemma2", "gemma3_text", "phi", "phi3"),
    *("cohere2", "gptj", "gpt_neo", "granite", "olmo2", "gpt_bigcode_mqa", "falcon_7b", "bloom"),
    *("mpt", "opt", "llama4_text", "mixtral", "gpt_oss", "minimax_m2", "ernie4_5_moe"),
)
"""One family or two of each layout, norm, branch and attention; all share the code under test."""


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.usefixtures("untyped")
def test_a_circuit_by_reach_is_the_gated_model(name):
    assert check(Both(name)) >= 8


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3"])
@pytest.mark.usefixtures("untyped")
def test_readers_may_count_by_query_head(name):
    assert check(Both(name, "query_head")) >= 8


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_a_reader_without_open_edges_still_runs_where_cut_edges_carry_no_run(kind):
    """It sees a sum of means, and what it makes of that is no mean."""
    both = Both("llama")
    ablation = make_ablation(kind, both.gated.ports, [both.batch])
    run = References(both.gated, ablation).run(both.batch)
    with torch.no_grad():
        for mask in circuits(both):
            assert torch.equal(run(mask), run(mask.to(both.gated.dtype)))


def test_a_large_circuit_is_run_under_gates():
    both = Both("llama")
    run, graph = both.left_out.run(both.batch), both.gated.graph
    assert run.circuits.reach(torch.ones(graph.n_edges, dtype=torch.bool)) is None
    assert run.circuits.reach(graph.no_edges()) is not None
    assert 0 < SMALL < 1


def counted(called, place, own):
    def forward(*args, **kwargs):
        called.append(place)
        return own(*args, **kwargs)

    return forward


def test_only_what_the_circuit_reaches_is_computed(monkeypatch):
    """Of a path through one MLP, no attention runs and no other MLP."""
    both = Both("llama")
    graph, run = both.gated.graph, both.left_out.run(both.batch)
    mask = graph.no_edges()
    mask[[graph.edge_index("input->m1"), graph.edge_index("m1->logits")]] = True
    called = []
    assert both.gated.ports.more_returned is not None
    for layer, modules in enumerate(both.gated.ports.layers):
        for module in (modules.attention, modules.mlp):
            place, own = (layer, type(module).__name__), module.forward
            monkeypatch.setitem(module.__dict__, "forward", counted(called, place, own))
    run(mask)
    assert called == [(1, "LlamaMLP")]
