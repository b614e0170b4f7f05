"""The KL of circuits to the model on some pairs: exact, with one edge changed, and its slopes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from circuitprune.circuits.span_graph import require_edges
from circuitprune.data.batches import Batch
from circuitprune.engine.references import References
from circuitprune.errors import DataError, NonFiniteError
from circuitprune.metrics import kl_divergence
from circuitprune.patching.candidates import CandidateRuns

SOFTNESS = 0.1
"""How far gates stand from 0 and 1 where slopes are taken: at 0 and 1 a node that no path of the
circuit goes through has no slope at all."""

Row = Float64[Tensor, " n"]
"""What one piece of work adds to the sums over all pairs."""
Share = Callable[[int, Callable[[Sequence[int]], Iterator[Row]]], Iterable[Row]]
"""From how many pieces of work there are, and what does some of them: the rows of all, in order."""


def alone(n: int, rows: Callable[[Sequence[int]], Iterator[Row]]) -> Iterator[Row]:
    """A `Share` of one process, which does every piece and keeps no row."""
    return rows(range(n))


class CircuitKL:
    """`KL(model || circuit)` of the next token in nats, means over all pairs in float64.

    Args:
        references: The model, the ablation and the full model's logits.
        batches: The pairs. The run of one batch is held at a time, see `CandidateRuns`.
        slope_batches: The same pairs in batches that a backward pass has room for; by default as
            they are.
        share: Who does which piece of the work; each piece is the same to the bit in any process
            of as many threads.

    Raises:
        DataError: no batches.
    """

    def __init__(
        self,
        references: References,
        batches: Iterable[Batch],
        slope_batches: Iterable[Batch] | None = None,
        share: Share = alone,
    ) -> None:
        require_edges(references.gated.graph, "refinement")
        self.references, self.graph = references, references.gated.graph
        self.batches: Sequence[Batch] = list(batches)
        if not self.batches:
            raise DataError("circuits are compared on pairs, but there are no batches")
        references.fill(self.batches)  # a search that goes on then sees the same bits
        self.slope_batches = self.batches if slope_batches is None else list(slope_batches)
        self.n_pairs, self.share = sum(map(len, self.batches)), share

    @torch.no_grad()
    def of(self, mask: Bool[Tensor, " edge"]) -> float:
        """A circuit's own KL, by a run of it alone.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        return self.each([mask]).item()

    @torch.no_grad()
    def each(self, masks: Iterable[Bool[Tensor, " edge"]]) -> Float64[Tensor, " n"]:
        """`of` each of some circuits, to the same bits; each batch is fetched once for all.

        Raises:
            NonFiniteError: one is NaN or infinite.
        """
        masks = list(masks)

        def rows(batch: Batch, some: Sequence[int]) -> Iterator[Row]:
            run = self.references.run(batch)
            for i in some:
                row = torch.zeros(len(masks), dtype=torch.float64)
                row[i] = kl_divergence(run.full, run(masks[i])).double().sum()
                yield row

        return self._mean(self.batches, len(masks), len(masks), rows)

    @torch.no_grad()
    def changed(
        self, mask: Bool[Tensor, " edge"], edges: Int[Tensor, " n"]
    ) -> Float64[Tensor, " n"]:
        """KL of the circuit with each of these edges changed by itself: gone if kept, else added.

        Each is run only where it differs from the circuit, many at once.

        Raises:
            NonFiniteError: one is NaN or infinite.
        """
        by_reader = list(self._by_reader(mask, edges))

        def rows(batch: Batch, some: Sequence[int]) -> Iterator[Row]:
            batch = self.references.rest(batch)
            ablated, full = self.references.ablated(batch), self.references.full_logits(batch)
            runs = CandidateRuns(self.references.gated, batch, ablated, mask.double(), 0)
            for places, candidates, reader in (by_reader[i] for i in some):
                opened = runs.open(reader)
                parts = candidates.double().split(opened.at_once)
                each = (one for part in parts for one in opened(part))
                kl = [kl_divergence(full, logits).double().sum() for logits in each]
                row = torch.zeros(len(edges), dtype=torch.float64)
                row[places] = torch.stack(kl).cpu()
                yield row

        return self._mean(self.batches, len(by_reader), len(edges), rows)

    def slopes(self, mask: Bool[Tensor, " edge"]) -> Float64[Tensor, " edge"]:
        """`d KL / d gate` of every edge with the gates `SOFTNESS` away from the circuit's.

        Below 0 where opening the gate further helps: what to add, and, above the others among
        the kept, what to remove.
        """
        precise = torch.promote_types(self.references.gated.dtype, torch.float32)

        def rows(batch: Batch, some: Sequence[int]) -> Iterator[Row]:
            run = self.references.run(batch)
            for _ in some:
                gates = mask.to(self.references.gated.device, precise)
                gates = (SOFTNESS + (1 - 2 * SOFTNESS) * gates).requires_grad_()
                with torch.enable_grad():
                    kl = kl_divergence(run.full, run(gates)).sum()
                    (slopes,) = torch.autograd.grad(kl, gates)
                yield slopes.double().cpu()

        return self._mean(self.slope_batches, 1, self.graph.n_edges, rows)

    def _mean(
        self,
        batches: Sequence[Batch],
        n_each: int,
        n_values: int,
        rows: Callable[[Batch, Sequence[int]], Iterator[Row]],
    ) -> Float64[Tensor, " n"]:
        """The mean over all pairs of what `n_each` pieces of work on each batch give in sum.

        Added in one order, whoever does which piece.
        """

        def of_pieces(pieces: Sequence[int]) -> Iterator[Row]:
            for number, some in groupby(pieces, lambda piece: piece // n_each):
                yield from rows(batches[number], [piece % n_each for piece in some])

        total = torch.zeros(n_values, dtype=torch.float64)
        for row in self.share(len(batches) * n_each, of_pieces):
            total += row
        return _finite(total / self.n_pairs)

    def _by_reader(
        self, mask: Bool[Tensor, " edge"], edges: Int[Tensor, " n"]
    ) -> Iterator[tuple[Int[Tensor, " some"], Bool[Tensor, "some writer"], int]]:
        """For each reader: which of the edges are into it, its gates with each changed, itself."""
        readers = self.graph.edge_reader[edges]
        for reader in readers.unique().tolist():
            block = self.graph.block_of_reader(reader)
            row = self.graph.block_view(mask, block)[reader - block.first_reader]
            places = (readers == reader).nonzero().flatten()
            candidates = row.repeat(len(places), 1)
            rows, writers = torch.arange(len(places)), self.graph.edge_writer[edges[places]]
            candidates[rows, writers] = ~candidates[rows, writers]
            yield places, candidates, reader


def _finite(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(
            "the KL of a circuit is NaN or infinite; use model.dtype=float32, or pairs whose "
            "logits are finite"
        )
    return values
