"""Rules of layer-wise relevance propagation as interceptions: same values, other gradients.

Each rule turns a module into a locally linear map through its input, with what it computed at that
input held fixed, so that `input * gradient` passes on what the output is worth:

- LN-rule: a norm's scale is a constant, `y = gain * (x - mean(x)) * s + shift` with `s` detached;
- identity rule: an elementwise activation is `y = x * (f(x) / x)` with the quotient detached;
- half rule: each factor of a gated MLP's product gets half of the product's gradient;
- AH-rule: the attention pattern is a constant, so only values carry gradients;
- half rule of attention: both factors of `pattern @ values` and of `query . key` get half.

Source: Jafari et al. 2025, "RelP: Faithful and Efficient Circuit Discovery in Language Models via
Relevance Patching" (arXiv 2508.21258); Ali et al. 2022 for the LN- and AH-rule (arXiv 2202.07304).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitprune.attribution.base import mean_over_batches
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import ModelError
from circuitprune.metrics import Metric
from circuitprune.models.changes import Change
from circuitprune.models.norms import NoNorm, known_norm, norm_scale
from circuitprune.models.ports import Ports
from circuitprune.models.span import Span


class _MlpParts(NamedTuple):
    first: str
    activation: str
    product: str
    """The projection whose input is the product of gate and up, or the activation alone."""
    up: str | None = None
    """None without a gate."""


_MLPS = (
    _MlpParts("gate_proj", "act_fn", "down_proj", "up_proj"),
    _MlpParts("c_fc", "act", "c_proj"),
    _MlpParts("c_fc", "activation_fn", "c_proj"),
    _MlpParts("fc_in", "act", "fc_out"),
    _MlpParts("fc1", "activation_fn", "fc2"),
    _MlpParts("up_proj", "act_fn", "down_proj"),
    _MlpParts("dense_h_to_4h", "act", "dense_4h_to_h"),
)
"""Names of an MLP's parts in the families; whether they are all of it is asked of the MLP."""
_ACTIVATIONS = frozenset(
    (
        *("NewGELUActivation", "GELUActivation", "GELUTanh", "PytorchGELUTanh"),
        *("AccurateGELUActivation", "FastGELUActivation", "QuickGELUActivation"),
        *("SiLUActivation", "SiLU", "ReLU", "ReLUSquaredActivation", "Tanh", "GELU", "BloomGelu"),
    )
)
"""Elementwise, and 0 at 0, so that the quotient of the identity rule stays finite."""


def propagate(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    rules: Sequence[Change],
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Float[Tensor, " edge"]:
    """Minus the gradient of the gates at 1 while rules hold: EAP by other gradients.

    The rules stay in place while the backward pass runs, which calls some norms again.

    Args:
        references, batches, metric: As of every method.
        rules: What takes modules' places.
        within: A context that each gated run and its backward pass are inside of.
    """
    gated = references.gated
    precise = torch.promote_types(gated.dtype, torch.float32)

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        run = references.run(batch)
        gates = torch.ones(gated.graph.n_edges, device=gated.device, dtype=precise)
        gates.requires_grad_()
        with gated.ports.intercept(rules), within(), torch.enable_grad():
            logits = run(gates)
            (gradient,) = torch.autograd.grad(metric(logits, batch).sum(), gates)
        return -gradient

    return mean_over_batches(batches, score)


def lrp_rules(ports: Ports) -> list[Change]:
    """The LN-rule at every norm, the identity rule at every activation, the half rule at gates.

    Norms inside of attention, of queries and keys, are left as they are: see `inner_norms`.

    Raises:
        ModelError: an MLP, activation or norm for which the rules are not stated here.
    """
    return norm_rules(ports) + mlp_rules(ports, identity=True)


def norm_rules(ports: Ports) -> list[Change]:
    """The LN-rule at every norm in front of or behind a branch, and at the final one.

    Raises:
        ModelError: a norm whose scale is not known.
    """
    changes: list[Change] = [(ports.final_norm, "forward", linear_norm(ports.final_norm))]
    for layer in ports.layers:
        norms = (layer.attention_norm, layer.mlp_norm)
        behind = (layer.attention_post_norm, layer.mlp_post_norm)
        for norm in {*norms, *behind}:
            if norm is not None and not isinstance(norm, NoNorm):
                changes.append((norm, "forward", linear_norm(norm)))
    return changes


def inner_norms(ports: Ports) -> list[Change]:
    """The LN-rule at the norms of queries, keys and values, where a family has some.

    Raises:
        ModelError: a norm whose scale is not known.
    """
    inside = [part for layer in ports.layers for part in layer.attention.modules()]
    norms = [m for m in inside if "Norm" in type(m).__name__ and not any(m.children())]
    return [(norm, "forward", linear_norm(norm)) for norm in norms]


def mlp_rules(ports: Ports, identity: bool) -> list[Change]:
    """The half rule at the product of every gated MLP; with `identity`, its rule at activations.

    Raises:
        ModelError: an MLP or activation for which the rules are not stated here.
    """
    d_model = ports.graph.d_model
    return [one for layer in ports.layers for one in _mlp_rules(layer.mlp, d_model, identity)]


def _mlp_rules(mlp: nn.Module, d_model: int, identity: bool) -> list[Change]:
    if isinstance(mlp, Span):
        rule = [(mlp, "activate", _identity_rule(_elementwise(mlp.modules_of_model[1])))]
        return [*rule] if identity else []
    parts = next((parts for parts in _MLPS if _is_all_of(parts, mlp, d_model)), None)
    if parts is None:
        raise ModelError(
            f"there is no rule for the MLP {type(mlp).__name__}: it is neither `second(act(first("
            "x)))` nor `down(act(gate(x)) * up(x))`. Use a method without rules, such as eap, or "
            "state the rule in circuitprune/attribution/lrp.py"
        )
    changes: list[Change] = []
    if identity:
        activation = mlp.get_submodule(parts.activation)
        changes.append((activation, "forward", _identity_rule(_elementwise(activation))))
    if parts.up is not None:
        product = mlp.get_submodule(parts.product)
        changes.append((product, "forward", _half_rule(product.forward)))
    return changes


@torch.no_grad()
def _is_all_of(parts: _MlpParts, mlp: nn.Module, d_model: int) -> bool:
    """Whether an MLP has these parts, and they give on an arbitrary vector what it gives."""
    names = [name for name in parts if name is not None]
    if not all(isinstance(getattr(mlp, name, None), nn.Module) for name in names):
        return False
    weight = next(mlp.parameters())
    x = torch.linspace(-1.0, 1.0, d_model).to(weight).view(1, 1, -1)
    first, activation, product = (mlp.get_submodule(name) for name in parts[:3])
    inner = activation(first(x)) * (1 if parts.up is None else mlp.get_submodule(parts.up)(x))
    result = mlp(x)
    return isinstance(result, Tensor) and torch.allclose(product(inner), result, rtol=0.02)


def _elementwise(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """An activation's forward, if it is one number's function and 0 at 0."""
    if type(activation).__name__ not in _ACTIVATIONS:
        raise ModelError(
            f"there is no rule for the activation {type(activation).__name__}; it knows "
            f"{', '.join(sorted(_ACTIVATIONS))}. Use a method without rules, such as eap, or state "
            "the rule in circuitprune/attribution/lrp.py"
        )
    return activation.forward


def linear_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """A norm's own values, with gradients as if its scale did not depend on its input."""
    forward, scale, centre = norm.forward, norm_scale(norm), known_norm(norm).centred

    def linear(x: Tensor) -> Tensor:
        value = forward(x).detach()
        centred = x - x.mean(-1, keepdim=True) if centre else x
        return with_gradient_of(value, (centred * scale(x.detach())).to(value.dtype))

    return linear


def frozen_patterns(ports: Ports) -> list[Change]:
    """The AH-rule: what the query and key projections return carries no gradient."""
    join, n_patterns = ports.join, ports.graph.n_heads + ports.graph.n_kv_readers

    def joined(heads: Tensor) -> list[Tensor]:
        return join(torch.cat([heads[:n_patterns].detach(), heads[n_patterns:]]))

    return [(ports, "join", joined)]


def halved_products(ports: Ports) -> list[Change]:
    """The half rule at attention's products: a quarter of the gradient for q and k, half for v.

    `pattern @ values` gives each factor half; of the pattern's half, `query . key` gives half to
    each again.
    """
    join, n_patterns = ports.join, ports.graph.n_heads + ports.graph.n_kv_readers

    def joined(heads: Tensor) -> list[Tensor]:
        share = heads.new_full((len(heads), 1, 1), 0.5)
        share[:n_patterns] = 0.25
        return join(with_gradient_of(heads.detach(), share * heads))

    return [(ports, "join", joined)]


def _identity_rule(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    tiny = 1e-6

    def identity(x: Tensor) -> Tensor:
        fixed = x.detach()
        away = torch.where(fixed.abs() < tiny, tiny, fixed)  # at 0 the quotient is the slope
        return with_gradient_of(forward(fixed), x * (forward(away) / away))

    return identity


def _half_rule(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda product: forward(with_gradient_of(product.detach(), product / 2))


def with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """`value` to the bit, with the gradient of `other`."""
    return value + (other - other.detach())
