"""The runs that training and verification compare with, computed once and kept within a budget."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.pairs import Batch
from circuitprune.engine.ablation import Ablated, Ablation, StackedWriters, make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.progress import Progress, silent, told
from circuitprune.errors import ConfigError

Joined = TypeVar("Joined")
Key = tuple[tuple[int, ...], tuple[int, ...]]
"""Clean and corrupt tokens up to the answer position: all that both runs depend on."""


@dataclass(frozen=True)
class Run:
    """One batch, made ready for any number of circuits: what cut edges carry is fetched once."""

    gated: GatedModel
    batch: Batch
    """On the model's device."""
    ablated: Ablated
    """What each writer carries where an edge is cut."""
    full_logits: Callable[[Batch], Float[Tensor, "batch vocab"]]

    @cached_property
    def full(self) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits of the model that circuits are compared with."""
        return self.full_logits(self.batch)

    def __call__(
        self, gates: Float[Tensor, " edge"] | Bool[Tensor, " edge"]
    ) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits under gates, or of a circuit: kept edges live, others ablated."""
        if gates.dtype == torch.bool:
            gates = gates.to(self.gated.device, self.gated.dtype)
        batch = self.batch
        return self.gated(gates, batch.clean, batch.mask, self.ablated, batch.last)


class References:
    """Ablated writers and the full model's answer logits of every example, cached by its prompts.

    Mask training visits each pair many times while neither run changes. What does not fit in
    `max_gb` is computed again each time; results are the same either way up to rounding, which
    depends on the batch that an example is computed in. `fill` fixes those batches.

    Args:
        gated: The model under study.
        ablation: What cut edges carry: `patch` or `zero`, or what `make_ablation` gives.
        max_gb: Budget for all cached tensors, in GB (1e9 bytes); 0 caches nothing.

    Raises:
        ConfigError: no such ablation.
        DataError: a mean by its name alone, which says nothing of the pairs to average over.
    """

    def __init__(self, gated: GatedModel, ablation: Ablation | str, max_gb: float = 2.0) -> None:
        if isinstance(ablation, str):
            ablation = make_ablation(ablation, gated.ports)
        if not isinstance(ablation, Ablation):
            raise ConfigError(
                f"an ablation is 'patch', 'zero' or what make_ablation gives, got {ablation!r:.60}"
            )
        self.gated, self.ablation = gated, ablation
        self.budget = int(max_gb * 1e9)
        self._written: dict[Key, Float[Tensor, "writer pos d_model"]] = {}
        self._logits: dict[Key, Float[Tensor, " vocab"]] = {}

    def fill(self, batches: Iterable[Batch], progress: Progress = silent) -> None:
        """Cache the runs of these batches, the logits first, until the budget is spent.

        Done before anything else, this makes later results the same to the bit whoever asks first:
        a resumed run, which skips the attribution, sees the bytes of an uninterrupted one.
        """
        batches = list(batches)
        work = [(run, batch) for run in (self.full_logits, self.ablated) for batch in batches]
        for run, batch in told(work, progress):
            if self.budget > 0:
                run(batch.to(self.gated.device))

    def run(self, batch: Batch) -> Run:
        """The model on one batch, under any gates."""
        batch = batch.to(self.gated.device)
        return Run(self.gated, batch, self.ablated(batch), self.full_logits)

    def runs(self, batches: Iterable[Batch]) -> Iterator[Run]:
        """`run` of each batch in turn; only one is held."""
        return map(self.run, batches)

    def ablated(self, batch: Batch) -> Ablated:
        """What each writer carries on this batch when ablated."""
        if self.ablation.kind != "patch":
            return self.ablation(batch)  # already one value for all examples
        length = batch.clean.shape[1]
        return self._cached(
            self._written,
            batch,
            compute=self.ablation,
            take=lambda written, row: written[:, row, : int(batch.last[row]) + 1].clone(),
            join=lambda examples: StackedWriters(examples, length),
        )

    def ablated_copy(self, batch: Batch) -> Float[Tensor, "writer batch pos d_model"]:
        """As `ablated`, in a tensor of the caller's own."""
        ablated = self.ablated(batch)
        if isinstance(ablated, StackedWriters):
            return ablated[:]
        return ablated if self.ablation.kind == "patch" else ablated.clone()

    def full_logits(self, batch: Batch) -> Float[Tensor, "batch vocab"]:
        """The untouched model's logits at the answer positions of the clean prompts."""
        return self._cached(
            self._logits,
            batch,
            compute=lambda b: self.gated.plain(b.clean, b.mask, b.last),
            take=lambda logits, row: logits[row].clone(),
            join=torch.stack,
        )

    def _cached(
        self,
        store: dict[Key, Tensor],
        batch: Batch,
        compute: Callable[[Batch], Tensor],
        take: Callable[[Tensor, int], Tensor],
        join: Callable[[list[Tensor]], Joined],
    ) -> Tensor | Joined:
        keys = _prompts(batch)
        if all(key in store for key in keys):
            return join([store[key] for key in keys])
        whole = compute(batch)
        for row, key in enumerate(keys):
            if key in store:
                continue
            part = take(whole, row)
            if part.nbytes > self.budget:
                self.budget = 0  # closed: what is kept must not depend on who asks next
                break
            store[key] = part
            self.budget -= part.nbytes
        return whole


def _prompts(batch: Batch) -> list[Key]:
    """Not the pairs' indices: every data set counts from 0."""
    rows = zip(batch.clean.tolist(), batch.corrupt.tolist(), batch.last.tolist(), strict=True)
    return [(tuple(c[: last + 1]), tuple(k[: last + 1])) for c, k, last in rows]
