"""A frozen model too large for one device, its matrices divided among processes (FSDP2)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from circuitprune.models.families import family_of
from circuitprune.models.layer_ports import find


def shard(model: PreTrainedModel, device: torch.device, world: int) -> PreTrainedModel:
    """The model, frozen, each of its matrices divided among the processes; changed in place.

    A layer's matrices are gathered while the layer runs, forth or back, and let go behind it.
    Vectors (norms, biases) stay whole in every process: they are a thousandth of the weights, and
    closed forms of norms need them at any time. All processes must run the same passes in the same
    order, as each pass waits for all.

    Args:
        model: Whole, of a declared family, the same in all processes.
        device: Where this process computes.
        world: Processes; torch's process group holds so many.
    """
    model.requires_grad_(False)
    mesh = init_device_mesh(device.type, (world,))
    whole = {parameter for parameter in model.parameters() if parameter.ndim < 2}
    family = family_of(model.config.get_text_config())
    parts = list(find(model, family.layers).children())
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if ends[0] is not None and ends[1] is not None and ends[0].weight is not ends[1].weight:
        parts += ends  # tied ones are gathered with the model, for as long as it runs
    for part in (*parts, model):
        fully_shard(part, mesh=mesh, ignored_params=whole)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps it in an untyped decorator
    with gathered(model):  # makes it, before any of its layers, the one that the others belong to
        return model


@contextmanager
def gathered(part: nn.Module) -> Iterator[None]:
    """While it lasts, what `shard` has divided of a layer is whole; of others nothing changes."""
    if not isinstance(part, FSDPModule):
        yield
        return
    part.unshard()
    try:
        yield
    finally:
        part.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has divided it."""
    return isinstance(model, FSDPModule)


def whole_tensor(weight: Tensor) -> Tensor:
    """A weight in one piece; all processes ask for it together where it is divided."""
    whole: Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return whole
