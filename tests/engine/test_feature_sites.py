"""Features as parts, against hooks that encode and decode on the untouched model."""

from collections.abc import Callable

import pytest
import torch
from family_configs import build
from reference import plain_logits
from reference_parts import as_batch, found, layers_of
from torch import Tensor
from torch.testing import assert_close

from circuitprune.attribution.parts import eap
from circuitprune.attribution.per_writer_ig import per_writer_ig
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check
from circuitprune.errors import ModelError
from circuitprune.metrics import logit_diff
from circuitprune.models.dictionary import Dictionary
from circuitprune.patching.effects import edge_effects, node_effects

SITES = ("m1", "resid1", "a2", "input")
KINDS = dict(m1="topk", resid1="jumprelu", a2="relu", input="topk")
F = 40
CLOSE = dict(rtol=1e-6, atol=1e-6)


def dictionary(site: str) -> Dictionary:
    draw = torch.Generator().manual_seed(len(site) + ord(site[0]))
    w = torch.randn(32, F, generator=draw) / 32**0.5
    b = 0.1 * torch.randn(32, generator=draw)
    threshold = torch.full((F,), 0.2) if KINDS.get(site) == "jumprelu" else None
    return Dictionary(
        site, w, torch.zeros(F), w.T.clone(), b, KINDS.get(site, "relu"), 6, threshold, site == "m1"
    )


def place(model, site: str, edit: Callable[[Tensor], Tensor]):
    """A hook at what the site names, on the untouched model."""
    if site == "input":

        def before(_, args, kwargs):
            if args:
                return (edit(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

        return layers_of(model)[0].register_forward_pre_hook(before, with_kwargs=True)
    layer = layers_of(model)[int(site.lstrip("maresid"))]
    behind = {"m": "post_feedforward_layernorm", "a": "post_attention_layernorm"}.get(site[0])
    if site.startswith("resid"):
        module = layer
    elif behind and hasattr(layer, "pre_feedforward_layernorm"):  # norms behind each branch
        module = getattr(layer, behind)
    else:
        module = found(layer, ("mlp",) if site[0] == "m" else ("attn.c_proj", "self_attn.o_proj"))

    def after(_, args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    return module.register_forward_hook(after)


def by_hooks(model, b, site: str, closed: list[int], error: bool) -> Tensor:
    """Logits when some features, and the error or not, are what they are on the corrupt prompts."""
    one, seen = dictionary(site), {}
    one = Dictionary(
        **{k: v.double() if isinstance(v, Tensor) else v for k, v in vars(one).items()}
    )
    handle = place(model, site, lambda x: seen.update(x=x) or x)
    plain_logits(model, b.corrupt, b.mask)
    handle.remove()
    there = one.encode(seen["x"])
    their_error = seen["x"] - one.decode(there)

    def swap(x: Tensor) -> Tensor:
        features = one.encode(x)
        own_error = x - one.decode(features)
        features[..., closed] = there[..., closed]
        return one.decode(features) + (their_error if error else own_error)

    handle = place(model, site, swap)
    logits = plain_logits(model, b.clean, b.mask)
    handle.remove()
    return logits


@pytest.fixture(scope="module", params=["gpt2", "gemma2"])
def gated(request):
    made = GatedParts(build(request.param), "feature", dictionaries=[*map(dictionary, SITES)])
    yield made
    made.release()


def ones(gated: GatedParts) -> Tensor:
    return torch.ones(gated.graph.n_edges, dtype=torch.float64)


def test_what_has_gates(gated) -> None:
    names = gated.graph.edges
    assert {
        "m1.f0",
        "m1.f39",
        "m1.error",
        "resid1.error",
        "a2.f7",
        "input.error",
        "m0",
        "a0.h3",
    } < {*names}
    assert not {"m1", "a2.h0", "input", "m1.f40"} & {*names}
    assert len(names) == 4 * (F + 1) + 2 * 4 + 2


def test_open_is_the_model_and_closed_the_corrupt_run(gated, padded_batch) -> None:
    b = padded_batch
    self_check(gated)
    ablated = gated.record(b.corrupt, b.mask)
    assert torch.equal(gated(ones(gated), b.clean, b.mask, ablated), gated.plain(b.clean, b.mask))
    closed = gated(0 * ones(gated), b.clean, b.mask, ablated)
    assert_close(b.real(closed), b.real(gated.plain(b.corrupt, b.mask)), **CLOSE)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("error", [False, True])
def test_closed_features_are_hooks(gated, padded_batch, site: str, error: bool) -> None:
    b, graph = padded_batch, gated.graph
    ablated, gates = gated.record(b.corrupt, b.mask), ones(gated)
    closed = [*range(0, F, 3)]
    for name in (*(f"{site}.f{j}" for j in closed), *([f"{site}.error"] if error else [])):
        gates[graph.edge_index(name)] = 0
    logits = gated(gates, b.clean, b.mask, ablated)
    assert_close(b.real(logits), b.real(by_hooks(gated.model, b, site, closed, error)), **CLOSE)
    assert (logits - gated.plain(b.clean, b.mask))[b.mask].abs().max() > 1e-3


@pytest.mark.parametrize("errors", ["clean", "corrupt"])
def test_errors_without_gates(padded_batch, errors) -> None:
    b, model = padded_batch, build("gpt2")
    gated = GatedParts(model, "feature", dictionaries=[dictionary("m1")], errors=errors)
    assert "m1.error" not in gated.graph.edges
    self_check(gated)
    ablated, gates = gated.record(b.corrupt, b.mask), ones(gated)
    own = gated.graph.edge_writer == gated.graph.writer_index("m1")
    logits = gated(gates, b.clean, b.mask, ablated)
    assert_close(b.real(logits), b.real(by_hooks(model, b, "m1", [], errors == "corrupt")), **CLOSE)
    gates[own] = 0
    logits = gated(gates, b.clean, b.mask, ablated)
    every = [*range(F)]
    assert_close(
        b.real(logits), b.real(by_hooks(model, b, "m1", every, errors == "corrupt")), **CLOSE
    )
    gated.release()


def test_scores_of_features(gated, padded_batch) -> None:
    """Exact is hooks; EAP is the gradient of the untouched model along a feature's direction."""
    batch, references = as_batch(padded_batch), References(gated, "patch")
    rows, graph, site = torch.arange(len(batch)), gated.graph, "m1"
    exact = edge_effects(references, [batch], logit_diff, [f"{site}.f{j}" for j in (0, 3, 5)])
    before = logit_diff(plain_logits(gated.model, batch.clean, batch.mask)[rows, batch.last], batch)
    for row, j in enumerate((0, 3, 5)):
        logits = by_hooks(gated.model, batch, site, [j], False)[rows, batch.last]
        assert_close(exact[row], (logit_diff(logits, batch) - before).mean(), rtol=1e-5, atol=1e-7)
    scores = eap(references, [batch], logit_diff)
    slow = gradient_along(gated.model, batch, site)
    first = graph.edge_index(f"{site}.f0")
    assert_close(scores[first : first + F].double(), slow / len(batch), rtol=1e-4, atol=1e-7)


def gradient_along(model, batch, site: str) -> Tensor:
    """`sum (f' - f) <d_j, d metric / d x>` of each feature, x a leaf of the untouched model."""
    one, seen = dictionary(site), {}
    one = Dictionary(
        **{k: v.double() if isinstance(v, Tensor) else v for k, v in vars(one).items()}
    )
    handle = place(model, site, lambda x: seen.update(there=x) or x)
    plain_logits(model, batch.corrupt, batch.mask)
    handle.remove()
    handle = place(model, site, lambda x: seen.update(x=x.detach().requires_grad_()) or seen["x"])
    with torch.enable_grad():
        logits = plain_logits(model, batch.clean, batch.mask)
        value = logit_diff(logits[torch.arange(len(batch)), batch.last], batch).sum()
        (gradient,) = torch.autograd.grad(value, seen["x"])
    handle.remove()
    change = one.encode(seen["there"]) - one.encode(seen["x"].detach())
    return (change * (gradient @ one.w_dec.T)).sum((0, 1))


def test_integrated_features_sum_to_the_node(padded_batch) -> None:
    """Features and error of one place, moved together, are the whole of what is written there."""
    batch = as_batch(padded_batch)
    gated = GatedParts(build("gpt2"), "feature", dictionaries=[dictionary("m1")])
    references, graph = References(gated, "patch"), gated.graph
    scores = per_writer_ig(references, [batch], logit_diff, steps=20)
    own = scores[graph.edge_writer == graph.writer_index("m1")].sum()
    assert_close(
        own, node_effects(references, [batch], logit_diff, ["m1"])[0], rtol=2e-2, atol=2e-3
    )
    gated.release()


def test_what_does_not_fit_is_refused() -> None:
    model, good = build("gpt2"), dictionary("m1")
    wide = Dictionary("m0", torch.zeros(16, 4), torch.zeros(4), torch.zeros(4, 16), torch.zeros(16))
    far = Dictionary("m9", *(getattr(good, n) for n in ("w_enc", "b_enc", "w_dec", "b_dec")))
    for some, said in (
        ([], "needs dictionaries"),
        ([good, good], "one at each"),
        ([wide], "width 16"),
        ([far], "no place m9"),
    ):
        with pytest.raises(ModelError, match=said):
            GatedParts(model, "feature", dictionaries=some)
    assert "forward" not in vars(model.transformer.h[0])
