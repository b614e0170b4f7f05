"""Norms in closed form against Hugging Face's modules and autograd."""

from copy import deepcopy

import pytest
import torch
from conftest import build_tiny_model
from torch import nn
from torch.testing import assert_close
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from circuitprune.engine.gated import GatedModel
from circuitprune.engine.selfcheck import self_check
from circuitprune.models.norms import Projection, closed_form, norm_scale, project, pull_back

WIDTH, N_HEADS, D_HEAD, N_TOKENS = 24, 3, 5, 7


def norm(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    made = {
        "layer": lambda: nn.LayerNorm(WIDTH, eps=1e-3),
        "layer_without_bias": lambda: nn.LayerNorm(WIDTH, bias=False),
        "layer_without_weight": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
        "llama": lambda: LlamaRMSNorm(WIDTH, eps=1e-3),
        "gemma": lambda: Gemma2RMSNorm(WIDTH, eps=1e-3),
        "layer_without_epsilon": lambda: nn.LayerNorm(WIDTH, eps=0),
        "llama_without_epsilon": lambda: LlamaRMSNorm(WIDTH, eps=0.0),
    }[kind]()
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made.to(dtype).requires_grad_(False)


KINDS = (
    *("layer", "layer_without_bias", "layer_without_weight", "llama", "gemma"),
    *("layer_without_epsilon", "llama_without_epsilon"),
)
TOLERANCE = {
    "llama": 1e-5,
    "gemma": 1e-5,
    "llama_without_epsilon": 1e-5,
}  # they work in float32 inside


def random_projection(generator: torch.Generator, bias: bool) -> Projection:
    weight = torch.randn(N_HEADS, WIDTH, D_HEAD, generator=generator, dtype=torch.float64)
    shift = torch.randn(N_HEADS, D_HEAD, generator=generator, dtype=torch.float64)
    return Projection(weight, shift if bias else None)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_projection_and_its_gradient_are_autograds(kind, shared, bias):
    """Off-centre vectors, so that a mean that is not taken off shows."""
    generator, module = torch.Generator().manual_seed(0), norm(kind)
    shape = (1 if shared else N_HEADS, N_TOKENS, WIDTH)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 2
    projection = random_projection(generator, bias)
    grads = torch.randn(N_HEADS, N_TOKENS, D_HEAD, generator=generator, dtype=torch.float64)

    wide = x.expand(N_HEADS, -1, -1).clone().requires_grad_()
    expected = torch.bmm(module(wide), projection.weight)
    if projection.bias is not None:
        expected = expected + projection.bias[:, None]
    (expected_back,) = torch.autograd.grad(expected, wide, grads)

    closed, made = closed_form(module), torch.empty_like(grads)
    assert closed is not None
    found = project(closed, projection, wide.detach(), made)
    tolerance = dict(rtol=TOLERANCE.get(kind, 1e-10), atol=TOLERANCE.get(kind, 1e-10))
    assert_close(made, expected.detach(), **tolerance)
    back = torch.empty_like(wide)
    found = closed.statistics(x) if shared else found
    pull_back(closed, projection, made, x, found, grads, back)
    assert_close(back, expected_back, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_no_normed_vectors_are_needed(kind, monkeypatch):
    """Nor is Hugging Face's own norm called, which works in float32: the weights hold its gain."""
    generator, double, single = torch.Generator().manual_seed(0), norm(kind), norm(kind)
    projection = random_projection(generator, True)
    x = torch.randn(N_HEADS, N_TOKENS, WIDTH, generator=generator, dtype=torch.float64) * 3 + 2
    expected = torch.bmm(double(x), projection.weight) + projection.bias[:, None]
    closed = closed_form(single.float())
    assert closed is not None
    monkeypatch.setattr(type(single), "forward", None)
    made = torch.empty(N_HEADS, N_TOKENS, D_HEAD)
    floats = Projection(projection.weight.float(), projection.bias.float())
    project(closed, floats, x.float(), made)
    assert_close(made.double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_the_gradient_may_take_the_place_of_the_input():
    generator, module = torch.Generator().manual_seed(0), norm("layer")
    x = torch.randn(N_HEADS, N_TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    projection, closed = random_projection(generator, True), closed_form(module)
    assert closed is not None
    heads = torch.empty(N_HEADS, N_TOKENS, D_HEAD, dtype=torch.float64)
    found, grads = project(closed, projection, x, heads), torch.randn_like(heads)
    apart = torch.empty_like(x)
    pull_back(closed, projection, heads, x, found, grads, apart)
    pull_back(closed, projection, heads, x, found, grads, x)
    assert_close(x, apart, rtol=0, atol=0)


def test_norms_of_unknown_form_are_left_to_autograd():
    class OddRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + hidden_states

    assert closed_form(nn.Identity()) is None
    assert closed_form(OddRMSNorm(WIDTH)) is None
    assert closed_form(nn.RMSNorm(WIDTH)) is None  # its epsilon depends on the type


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_vector_is_multiplied_by_is_the_norms_own_slope(kind):
    """A norm whose epsilon is 0 says so, and has this scale as any other."""
    module = norm(kind)
    x = torch.linspace(-1.0, 2.0, WIDTH, dtype=torch.float64)
    shift = getattr(module, "bias", None)
    given = module(x) - (0.0 if shift is None else shift)
    centred = x - x.mean() if isinstance(module, nn.LayerNorm) else x
    assert_close(centred * norm_scale(module)(x), given, rtol=1e-5, atol=1e-6)


def test_a_norm_that_is_intercepted_is_left_to_autograd():
    module = norm("layer")
    assert closed_form(module) is not None
    object.__setattr__(module, "forward", lambda x: x)
    assert closed_form(module) is None


# ---------------------------------------------------------------- a constant on the stream


@pytest.mark.parametrize("offset", [1, 10, 100, 1000])
def test_a_constant_on_the_stream_changes_nothing(offset):
    """A LayerNorm takes it off. Streams of real GPT-2 models have such means.

    In float32 the projections, their gradient and the gated model are as exact as Hugging Face's
    own float32, measured against float64.
    """
    model = deepcopy(build_tiny_model("gpt2"))
    model.transformer.wpe.weight.data += offset
    single = deepcopy(model).float()
    clean = torch.randint(0, 31, (3, 8), generator=torch.Generator().manual_seed(0))
    corrupt, mask = (clean + 15) % 31, torch.ones_like(clean, dtype=torch.bool)
    exact, plain = model(clean).logits.double(), single(clean).logits.double()
    gated = GatedModel(single)
    self_check(gated)
    gates = torch.ones(gated.graph.n_edges, requires_grad=True)
    found = gated(gates, clean, mask, gated.record(corrupt, mask))
    (slope,) = torch.autograd.grad(found.sum(), gates)
    assert (found.double() - exact).abs().max() <= 3 * (plain - exact).abs().max()
    double = GatedModel(model)
    open_gates = torch.ones(gated.graph.n_edges, dtype=torch.float64, requires_grad=True)
    right = double(open_gates, clean, mask, double.record(corrupt, mask))
    (expected,) = torch.autograd.grad(right.sum(), open_gates)
    assert_close(slope.double(), expected, rtol=0, atol=3e-6 * offset * expected.abs().max().item())


def test_a_large_mean_costs_no_digits_of_the_projection_or_its_gradient():
    closed, generator = closed_form(norm("layer", torch.float32)), torch.Generator().manual_seed(0)
    double = random_projection(generator, True)
    single = Projection(double.weight.float(), double.bias.float())
    x = torch.randn(N_HEADS, N_TOKENS, WIDTH, generator=generator) + 300
    grads = torch.randn(N_HEADS, N_TOKENS, D_HEAD, generator=generator)
    for dtype, projection in ((torch.float32, single), (torch.float64, double)):
        closed = closed_form(norm("layer", dtype))
        made = torch.empty(N_HEADS, N_TOKENS, D_HEAD, dtype=dtype)
        back = torch.empty_like(x, dtype=dtype)
        found = project(closed, projection, x.to(dtype), made)
        pull_back(closed, projection, made, x.to(dtype), found, grads.to(dtype), back)
        if dtype == torch.float32:
            in_single = made, back
    for got, right in zip(in_single, (made, back), strict=True):
        assert_close(got.double(), right, rtol=0, atol=1e-5 * right.abs().max().item())
