"""The runs that training and verification compare with, computed once and kept within a budget."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch, Prefix, Rest
from circuitprune.engine.ablation import PER_PAIR, Ablated, Ablation, StackedWriters
from circuitprune.engine.circuit_run import CircuitRuns
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.prefixes import KeysValues, padded_left, run_prefixes
from circuitprune.engine.progress import Progress, silent, told
from circuitprune.errors import ConfigError

Computed = TypeVar("Computed")
Joined = TypeVar("Joined")
Key = tuple[tuple[int, ...], tuple[int, ...], int]
"""Clean and corrupt tokens up to the answer position, all that both runs depend on, and how many of
the first are left out."""


@dataclass(frozen=True)
class Run:
    """One batch, made ready for any number of circuits: what cut edges carry is fetched once."""

    gated: GatedModel
    batch: Batch
    """On the model's device."""
    ablated: Ablated
    """What each writer carries where an edge is cut, at the positions of the batch."""
    full_logits: Callable[[Batch], Float[Tensor, "batch vocab"]]
    from_a_run: bool = False
    """Whether cut edges carry what this very model wrote in one run: then whatever no open edge
    reaches writes what it carries when cut. Under means it does not: it is run on their sum."""

    @cached_property
    def full(self) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits of the model that circuits are compared with."""
        return self.full_logits(self.batch)

    @cached_property
    def circuits(self) -> CircuitRuns:
        """Circuits on this batch; made when one is first asked for."""
        return CircuitRuns(self.gated.ports, self.batch, self.ablated)

    def __call__(
        self, gates: Float[Tensor, " edge"] | Bool[Tensor, " edge"]
    ) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits under gates, or of a circuit: kept edges live, others ablated.

        A small circuit is computed only where it differs from the empty one.
        """
        if gates.dtype == torch.bool:
            mask = gates.to(self.gated.device)
            reach = self.circuits.reach(mask) if self.from_a_run else None
            if reach is not None:
                return self.circuits.logits(mask, reach)
            gates = mask.to(self.gated.dtype)
        return self.gated.on(self.batch, gates, self.ablated)


class References:
    """Ablated writers and the full model's answer logits of every example, cached by its prompts.

    Mask training visits each pair many times while neither run changes. What does not fit in
    `max_gb` is computed again each time; results are the same either way up to rounding, which
    depends on the batch that an example is computed in. `fill` fixes those batches.

    Args:
        gated: The model under study.
        ablation: What cut edges carry: `patch` or `zero`, or what `make_ablation` gives.
        max_gb: Budget for all cached tensors, in GB (1e9 bytes); 0 caches nothing.
        prefixes: Whether what clean and corrupt prompts begin with alike is run once, where that
            changes nothing; see `rest`.

    Raises:
        ConfigError: no such ablation.
        DataError: a mean by its name alone, which says nothing of the pairs to average over.
    """

    def __init__(
        self,
        gated: GatedModel,
        ablation: Ablation | str,
        max_gb: float = 2.0,
        prefixes: bool = True,
    ) -> None:
        if isinstance(ablation, str):
            ablation = gated.ablation(ablation)
        if not isinstance(ablation, Ablation):
            raise ConfigError(
                f"an ablation is 'patch', 'zero' or what make_ablation gives, got {ablation!r:.60}"
            )
        self.gated, self.ablation = gated, ablation
        self.budget = int(max_gb * 1e9)
        self.leaves_out_prefixes = (
            prefixes and ablation.kind == "patch" and gated.ports.family.caches
        )
        self._written: dict[Key, Float[Tensor, "writer pos d_model"]] = {}
        self._logits: dict[Key, Float[Tensor, " vocab"]] = {}
        self._empty: dict[Key, Float[Tensor, " vocab"]] = {}
        self._prefixes: dict[Key, KeysValues] = {}

    def fill(self, batches: Iterable[Batch], progress: Progress = silent) -> None:
        """Cache the runs of these batches, the logits first, until the budget is spent.

        Done before anything else, this makes later results the same to the bit whoever asks first:
        a resumed run, which skips the attribution, sees the bytes of an uninterrupted one.
        """
        batches = list(batches)
        work = [(run, batch) for run in (self.full_logits, self.run) for batch in batches]
        for run, batch in told(work, progress):
            if self.budget > 0:
                run(batch.to(self.gated.device))

    def run(self, batch: Batch) -> Run:
        """The model on one batch, under any gates; the run's own batch is the `rest` of it."""
        batch = self.rest(batch)
        return Run(
            self.gated,
            batch,
            self.ablated(batch),
            self.full_logits,
            self.ablation.kind == "patch" and self.gated.by_reach,
        )

    def runs(self, batches: Iterable[Batch]) -> Iterator[Run]:
        """`run` of each batch in turn; only one is held."""
        return map(self.run, batches)

    def rest(self, batch: Batch) -> Batch:
        """A batch, on the model's device, without what its two prompts begin with alike.

        Where cut edges carry the corrupt run, nothing at those positions depends on the gates, so
        scores, effects and logits at the answers are the same up to rounding. Where they carry
        something else, or the family's attention has no cache of Hugging Face's usual kind, it is
        the batch itself.
        """
        batch = batch.to(self.gated.device)
        if not self.leaves_out_prefixes or isinstance(batch, Rest):
            return batch
        lengths = batch.shared()
        if not bool(lengths.any()):
            return batch
        keys_values = self._cached(
            self._prefixes,
            batch,
            compute=lambda b: run_prefixes(self.gated.ports, b, lengths),
            take=lambda examples, row: examples[row],
            join=list,
        )
        return batch.behind(Prefix(lengths, padded_left(keys_values)))

    def rests(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """`rest` of each batch in turn."""
        return map(self.rest, batches)

    def ablated(self, batch: Batch) -> Ablated:
        """What each writer carries on this batch when ablated."""
        if self.ablation.kind not in PER_PAIR:
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
        return ablated if self.ablation.kind in PER_PAIR else ablated.clone()

    def full_logits(self, batch: Batch) -> Float[Tensor, "batch vocab"]:
        """The untouched model's logits at the answer positions of the whole clean prompts."""
        return self._cached(
            self._logits,
            batch.whole,
            compute=lambda b: self.gated.plain(b.clean, b.mask, b.last),
            take=lambda logits, row: logits[row].clone(),
            join=torch.stack,
        )

    def empty_logits(self, batch: Batch) -> Float[Tensor, "batch vocab"]:
        """Logits of the circuit without edges at the answer positions: all that cut edges carry."""
        with torch.no_grad():
            return self._cached(
                self._empty,
                batch.whole,
                compute=lambda b: self.run(b)(self.gated.graph.no_edges()),
                take=lambda logits, row: logits[row].clone(),
                join=torch.stack,
            )

    def _cached(
        self,
        store: dict[Key, Tensor],
        batch: Batch,
        compute: Callable[[Batch], Computed],
        take: Callable[[Computed, int], Tensor],
        join: Callable[[list[Tensor]], Joined],
    ) -> Computed | Joined:
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
    whole = batch.whole
    left_out = (whole.last - batch.last).tolist()
    parts = (whole.clean.tolist(), whole.corrupt.tolist(), whole.last.tolist(), left_out)
    rows = zip(*parts, strict=True)
    return [(tuple(c[: last + 1]), tuple(k[: last + 1]), out) for c, k, last, out in rows]
