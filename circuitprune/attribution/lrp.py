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

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from circuitprune.errors import ModelError
from circuitprune.models.norms import norm_scale
from circuitprune.models.ports import Change, Ports


class _MlpParts(NamedTuple):
    activation: str
    product: str | None
    """The projection whose input is the product of gate and up; None without a gate."""


_GATED = _MlpParts("act_fn", "down_proj")
_MLPS = {
    "GPT2MLP": _MlpParts("act", None),
    "GPTNeoXMLP": _MlpParts("act", None),
    "LlamaMLP": _GATED,
    "Qwen2MLP": _GATED,
    "Gemma2MLP": _GATED,
}
_ACTIVATIONS = frozenset(
    (
        *("NewGELUActivation", "GELUActivation", "GELUTanh", "PytorchGELUTanh"),
        *("AccurateGELUActivation", "FastGELUActivation", "QuickGELUActivation"),
        *("SiLUActivation", "SiLU", "ReLU", "ReLUSquaredActivation", "Tanh"),
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
        for norm in {*norms, *behind} - {None}:
            assert norm is not None
            changes.append((norm, "forward", linear_norm(norm)))
        changes += _mlp_rules(layer.mlp)
    return changes


def _mlp_rules(mlp: nn.Module) -> list[Change]:
    parts = _MLPS.get(type(mlp).__name__)
    if parts is None:
        raise ModelError(_unknown("MLP", mlp, _MLPS))
    activation = mlp.get_submodule(parts.activation)
    if type(activation).__name__ not in _ACTIVATIONS:
        raise ModelError(_unknown("activation", activation, _ACTIVATIONS))
    changes: list[Change] = [(activation, "forward", _identity_rule(activation.forward))]
    if parts.product is not None:
        product = mlp.get_submodule(parts.product)
        changes.append((product, "forward", _half_rule(product.forward)))
    return changes


def linear_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """A norm's own values, with gradients as if its scale did not depend on its input."""
    forward, scale = norm.forward, norm_scale(norm)

    def linear(x: Tensor) -> Tensor:
        value = forward(x).detach()
        centred = x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
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


def _unknown(what: str, module: nn.Module, known: Iterable[str]) -> str:
    return (
        f"relp has no rule for the {what} {type(module).__name__}; it knows "
        f"{', '.join(sorted(known))}. Use a method without rules, such as eap, or state the rule "
        "in circuitprune/attribution/lrp.py"
    )
