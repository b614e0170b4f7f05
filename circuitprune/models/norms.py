"""Norms in closed form: how a gradient passes one, from numbers that the forward pass has anyway.

A norm maps `x` to `gain * (x - mean) * scale + shift` (LayerNorm) or to `gain * x * scale`
(RMSNorm), with one `scale` per token. Autograd would run the norm of every reader again and keep
its results; behind a projection the same gradient is one product and one multiplication.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitprune.errors import ModelError


@dataclass(frozen=True)
class Statistics:
    """What a norm finds in each vector."""

    scale: Float[Tensor, "*vector 1"]
    mean: Float[Tensor, "*vector 1"] | None
    """None where the norm does not subtract it."""
    centre_first: bool = False
    """Whether some mean is so large that it must be taken off before anything is multiplied."""


FAR = 4.0
"""Square of a vector's mean, in units of its variance, from which on centring comes first.

Below, the weights centre (`ClosedNorm.folded`) and the variance is `E[x^2] - E[x]^2`, which costs
at most `sqrt(1 + FAR)` times the rounding of a second pass and saves copying every reader's input.
Streams of real GPT-2 models have means of 10 and more deviations.
"""


def centred(x: Float[Tensor, "*vector d_model"], found: Statistics) -> Tensor:
    """The vectors, without their means where these are so large that products would lose digits."""
    if found.mean is None or not found.centre_first:
        return x
    return x - found.mean.to(x.dtype)


@dataclass(frozen=True)
class Projection:
    """The slice of a projection that belongs to the q, k or v readers of one layer."""

    weight: Float[Tensor, "head d_model d_head"]
    bias: Float[Tensor, "head d_head"] | None


class ClosedNorm:
    """A norm whose Jacobian is known: see `closed_form`, which makes them.

    Args:
        module: nn.LayerNorm, or an RMSNorm of transformers.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.centred = module, isinstance(module, nn.LayerNorm)
        weight = module.weight
        assert weight is None or isinstance(weight, Tensor)
        self.epsilon = _epsilon(module)
        self.gain: Tensor | None = weight
        self.shift: Tensor | None = None
        if isinstance(module, nn.LayerNorm):
            self.shift = module.bias
            return
        # gemma stores `gain - 1`: the gain is what the norm makes of a vector of ones, which is
        # so long here that epsilon vanishes beside its length
        assert weight is not None
        self.gain = module(torch.full_like(weight, 1e4))

    def statistics(self, x: Float[Tensor, "*vector d_model"]) -> Statistics:
        """What the norm finds in each vector."""
        d_model, precise = x.shape[-1], _precise(x)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise).square() / d_model
        if not self.centred:
            return Statistics((square + self.epsilon).rsqrt(), None)
        mean = x.mean(-1, keepdim=True, dtype=precise)
        variance = square - mean.square()
        far = bool((mean.square() > FAR * variance).any())
        if far:  # the difference has lost the digits that count: a second pass finds them
            variance = (x - mean.to(x.dtype)).to(precise).square().mean(-1, keepdim=True)
        return Statistics((variance + self.epsilon).rsqrt(), mean, far)

    def constant(self, projection: Projection) -> Tensor | float:
        """What a projection gives whatever it reads, from its bias and the norm's."""
        bias = 0.0 if projection.bias is None else projection.bias.unsqueeze(1)
        if self.shift is None:
            return bias
        n_heads, _, d_head = projection.weight.shape
        shift = self.shift @ projection.weight.transpose(0, 1).flatten(1)
        return bias + shift.view(n_heads, 1, d_head)

    def is_true(self) -> bool:
        """Whether the formula gives what the module gives, on an arbitrary vector."""
        assert self.gain is not None
        x = torch.linspace(-1.0, 2.0, len(self.gain)).to(self.gain)
        y = (x * self.statistics(x).scale).to(x.dtype) * self.gain
        return torch.allclose(y, self.module(x), rtol=0.02)

    def folded(
        self, weight: Float[Tensor, "head d_model d_head"]
    ) -> Float[Tensor, "head d_model d_head"]:
        """A projection's weight with what the norm does but for its scale: gain and centring."""
        gain = torch.ones_like(weight[0, :, 0]) if self.gain is None else self.gain
        folded = weight * gain.unsqueeze(-1)
        if self.centred:
            folded -= folded.mean(1, keepdim=True)
        return folded


def closed_form(module: nn.Module) -> ClosedNorm | None:
    """The norm if its Jacobian is known; None for others, and for one that is intercepted."""
    if "forward" in module.__dict__:
        return None
    if isinstance(module, nn.LayerNorm):
        return ClosedNorm(module)
    if not type(module).__name__.endswith("RMSNorm") or not _epsilon(module):
        return None
    if not isinstance(getattr(module, "weight", None), Tensor):
        return None
    norm = ClosedNorm(module)
    return norm if norm.is_true() else None


def project(
    norm: ClosedNorm,
    projection: Projection,
    x: Float[Tensor, "head token d_model"],
    out: Float[Tensor, "head token d_head"],
) -> Statistics:
    """The projection of the normed x, in `out`.

    Behind a LayerNorm the normed vectors themselves never exist. An RMSNorm of Hugging Face rounds
    to float32 inside, whatever the model's type, so there its own result is used.
    """
    found = norm.statistics(x)
    if norm.centred:
        torch.bmm(centred(x, found), norm.folded(projection.weight), out=out)
        out *= found.scale
    else:
        torch.bmm(norm.module(x), projection.weight, out=out)
    out += norm.constant(projection)
    return found


def pull_back(
    norm: ClosedNorm,
    projection: Projection,
    heads: Float[Tensor, "head token d_head"],
    x: Float[Tensor, "#head token d_model"],
    found: Statistics,
    grads: Float[Tensor, "head token d_head"],
    out: Float[Tensor, "head token d_model"],
) -> None:
    """Gradients at a projection's outputs, taken back through it and the norm in front, into `out`.

    With `y = (x - mean) * scale` and the folded weight `W`, `d x = scale * (W g - y <y, W g> / d)`,
    where `<y, W g>` is `<g, heads>` but for what does not depend on x.

    Args:
        norm, projection: What x passes.
        heads: The projection's outputs.
        x, found: The norm's inputs and what it found there; one may serve all heads.
        grads: Gradients at the outputs.
        out: Is overwritten; may be `x`.
    """
    scaled = grads.to(_precise(x)) * found.scale
    along = (scaled * (heads - norm.constant(projection))).sum(-1, keepdim=True)
    along *= found.scale / x.shape[-1]
    torch.mul(centred(x, found), -along.to(x.dtype), out=out)
    if found.mean is not None and not found.centre_first:
        out += (along * found.mean).to(x.dtype)
    back = norm.folded(projection.weight).transpose(1, 2)
    torch.baddbmm(out, scaled.to(x.dtype), back, out=out)


@torch.enable_grad()
def vjp(
    norm: nn.Module,
    stream: Float[Tensor, "token d_model"],
    grads: Float[Tensor, "reader token d_model"],
) -> Float[Tensor, "reader token d_model"]:
    """Each reader's gradient taken back through a norm that all of them share."""
    wide = stream.expand_as(grads).detach().requires_grad_()
    (back,) = torch.autograd.grad(norm(wide), wide, grads)
    return back


def _epsilon(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0)) or 0.0)


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


_GAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "LlamaRMSNorm": lambda weight: weight,
    "Qwen2RMSNorm": lambda weight: weight,
    "Gemma2RMSNorm": lambda weight: 1 + weight,
}


def norm_scale(
    norm: nn.Module,
) -> Callable[[Float[Tensor, "*any d_model"]], Float[Tensor, "*any d_model"]]:
    """`gain / sqrt(variance + eps)` of a norm, in float32 at least.

    What its centred input is multiplied by; an RMSNorm does not centre.

    Raises:
        ModelError: neither LayerNorm nor the RMSNorm of a declared family.
    """
    name, centre = type(norm).__name__, isinstance(norm, nn.LayerNorm)
    if not centre and name not in _GAINS:
        known = ", ".join(sorted(["LayerNorm", *_GAINS]))
        raise ModelError(
            f"the gain of the norm {name} is not stated; known are {known}. Use a method without "
            "rules, such as eap, or state it in circuitprune/models/norms.py"
        )
    weight = norm.weight
    assert weight is None or isinstance(weight, Tensor)
    gain = _GAINS[name](weight) if name in _GAINS else weight
    eps = float(getattr(norm, "variance_epsilon", None) or norm.eps)  # type: ignore[arg-type]

    def scale(x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = x - x.mean(-1, keepdim=True) if centre else x
        inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        return inverse.expand_as(x) if gain is None else inverse * gain

    return scale
