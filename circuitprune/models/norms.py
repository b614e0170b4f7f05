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


class NoNorm(nn.Module):
    """Stands where a family has no norm: its readers see the residual stream itself."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`."""
        return x


class ClosedNorm:
    """A norm whose Jacobian is known: see `closed_form`, which makes them.

    `nn.LayerNorm` says what it does. All others are measured: on a vector of +-1e4 in turn, which
    is centred and so long that epsilon vanishes beside it, a norm gives `shift +- gain`.

    Args:
        module: A LayerNorm or an RMSNorm, of torch or of transformers.
        width: Features of its vectors.
    """

    def __init__(self, module: nn.Module, width: int) -> None:
        self.module, self.width = module, width
        self.states_itself = self.is_known = type(module).forward is nn.LayerNorm.forward
        self.gain: Tensor | None
        self.shift: Tensor | None
        if isinstance(module, nn.LayerNorm) and self.states_itself:
            self.centred, self.epsilon = True, module.eps
            self.gain, self.shift = module.weight, module.bias
            return
        signs = self._vector(width).fill_(1.0)
        signs[1::2] = -1.0
        up, down = module(torch.stack([1e4 * signs, -1e4 * signs]))
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        self.gain = _stated((up - down) / 2 * signs, weight, 1.0)
        self.shift = _stated((up + down) / 2, bias, 0.0)
        self.epsilon = _epsilon(module) or 0.0
        self.centred = False
        self.is_known = self.is_true()
        if not self.is_known:
            self.centred = True
            self.is_known = self.is_true()

    def _vector(self, width: int) -> Tensor:
        weight = getattr(self.module, "weight", None)
        return torch.empty(width) if weight is None else torch.empty_like(weight)

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
        x = torch.linspace(-1.0, 2.0, self.width).to(self._vector(self.width))
        found = self.statistics(x)
        y = ((x if found.mean is None else x - found.mean) * found.scale).to(x.dtype)
        y = y if self.gain is None else y * self.gain
        y = y if self.shift is None else y + self.shift
        expected = self.module(x)
        return bool((y - expected).abs().max() <= 0.02 * expected.abs().max())

    def folded(
        self, weight: Float[Tensor, "head d_model d_head"]
    ) -> Float[Tensor, "head d_model d_head"]:
        """A projection's weight with what the norm does but for its scale: gain and centring."""
        gain = torch.ones_like(weight[0, :, 0]) if self.gain is None else self.gain
        folded = weight * gain.unsqueeze(-1)
        if self.centred:
            folded -= folded.mean(1, keepdim=True)
        return folded


@torch.no_grad()
def closed_form(module: nn.Module) -> ClosedNorm | None:
    """The norm if its Jacobian is known; None for others, and for one that is intercepted."""
    if "forward" in module.__dict__:
        return None
    weight, shape = getattr(module, "weight", None), getattr(module, "normalized_shape", None)
    width = weight.shape if isinstance(weight, Tensor) else shape
    if width is None or len(width) != 1 or _epsilon(module) is None:
        return None
    norm = ClosedNorm(module, width[0])
    return norm if norm.is_known else None


def project(
    norm: ClosedNorm,
    projection: Projection,
    x: Float[Tensor, "head token d_model"],
    out: Float[Tensor, "head token d_head"],
) -> Statistics:
    """The projection of the normed x, in `out`.

    The normed vectors themselves never exist, but where a norm of Hugging Face rounds to float32
    inside and the model's type is another: there its own result is used.
    """
    found = norm.statistics(x)
    if norm.states_itself or x.dtype == torch.float32:
        torch.bmm(centred(x, found), norm.folded(projection.weight), out=out)
        out *= found.scale
        out += norm.constant(projection)
        return found
    torch.bmm(norm.module(x), projection.weight, out=out)
    if projection.bias is not None:
        out += projection.bias.unsqueeze(1)
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


def norm_scale(
    norm: nn.Module,
) -> Callable[[Float[Tensor, "*any d_model"]], Float[Tensor, "*any d_model"]]:
    """`gain / sqrt(variance + eps)` of a norm, in float32 at least.

    What its centred input is multiplied by; an RMSNorm does not centre.

    Raises:
        ModelError: neither a LayerNorm nor an RMSNorm.
    """
    form = known_norm(norm)

    def scale(x: Tensor) -> Tensor:
        x = x.to(_precise(x))
        x = x - x.mean(-1, keepdim=True) if form.centred else x
        inverse = (x.square().mean(-1, keepdim=True) + form.epsilon).rsqrt()
        return inverse.expand_as(x) if form.gain is None else inverse * form.gain

    return scale


def known_norm(norm: nn.Module) -> ClosedNorm:
    """The closed form of a norm. Raises ModelError, by its name, if it has none."""
    form = closed_form(norm)
    if form is None:
        raise ModelError(
            f"the norm {type(norm).__name__} is no LayerNorm or RMSNorm that states its epsilon: "
            "its scale is not known. Use a method without rules, such as eap, or state it in "
            "circuitprune/models/norms.py"
        )
    return form


def without_epsilon(model: nn.Module) -> str | None:
    """The first norm of a model that adds nothing to the variance, so that 0 is divided by 0."""
    norms = ((name, one) for name, one in model.named_modules() if "Norm" in type(one).__name__)
    return next((name for name, one in norms if _said_epsilon(one) == 0), None)


def _stated(
    measured: Float[Tensor, " d_model"], stored: Tensor | None, without: float
) -> Tensor | None:
    """What a norm says of itself, where it does what it says: stored, or stored minus one."""
    neutral = torch.full_like(measured, without)
    candidates = [None] if stored is None else [stored, 1 + stored, None]
    for candidate in candidates:
        expected = neutral if candidate is None else candidate
        if torch.allclose(measured, expected, rtol=0.01, atol=0.01):
            return candidate
    return measured


_EPSILONS = ("variance_epsilon", "eps", "norm_eps", "epsilon")


def _epsilon(module: nn.Module) -> float | None:
    """What a norm adds to the variance; measured, on a short vector, where it does not say.

    0 is a number as any other: such a norm has no value for a vector without variance, whoever
    computes it. None: it does not say, and has weights, beside which it cannot be measured.
    """
    found, shape = _said_epsilon(module), getattr(module, "normalized_shape", None)
    if found is not None or "Norm" not in type(module).__name__:
        return found
    if shape is None or getattr(module, "weight", None) is not None:
        return None
    signs = torch.ones(shape)
    signs[1::2] = -1.0
    ratio = module(1e-3 * signs)[0] / module(1e4 * signs)[0]
    return float(1e-6 / ratio.square() - 1e-6)


def _said_epsilon(module: nn.Module) -> float | None:
    stated = (getattr(module, name, None) for name in _EPSILONS)
    return next((float(one) for one in stated if isinstance(one, float | int)), None)


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
