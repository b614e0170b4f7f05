"""The modules of one layer that the engine intercepts or calls, found by their names."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitprune.errors import ModelError
from circuitprune.models.changes import Output, output_of
from circuitprune.models.family import Family
from circuitprune.models.norms import NoNorm
from circuitprune.models.span import Span


@dataclass(frozen=True)
class LayerPorts:
    """The modules of one layer that the engine intercepts or calls."""

    attention: nn.Module
    projections: tuple[nn.Module, ...]
    output: nn.Module
    mlp: nn.Module
    down: nn.Module | None
    """The MLP's last linear map, from its hidden neurons; None in a mixture of experts."""
    attention_norm: nn.Module
    mlp_norm: nn.Module
    attention_post_norm: nn.Module | None
    mlp_post_norm: nn.Module | None
    scale: float
    """What both branches are multiplied by when they join the residual stream."""

    def mlp_writes(self, result: Output, n_batch: int) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP adds to the residual stream when it returns this, for so many examples.

        Behind a norm or a multiplier in some families; experts may lay their tokens out flat.
        """
        output = output_of(result)
        output = output.unflatten(0, (n_batch, -1)) if output.ndim == 2 else output
        output = output if self.mlp_post_norm is None else self.mlp_post_norm(output)
        return self.scaled(output)

    def scaled(self, output: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """A branch's output as it joins the residual stream."""
        return output if self.scale == 1 else output * self.scale


def in_out(module: nn.Module) -> Tensor:
    """A projection's weight as [in, out]. Raises ModelError if it has none, as when quantised."""
    if isinstance(module, Conv1D):
        return module.weight
    if isinstance(module, nn.Linear):
        return module.weight.T
    raise ModelError(
        f"projection {type(module).__name__} is neither nn.Linear nor Conv1D; weights cannot be "
        "split by head (quantised models are not supported: load the model in full precision)"
    )


def bias_of(module: nn.Module) -> Tensor | None:
    """A projection's bias, if it has one."""
    bias = module.bias
    assert bias is None or isinstance(bias, Tensor)
    return bias


def find(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path. Raises ModelError, by its name, if there is none."""
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"{type(root).__name__} has no module {path!r}, which its family declares; the "
            "installed transformers may have renamed it (see circuitprune/models/families.py)"
        ) from error


def layer_ports(layer: nn.Module, family: Family, scale: float) -> LayerPorts:
    """The ports of a layer, as its family declares them."""
    attention = find(layer, family.attention)
    _check_unit(layer, family.unit)

    def optional(path: str | None) -> nn.Module | None:
        return None if path is None else find(layer, path)

    return LayerPorts(
        attention=attention,
        projections=tuple(find(attention, name) for name in family.projections),
        output=find(attention, family.output),
        mlp=_mlp(layer, family.mlp),
        down=_down(layer, family),
        attention_norm=optional(family.attention_norm) or NoNorm(),
        mlp_norm=optional(family.mlp_norm) or NoNorm(),
        attention_post_norm=optional(family.attention_post_norm),
        mlp_post_norm=optional(family.mlp_post_norm),
        scale=scale,
    )


def _check_unit(layer: nn.Module, name: str | None) -> None:
    number = None if name is None else getattr(layer, name)
    if number is not None and not bool((torch.as_tensor(number) == 1).all()):
        raise ModelError(
            f"a layer's {name} is {float(number):g}, expected 1: it multiplies the whole residual "
            "stream, which then is no sum of what its parts wrote"
        )


def _mlp(layer: nn.Module, path: str | tuple[str, str, str]) -> nn.Module:
    if isinstance(path, str):
        return find(layer, path)
    first, activation, second = (find(layer, part) for part in path)
    return Span(first, activation, second)


def _down(layer: nn.Module, family: Family) -> nn.Module | None:
    """What makes the MLP's output of its hidden neurons, where one linear map does."""
    path = f"{family.mlp}.{family.down}" if isinstance(family.mlp, str) else family.mlp[2]
    try:
        module = layer.get_submodule(path)
    except AttributeError:
        return None
    return module if isinstance(module, nn.Linear | Conv1D) else None
