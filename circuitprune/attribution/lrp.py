"""Rules of layer-wise relevance propagation as interceptions: same values, other gradients.

Each rule turns a module into a locally linear map through its input, with what it computed at that
input held fixed, so that `input * gradient` passes on what the output is worth:

- LN-rule: a norm's scale is a constant, `y = gain * (x - mean(x)) * s + shift` with `s` detached;
- identity rule: an elementwise activation is `y = x * (f(x) / x)` with the quotient detached;
- half rule: each factor of a gated MLP's product gets half of the product's gradient;
- AH-rule: the attention pattern is a constant, so only values carry gradients.

Source: Jafari et al. 2025, "RelP: Faithful and Efficient Circuit Discovery in Language Models via
Relevance Patching" (arXiv 2508.21258); Ali et al. 2022 for the LN- and AH-rule (arXiv 2202.07304).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from circuitprune.errors import ModelError
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


def lrp_rules(ports: Ports) -> list[Change]:
    """The LN-rule at every norm, the identity rule at every activation, the half rule at gates.

    They must stay in place while the backward pass runs, which calls some norms again.

    Raises:
        ModelError: an MLP, activation or norm for which the rules are not stated here.
    """
    changes: list[Change] = [(ports.final_norm, "forward", linear_norm(ports.final_norm))]
    for layer in ports.layers:
        norms = (layer.attention_norm, layer.mlp_norm)
        behind = (layer.attention_post_norm, layer.mlp_post_norm)
        for norm in {*norms, *behind}:
            if norm is not None and not isinstance(norm, NoNorm):
                changes.append((norm, "forward", linear_norm(norm)))
        changes += _mlp_rules(layer.mlp, ports.graph.d_model)
    return changes


def _mlp_rules(mlp: nn.Module, d_model: int) -> list[Change]:
    if isinstance(mlp, Span):
        return [(mlp, "activate", _identity_rule(_elementwise(mlp.modules_of_model[1])))]
    parts = next((parts for parts in _MLPS if _is_all_of(parts, mlp, d_model)), None)
    if parts is None:
        raise ModelError(
            f"relp has no rule for the MLP {type(mlp).__name__}: it is neither `second(act(first("
            "x)))` nor `down(act(gate(x)) * up(x))`. Use a method without rules, such as eap, or "
            "state the rule in circuitprune/attribution/lrp.py"
        )
    activation = mlp.get_submodule(parts.activation)
    changes: list[Change] = [(activation, "forward", _identity_rule(_elementwise(activation)))]
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
            f"relp has no rule for the activation {type(activation).__name__}; it knows "
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
        return _with_gradient_of(value, (centred * scale(x.detach())).to(value.dtype))

    return linear


def frozen_patterns(ports: Ports) -> list[Change]:
    """The AH-rule: what the query and key projections return carries no gradient."""
    join, n_patterns = ports.join, ports.graph.n_heads + ports.graph.n_kv_readers

    def joined(heads: Tensor) -> list[Tensor]:
        return join(torch.cat([heads[:n_patterns].detach(), heads[n_patterns:]]))

    return [(ports, "join", joined)]


def _identity_rule(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    tiny = 1e-6

    def identity(x: Tensor) -> Tensor:
        fixed = x.detach()
        away = torch.where(fixed.abs() < tiny, tiny, fixed)  # at 0 the quotient is the slope
        return _with_gradient_of(forward(fixed), x * (forward(away) / away))

    return identity


def _half_rule(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda product: forward(_with_gradient_of(product.detach(), product / 2))


def _with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """`value` to the bit, with the gradient of `other`."""
    return value + (other - other.detach())
