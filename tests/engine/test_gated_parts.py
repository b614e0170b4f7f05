"""The laws of gates on parts: against hooks on the untouched model, one part at a time."""

from contextlib import ExitStack

import pytest
import reference_parts
import torch
from family_configs import build
from torch import Tensor
from torch.testing import assert_close

from circuitprune.circuits.part_graph import PartGraph
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.selfcheck import self_check
from circuitprune.errors import ConfigError, GraphError, ModelError

SHAPES = ("gpt2", "llama", "gemma2")
EXACT = dict(rtol=1e-10, atol=1e-10)
SINGLE = dict(rtol=1e-6, atol=1e-6)
"""Of norms that Hugging Face computes in float32 whatever the model's type."""


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["node", "neuron"])
def gated(request: pytest.FixtureRequest, shape: str):
    """A model under gates on parts."""
    found = GatedParts(build(shape), request.param)
    yield found
    found.release()


def ones(gated: GatedModel) -> Tensor:
    return torch.ones(gated.graph.n_edges, dtype=torch.float64)


def chosen_parts(graph: PartGraph) -> list[str]:
    """A part of each kind of thing: input, head, neuron or MLP, in an early and the last layer."""
    last = [name for name in graph.edges if name.startswith("m2")]
    names = [
        "input",
        "a1.h2",
        "a2.h0",
        last[0],
        last[-1],
        "m0.n3" if graph.level == "neuron" else "m0",
    ]
    return sorted({*names} & {*graph.edges})


def test_all_open_is_the_model_to_the_bit(gated: GatedParts, padded_batch) -> None:
    b = padded_batch
    logits = gated(ones(gated), b.clean, b.mask, gated.record(b.corrupt, b.mask))
    assert torch.equal(logits, gated.plain(b.clean, b.mask))


def test_all_closed_is_the_corrupt_run(gated: GatedParts, padded_batch) -> None:
    b = padded_batch
    logits = gated(0 * ones(gated), b.clean, b.mask, gated.record(b.corrupt, b.mask))
    assert_close(b.real(logits), b.real(gated.plain(b.corrupt, b.mask)), **EXACT)


def test_one_closed_is_a_hook_on_the_untouched_model(gated: GatedParts, padded_batch) -> None:
    b, graph = padded_batch, gated.graph
    ablated, plain = gated.record(b.corrupt, b.mask), gated.plain(b.clean, b.mask)
    for name in chosen_parts(graph):
        gates = ones(gated)
        gates[graph.edge_index(name)] = 0
        logits = gated(gates, b.clean, b.mask, ablated)
        hooked = reference_parts.patched(gated.model, b.clean, b.corrupt, b.mask, {name: 0.0})
        assert_close(b.real(logits), b.real(hooked), **EXACT)
        assert (logits - plain)[b.mask].abs().max() > 1e-4, f"{name} does nothing"


def test_fractions_of_many_are_hooks(gated: GatedParts, padded_batch) -> None:
    """All kinds of parts half open together: what is downstream is itself changed."""
    b, graph = padded_batch, gated.graph
    names = chosen_parts(graph)
    gates = ones(gated)
    shares = {name: 0.1 + 0.8 * i / len(names) for i, name in enumerate(names)}
    for name, share in shares.items():
        gates[graph.edge_index(name)] = share
    logits = gated(gates, b.clean, b.mask, gated.record(b.corrupt, b.mask))
    hooked = reference_parts.patched(gated.model, b.clean, b.corrupt, b.mask, shares)
    assert_close(b.real(logits), b.real(hooked), **SINGLE)


def test_gradient_is_the_finite_difference(padded_batch) -> None:
    """In GPT-2's shape: an RMSNorm of Hugging Face's rounds to float32, which shows in steps."""
    b, gated = padded_batch, GatedParts(build("gpt2"), "neuron")
    ablated = gated.record(b.corrupt, b.mask)
    generator = torch.Generator().manual_seed(0)
    gates = torch.rand(gated.graph.n_edges, generator=generator, dtype=torch.float64)

    def score(gates: Tensor) -> Tensor:
        return gated(gates, b.clean, b.mask, ablated, b.last)[:, 5].sum()

    gradient = torch.autograd.grad(score(gates.requires_grad_()), gates)[0]
    gates = gates.detach()
    for name in chosen_parts(gated.graph):
        step = torch.zeros_like(gates)
        step[gated.graph.edge_index(name)] = 1e-5
        slope = (score(gates + step) - score(gates - step)) / 2e-5
        assert_close(gradient[gated.graph.edge_index(name)], slope, rtol=1e-6, atol=1e-9)
    gated.release()


def test_nodes_are_edges_that_share_a_gate(shape: str, padded_batch) -> None:
    b, model = padded_batch, build(shape)
    parts, edges = GatedParts(model, "node"), GatedModel(model)
    generator = torch.Generator().manual_seed(1)
    gates = torch.rand(parts.graph.n_edges, generator=generator, dtype=torch.float64)
    by_part = parts(gates, b.clean, b.mask, parts.record(b.corrupt, b.mask))
    tied = gates[edges.graph.edge_writer]
    by_edge = edges(tied, b.clean, b.mask, edges.record(b.corrupt, b.mask))
    assert_close(b.real(by_part), b.real(by_edge), **SINGLE)
    edges.release()
    parts.release()


def test_neurons_of_one_mlp_are_the_mlp(shape: str, padded_batch) -> None:
    b, model = padded_batch, build(shape)
    fine, coarse = GatedParts(model, "neuron"), GatedParts(model, "node")
    few, whole = ones(fine), ones(coarse)
    few[fine.graph.edge_writer == fine.graph.writer_index("m1")] = 0
    whole[coarse.graph.edge_index("m1")] = 0
    a = fine(few, b.clean, b.mask, fine.record(b.corrupt, b.mask))
    c = coarse(whole, b.clean, b.mask, coarse.record(b.corrupt, b.mask))
    assert_close(b.real(a), b.real(c), **SINGLE)
    coarse.release()
    fine.release()


@pytest.mark.parametrize("name", ["opt", "gpt_neox", "olmo2", "falcon_rw", "granite", "phi3"])
def test_other_families_by_their_declarations(name: str, padded_batch) -> None:
    """Neurons where an MLP has no module, is parallel, has a norm behind, or a multiplier."""
    b, gated = padded_batch, GatedParts(build(name), "neuron")
    ablated = gated.record(b.corrupt, b.mask)
    closed = gated(0 * ones(gated), b.clean, b.mask, ablated)
    assert_close(b.real(closed), b.real(gated.plain(b.corrupt, b.mask)), **SINGLE)
    gates = ones(gated)
    gates[gated.graph.edge_index("m1.n3")] = 0
    hooked = reference_parts.patched(gated.model, b.clean, b.corrupt, b.mask, {"m1.n3": 0.0})
    assert_close(b.real(gated(gates, b.clean, b.mask, ablated)), b.real(hooked), **SINGLE)
    gated.release()


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_mixtures_of_experts_are_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}.*no neurons of its own"):
        GatedParts(build(name), "neuron")


@pytest.mark.parametrize("kind", ["zero", "mean", "positional-mean"])
def test_constants_are_of_the_parts(kind: str, padded_batch) -> None:
    """What a neuron carries when cut is the mean of its own activation over the corrupt prompts."""
    b = reference_parts.as_batch(padded_batch)
    gated = GatedParts(build("llama"), "neuron")
    carried = gated.ablation(kind, [b])(b)
    written = gated.record(b.corrupt, b.mask)[0]
    real = b.mask.unsqueeze(-1)
    expected = {
        "zero": torch.zeros_like(written),
        "mean": written[b.mask].mean(0).expand_as(written),
        "positional-mean": ((written * real).sum(0) / real.sum(0)).expand_as(written),
    }[kind]
    assert_close(carried[0][b.mask], expected[b.mask], **SINGLE)
    gated.release()


def test_the_model_is_as_it_was_after_an_error(padded_batch) -> None:
    b, gated = padded_batch, GatedParts(build("gpt2"), "neuron")
    before = gated.plain(b.clean, b.mask)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(RuntimeError, match="broken"))
        with gated.ports.layers[1].mlp.register_forward_pre_hook(_fail):
            gated(ones(gated), b.clean, b.mask, gated.record(b.corrupt, b.mask))
    assert torch.equal(gated.plain(b.clean, b.mask), before)
    gated.release()


def _fail(*_: object) -> None:
    raise RuntimeError("broken")


def test_what_does_not_fit_is_refused(padded_batch) -> None:
    b, model = padded_batch, build("gpt2")
    with pytest.raises(ConfigError, match="node, neuron or feature"):
        GatedParts(model, "atom")
    edges, gated = GatedModel(model), GatedParts(model, "node")
    with pytest.raises(GraphError, match="expected 16 gates, one per part"):
        gated(torch.ones(15), b.clean, b.mask, gated.record(b.corrupt, b.mask))
    with pytest.raises(GraphError, match="ablated parts of width"):
        gated(ones(gated), b.clean, b.mask, edges.record(b.corrupt, b.mask))
    gated.release()
    edges.release()


def test_the_check_at_load_sees_a_wrong_declaration() -> None:
    """A place that is not all of the MLP: its neurons closed are not the MLP patched."""
    gated = GatedParts(build("gpt2"), "neuron")
    self_check(gated)
    object.__setattr__(gated.sites[4], "module", torch.nn.Identity())  # of layer 1
    with pytest.raises(ModelError, match="all parts of m1 closed"):
        self_check(gated)
    gated.release()
