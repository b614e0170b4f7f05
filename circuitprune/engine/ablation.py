"""What an edge carries when it is cut, and the reference runs behind it, computed once."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.data.pairs import Batch
from circuitprune.engine.recording import record_writers
from circuitprune.errors import ConfigError, DataError
from circuitprune.models.ports import Ports


class StackedWriters:
    """Recorded writers of several examples, joined only where and when they are read.

    Stands for a `[writer, batch, pos, d_model]` tensor: the engine takes a few writers at a time,
    so the joined whole, as large as the engine's own buffer, never exists.

    Args:
        examples: `[writer, length, d_model]` each; shorter ones are padded with zeros, which
            nothing real reads.
        n_pos: Length of the batch.
    """

    def __init__(self, examples: list[Float[Tensor, "writer _ d_model"]], n_pos: int) -> None:
        n_writers, _, d_model = examples[0].shape
        self.examples = examples
        self.shape = torch.Size((n_writers, len(examples), n_pos, d_model))

    def __getitem__(self, writers: slice) -> Float[Tensor, "writer batch pos d_model"]:
        """Some of the writers, as a tensor."""
        first = self.examples[0]
        out = first.new_empty(len(first[writers]), *self.shape[1:])
        return self.into(writers, out)

    def into(
        self, writers: slice, out: Float[Tensor, "writer batch pos d_model"]
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """Some of the writers, in a tensor that is there already."""
        parts = [example[writers] for example in self.examples]
        n_pos = self.shape[2]
        if all(part.shape[1] == n_pos for part in parts):
            return torch.stack(parts, dim=1, out=out)
        for i, part in enumerate(parts):
            out[:, i, : part.shape[1]] = part
            out[:, i, part.shape[1] :] = 0
        return out


Ablated = Float[Tensor, "writer batch pos d_model"] | StackedWriters
"""What each writer carries when ablated, on a batch."""

ABLATIONS = ("patch", "zero", "mean", "positional-mean")


@runtime_checkable
class Ablation(Protocol):
    """What every writer carries when its edges are cut, for a batch."""

    kind: str

    def __call__(self, batch: Batch) -> Float[Tensor, "writer batch pos d_model"]:
        """One tensor per writer, example and position; may be a stride-0 view."""
        ...


class Patch:
    """The corrupt prompt's own run: interchange ablation."""

    kind = "patch"

    def __init__(self, ports: Ports) -> None:
        self.ports = ports

    def __call__(self, batch: Batch) -> Float[Tensor, "writer batch pos d_model"]:
        """What each writer wrote on the corrupt prompts."""
        tokens, mask, _, prefix = batch.corrupt_prompts
        return record_writers(self.ports, tokens, mask, prefix)


class Constant:
    """The same value for every example: `zero`, `mean` or `positional-mean`.

    Args:
        kind: Its name.
        value: `[writer, d_model]`, or `[writer, pos, d_model]` for values by position.
    """

    def __init__(
        self,
        kind: str,
        value: Float[Tensor, "writer d_model"] | Float[Tensor, "writer pos d_model"],
    ) -> None:
        self.kind = kind
        self.value = value if value.ndim == 3 else value.unsqueeze(1)
        self.by_position = value.ndim == 3

    def __call__(self, batch: Batch) -> Float[Tensor, "writer batch pos d_model"]:
        """The constant, repeated without a copy.

        Raises:
            DataError: the batch is longer than every prompt of the reference set.
        """
        n_batch, n_pos = batch.clean.shape
        value = self.value
        if self.by_position:
            if n_pos > value.shape[1]:
                raise DataError(
                    f"positional-mean knows {value.shape[1]} positions, from its reference set, "
                    f"but a prompt has {n_pos} tokens; use ablation 'mean' or longer references"
                )
            value = value[:, :n_pos]
        return value.unsqueeze(1).expand(-1, n_batch, n_pos, -1)


def make_ablation(kind: str, ports: Ports, reference: Iterable[Batch] = ()) -> Ablation:
    """The ablation of that name; `patch` and `zero` ask no reference set.

    Means are over the corrupt prompts of `reference`, real tokens only: the distribution that the
    corrupted prompts of `patch` come from (Wang et al. 2022, arXiv 2211.00593, average so too).

    Raises:
        ConfigError: an unknown kind.
        DataError: a mean over an empty reference set.
    """
    if kind == "patch":
        return Patch(ports)
    if kind == "zero":
        graph = ports.graph
        shape = (graph.n_writers, graph.d_model)
        return Constant(
            kind, torch.zeros(shape, dtype=ports.model.dtype, device=ports.model.device)
        )
    if kind == "mean":
        total, count = _sum_by_position(ports, reference)
        return Constant(kind, (total.sum(1) / count.sum()).to(ports.model.dtype))
    if kind == "positional-mean":
        total, count = _sum_by_position(ports, reference)
        return Constant(kind, (total / count[:, None]).to(ports.model.dtype))
    raise ConfigError(f"ablation must be one of {', '.join(ABLATIONS)}, got {kind!r}")


def _sum_by_position(
    ports: Ports, reference: Iterable[Batch]
) -> tuple[Float[Tensor, "writer pos d_model"], Int[Tensor, " pos"]]:
    """Sum over examples of what each writer wrote, in float64, and how many had that position."""
    total = count = None
    for batch in reference:
        written = record_writers(ports, batch.corrupt, batch.mask).double()
        summed = torch.where(batch.mask[None, :, :, None], written, 0.0).sum(1)
        here = batch.mask.sum(0)
        if total is None or count is None:
            total, count = summed, here
            continue
        missing = summed.shape[1] - total.shape[1]
        total = F.pad(total, (0, 0, 0, max(missing, 0)))
        count = F.pad(count, (0, max(missing, 0)))
        total[:, : summed.shape[1]] += summed
        count[: len(here)] += here
    if total is None or count is None:
        raise DataError(
            "a mean ablation needs a reference set, but no training pairs were given: "
            "make_ablation(kind, gated.ports, batches)"
        )
    return total, count
