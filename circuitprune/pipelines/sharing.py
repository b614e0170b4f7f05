"""Work that all processes need the results of: each does some, files tell the others.

Attribution, where each scores some of the batches, and refinement, where each runs some circuits.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from circuitprune.attribution.base import Attribution, per_example
from circuitprune.attribution.nodes import NodeAttribution, lift
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import DataError
from circuitprune.metrics import Metric
from circuitprune.pipelines.setup import Setup
from circuitprune.runs.shards import Job, Ranks, run_shards

Methods = tuple[Attribution, NodeAttribution | None]
"""What scores edges and, if nodes are scored first, what scores those."""


def methods_of(setup: Setup) -> Methods:
    """What scores edges and, if the method scores nodes first, what scores those."""
    method = setup.method
    if setup.config.level != "edge":
        return method.score_parts, None
    of_edges: Callable[..., Tensor] = method.score  # a directed one takes its direction by name
    of_nodes: Callable[..., Tensor] | None = method.score_nodes
    if not method.directed or of_nodes is None:
        return of_edges, of_nodes
    direction = setup.config.attribution.direction
    return partial(of_edges, direction=direction), partial(of_nodes, direction=direction)


@dataclass(frozen=True)
class Sharing:
    """How a method's work is shared: files in `folder`, which all processes see.

    Process i scores batches i, i + world, ... The mean over all examples is that of one process up
    to rounding: sums are in float64, each part's own scores in the method's type.
    """

    folder: Path
    job: Job
    ranks: Ranks
    keeps: bool = True
    """Whether the files stay for a run that goes on, or go as soon as all have read them."""
    calls: Iterator[int] = field(default_factory=count)
    """Numbers of what is shared; every process asks for the same in the same order."""

    def mean(self, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The method, run by all processes together; each of them gets all of its scores.

        Args:
            method: An `Attribution` or a `NodeAttribution`, a mean over examples.
        """

        def shared(
            references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
        ) -> Float[Tensor, " scored"]:
            batches = list(batches)
            if not batches:
                raise DataError("attribution needs pairs, but was given no batches")
            parts = min(self.ranks.world, len(batches))

            def score(index: Int[Tensor, "1"]) -> Float[Tensor, "1 scored"]:
                mine = batches[int(index) :: parts]
                scores = method(references, mine, metric, steps).cpu()
                return (scores.double() * sum(map(len, mine))).unsqueeze(0)

            sums = self._all(list(torch.arange(parts).split(1)), score)
            dtype = torch.promote_types(references.gated.dtype, torch.float32)
            return (sums.sum(dim=0) / sum(map(len, batches))).to(dtype)

        return shared

    def both(self, of_edges: Attribution, of_nodes: NodeAttribution | None) -> Methods:
        """The same, shared; edges that get scores from nodes get them from the whole means."""
        if of_nodes is None:
            return self.mean(of_edges), None
        nodes = self.mean(of_nodes)

        def lifted(
            references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
        ) -> Float[Tensor, " edge"]:
            return lift(references.gated.graph, nodes(references, batches, metric, steps))

        return lifted, nodes

    def each(
        self,
        method: Attribution,
        references: References,
        batches: Sequence[Batch],
        metric: Metric,
        steps: int,
    ) -> Float[Tensor, "example edge"]:
        """`per_example`, a process taking whole batches: to the bit what one process gives."""
        examples = torch.arange(sum(map(len, batches))).split([len(batch) for batch in batches])
        number = {int(indices[0]): batch for indices, batch in zip(examples, batches, strict=True)}

        def score(indices: Int[Tensor, " n"]) -> Float[Tensor, "n edge"]:
            batch = number[int(indices[0])]
            return per_example(method, references, [batch], metric, steps).cpu()

        return self._all(list(examples), score)

    def pieces(
        self, n: int, rows: Callable[[Sequence[int]], Iterator[Float64[Tensor, " value"]]]
    ) -> Iterable[Float64[Tensor, " value"]]:
        """The rows of `n` pieces of work, in order; process i does pieces i, i + world, ...

        Args:
            n: The same in all processes.
            rows: A row for each of some pieces, which depends on no other piece.
        """
        if not n:
            return []
        parts = min(self.ranks.world, n)
        plan = [torch.arange(i, n, parts) for i in range(parts)]
        found = self._all(plan, lambda some: torch.stack(list(rows(some.tolist()))))
        return found[torch.cat(plan).argsort()]

    def _all(
        self, plan: list[Int[Tensor, " _"]], score: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "total scored"]:
        """`run_shards`, whose results every process reads before any goes on."""
        folder = self.folder / f"{next(self.calls)}_of_{self.ranks.world}"
        found = run_shards(plan, score, folder, self.job, self.ranks)
        if found is None:  # they are all there by now
            found = run_shards(plan, score, folder, self.job)
        assert found is not None
        self.ranks.wait()
        if self.ranks.leads and not self.keeps:
            shutil.rmtree(folder, ignore_errors=True)
        return found
