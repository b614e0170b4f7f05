"""What an edge carries when it is cut, and the reference runs behind it, computed once."""

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitprune.data.pairs import Batch
from circuitprune.engine.optimal import optimal_constants
from circuitprune.engine.recording import record_writers
from circuitprune.errors import ConfigError, DataError
from circuitprune.files.text import counted
from circuitprune.models.norms import without_epsilon
from circuitprune.models.ports import Ports

Record = Callable[..., Float[Tensor, "writer batch pos d_model"]]
"""`(tokens, mask, prefix) -> what each writer wrote` on a plain run."""


class StackedWriters:
    """Recorded writers of several examples, joined only where and when they are read.

    Stands for a `[writer, batch, pos, d_model]` tensor: the engine takes a few writers at a time,
    so the joined whole, as large as the engine's own buffer, never exists.

    Args:
        examples: `[writer, length, d_model]` each; shorter ones go on as they end, which nothing
            real reads: zeros are nothing that a norm without epsilon has a value for.
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
            out[:, i, part.shape[1] :] = part[:, -1:]
        return out


Ablated = Float[Tensor, "writer batch pos d_model"] | StackedWriters
"""What each writer carries when ablated, on a batch."""

ABLATIONS = ("patch", "zero", "mean", "positional-mean", "resample", "optimal")
PER_PAIR = ("patch", "resample")
"""Those that say something else for each pair; the others one value for all."""
ROWS = 256
"""resample: tokens of the reference set whose spread the Gaussian has."""


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

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(self, batch: Batch) -> Float[Tensor, "writer batch pos d_model"]:
        """What each writer wrote on the corrupt prompts."""
        tokens, mask, _, prefix = batch.corrupt_prompts
        return self.record(tokens, mask, prefix)


class Constant:
    """The same value for every example: `zero`, `mean`, `positional-mean` or `optimal`.

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
                    f"positional-mean knows {counted(value.shape[1], 'position')}, from its "
                    f"reference set, but a prompt has {counted(n_pos, 'token')}; use ablation "
                    "'mean' or longer references"
                )
            value = value[:, :n_pos]
        return value.unsqueeze(1).expand(-1, n_batch, n_pos, -1)


class Resample:
    """A draw from the Gaussian of each writer over a reference set, new at every position.

    `mean + noise @ rows / sqrt(n_rows - 1)`: the covariance of the rows exactly, without a matrix
    of `d_model` by `d_model` for each writer. Noise is a function of the prompts and the position,
    so a pair carries the same whenever it is asked for, in whatever batch.

    Args:
        mean: Of each writer.
        rows: What each wrote at some tokens, minus its mean over them.
        seed: Of the noise.
    """

    kind = "resample"

    def __init__(
        self,
        mean: Float[Tensor, "writer d_model"],
        rows: Float[Tensor, "writer row d_model"],
        seed: int = 0,
    ) -> None:
        self.mean, self.seed = mean, seed
        self.rows = rows / max(1, rows.shape[1] - 1) ** 0.5

    def __call__(self, batch: Batch) -> Float[Tensor, "writer batch pos d_model"]:
        """A draw for each example and position; padding goes on as the last one."""
        n_writers, n_rows, d_model = self.rows.shape
        n_batch, n_pos = batch.clean.shape
        out: Tensor = self.rows.new_empty(n_writers, n_batch, n_pos, d_model)
        for row in range(n_batch):
            length = int(batch.last[row]) + 1
            noise = torch.randn(n_writers, length, n_rows, generator=self._generator(batch, row))
            drawn = torch.bmm(noise.to(self.rows), self.rows)
            out[:, row, :length] = self.mean[:, None] + drawn
            out[:, row, length:] = out[:, row, length - 1 : length]
        return out

    def _generator(self, batch: Batch, row: int) -> torch.Generator:
        """Of the noise of one pair, by its prompts."""
        end = int(batch.last[row]) + 1
        tokens = (batch.clean[row, :end].tolist(), batch.corrupt[row, :end].tolist(), self.seed)
        digest = hashlib.sha256(repr(tokens).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def make_ablation(
    kind: str,
    ports: Ports,
    reference: Iterable[Batch] = (),
    record: Record | None = None,
    shape: tuple[int, int] | None = None,
) -> Ablation:
    """The ablation of that name; `patch` and `zero` ask no reference set.

    Means are over the corrupt prompts of `reference`, real tokens only: the distribution that the
    corrupted prompts of `patch` come from (Wang et al. 2022, arXiv 2211.00593, average so too).
    So is the Gaussian of `resample`; `optimal` starts from the means and learns, see `optimal`.

    Args:
        kind: One of `ABLATIONS`.
        ports: Of the model.
        reference: What means are over.
        record: What is recorded of a run; the writers if None.
        shape: Things recorded, and their width.

    Raises:
        ConfigError: an unknown kind, or `zero` in a model whose norms have no value for nothing.
        DataError: no reference set, for a kind that needs one.
    """
    record = record or partial(record_writers, ports)
    if kind == "patch":
        return Patch(record)
    if kind == "zero":
        _refuse_nothing(ports.model)
        shape = shape or (ports.graph.n_writers, ports.graph.d_model)
        return Constant(
            kind, torch.zeros(shape, dtype=ports.model.dtype, device=ports.model.device)
        )
    if kind not in ABLATIONS:
        raise ConfigError(f"ablation must be one of {', '.join(ABLATIONS)}, got {kind!r}")
    reference = list(reference)
    if kind == "mean":
        total, count = _sum_by_position(record, reference)
        return Constant(kind, (total.sum(1) / count.sum()).to(ports.model.dtype))
    if kind == "positional-mean":
        total, count = _sum_by_position(record, reference)
        return Constant(kind, (total / count[:, None]).to(ports.model.dtype))
    mean, rows = _mean_and_rows(record, reference)
    if kind == "resample":
        return Resample(mean, rows)
    spread = rows.pow(2).mean(dim=(1, 2)).sqrt()
    return Constant(kind, optimal_constants(ports, reference, mean, spread))


def _refuse_nothing(model: nn.Module) -> None:
    """Nothing, unless the model has no value where a reader reads nothing, as under `zero`."""
    if name := without_epsilon(model):
        raise ConfigError(
            f"ablation=zero leaves a reader whose edges are all cut nothing to read, and for that "
            f"the model has no value: the epsilon of its norm {name} is 0; take ablation=mean, "
            "resample or patch"
        )


def _mean_and_rows(
    record: Record, reference: list[Batch]
) -> tuple[Float[Tensor, "writer d_model"], Float[Tensor, "writer row d_model"]]:
    """Each writer's mean over the reference set, and up to `ROWS` of its tokens minus their mean.

    The tokens are the same for all writers, spread evenly over the corrupt prompts.
    """
    total, count = _sum_by_position(record, reference)
    n_tokens = int(count.sum())
    chosen = torch.linspace(0, n_tokens - 1, min(ROWS, n_tokens)).round().long().unique()
    parts, before = [], 0
    for batch in reference:
        here = chosen[(chosen >= before) & (chosen < before + int(batch.mask.sum()))] - before
        before += int(batch.mask.sum())
        if len(here):
            written = record(batch.corrupt, batch.mask)
            parts.append(written[:, batch.mask][:, here.to(written.device)])
    rows = torch.cat(parts, dim=1)
    mean = (total.sum(1) / count.sum()).to(rows.dtype)
    return mean, rows - rows.mean(dim=1, keepdim=True)


def _sum_by_position(
    record: Record, reference: Iterable[Batch]
) -> tuple[Float[Tensor, "writer pos d_model"], Int[Tensor, " pos"]]:
    """Sum over examples of what each writer wrote, in float64, and how many had that position."""
    total = count = None
    for batch in reference:
        written = record(batch.corrupt, batch.mask).double()
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
            "this ablation needs a reference set, but no training pairs were given: "
            "make_ablation(kind, gated.ports, batches)"
        )
    return total, count
