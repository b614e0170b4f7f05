"""Many gate settings of one reader at once, computed only where they differ from a finished run.

A circuit is run once and its run is kept. When the gates of one reader change, only the head or MLP
that it feeds writes something else, and of all later readers only those with an open gate on a
path from there see it. So a candidate costs the readers that it can reach, not the model, and the
candidates of one reader are stacked along the batch dimension::

    input of a later reader  =  its input in the kept run  +  sum_w gate[w] * (now[w] - kept[w])

Nothing is approximated: the logits are those of `GatedModel` under the same gates, up to rounding.
"""

from copy import copy
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Block, Graph
from circuitprune.circuits.span_graph import require_edges
from circuitprune.data.pairs import Batch
from circuitprune.engine.ablated_streams import AblatedStreams, added
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.panel_reads import PanelReads
from circuitprune.engine.partial import (
    Heads,
    PartialRun,
    Reach,
    at_answers,
    everything,
    looks_at_answers,
    reach_of,
)
from circuitprune.errors import GraphError
from circuitprune.files.text import counted

BUDGET = 1 << 25
"""Values in the largest tensors of one stacked run; more candidates than fit run in turns."""


class CandidateRuns:
    """The kept run of a circuit on one batch, ready to try other gates of one reader.

    Args:
        gated: The model.
        batch: Its clean prompts are run.
        ablated: What each writer carries when ablated.
        gates: The circuit, one float per edge.
        reader: The reader whose gates will be tried, by its position in `Graph.readers`.

    Holds what the writers wrote, and more than once: about `3 * writer * batch * pos * d_model`
    values, and as many as that has writers for each reader that `reader` can reach.

    Raises:
        GraphError: `gates` do not fit the graph, or there is no such reader.
    """

    @torch.no_grad()
    def __init__(
        self,
        gated: GatedModel,
        batch: Batch,
        ablated: Ablated,
        gates: Float[Tensor, " edge"],
        reader: int,
    ) -> None:
        require_edges(gated.graph, "a search by reader (ACDC, refinement)")
        self.ports, self.graph, self.batch = gated.ports, gated.graph, batch
        self.post_norms = gated.ports.post_norms
        self._set(gates, reader)
        self.ablated = ablated[:].flatten(1, 2)
        self.streams = AblatedStreams(self.ports, self.ablated)
        self.delta = self.ablated.new_empty(self.ablated.shape)
        self.kept: Heads = {}
        self.logits = self._keep(everything(self.graph, gated.device))

    @torch.no_grad()
    def other(self, gates: Float[Tensor, " edge"], reader: int) -> "CandidateRuns":
        """The same for another circuit and reader, on the same batch; only what differs is run."""
        new = copy(self)
        new._set(gates, reader)
        new.delta, new.kept = self.delta.clone(), dict(self.kept)
        new.logits = new._keep(new._difference(self))
        return new

    def open(self, reader: int) -> "CandidateRuns":
        """The same circuit with another reader to try gates of; nothing is run.

        The circuit must have been run whole: made by the constructor, not by `other`.
        """
        new = copy(self)
        new._set(self.flat, reader)
        return new

    def _set(self, gates: Tensor, reader: int) -> None:
        """Take another circuit and reader, before anything is run."""
        _check(self.graph, gates, reader)
        self.flat = gates = gates.to(self.ports.model.device, self.ports.model.dtype)
        self.gates = {b: self.graph.block_view(gates, b) for b in self.graph.blocks}
        self.block = self.graph.block_of_reader(reader)
        changed = torch.arange(self.graph.n_readers, device=gates.device) == reader
        self.kept_edges = gates != 0
        self.reach = reach_of(self.graph, self.kept_edges, changed)
        self.kept_inputs: dict[Block, Tensor] = {}

    def _difference(self, other: "CandidateRuns") -> Reach:
        """What this circuit's run has that is not in another one's, and the logits."""
        differs = [(self.gates[b] != other.gates[b]).any(dim=1) for b in self.graph.blocks]
        differs[-1] = torch.ones_like(differs[-1])
        changed = torch.cat(differs) | self._left_out(other.kept_edges)
        return reach_of(self.graph, self.kept_edges, changed, self.block.n_writers)

    def _left_out(self, kept: Bool[Tensor, " edge"]) -> Bool[Tensor, " reader"]:
        """Readers that a run of a circuit may have left out, as nobody reads what they feed."""
        read = torch.zeros(self.graph.n_writers, dtype=torch.bool, device=kept.device)
        read[self.graph.edge_writer.to(kept.device)[kept]] = True
        left_out = torch.zeros(self.graph.n_readers, dtype=torch.bool, device=kept.device)
        if not bool(read.all()):
            for reader in range(self.graph.n_readers - 1):
                left_out[reader] = not bool(read[list(self.graph.heads_of_reader(reader))].all())
        return left_out

    def _keep(self, reach: Reach) -> Float[Tensor, "batch vocab"]:
        """Run the circuit itself and keep the run; its logits at the answer positions."""
        gates = {block: self.gates[block][rows] for block, rows in reach.rows.items()}
        read = self.streams.reading(gates, self.delta, self.at)
        slots = {writer: writer for writer in reach.writers.tolist()}
        was = self.ablated.__getitem__
        run = PartialRun(self.ports, self.batch, reach, 1, read, was, self.delta, slots, self.kept)
        return run.logits(keep=True)

    @property
    def at_once(self) -> int:
        """How many candidates fit one stacked run."""
        widest = max(map(len, self.reach.rows.values()), default=0)
        per_candidate = (len(self.reach.writers) + 3 * widest) * self.delta[0].numel()
        return max(1, BUDGET // max(per_candidate, self.logits.numel()))

    @torch.no_grad()
    def __call__(
        self, candidates: Float[Tensor, "candidate writer"]
    ) -> Float[Tensor, "candidate batch vocab"]:
        """Answer-position logits of the circuit with each row as the gates of the reader."""
        candidates = candidates.to(self.delta)
        parts = [self._stacked(part) for part in candidates.split(self.at_once)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _stacked(self, candidates: Tensor) -> Tensor:
        n = len(candidates)
        if self.graph.logits_block not in self.reach.rows:
            return self.logits.expand(n, -1, -1)
        shape = (len(self.reach.writers), n * self.delta.shape[1], self.graph.d_model)
        shift = self.delta.new_empty(shape)
        shares = {
            block: self.post_norms.linear(self.shares(block), self.reach.in_front_of(block))
            for block in self.reach.rows
            if block != self.block and not looks_at_answers(self.graph, block)
        }
        reads = PanelReads(self.graph, shares, shift)

        def read(block: Block) -> Tensor:
            if block == self.block:
                return self.mixed(block, candidates).flatten(0, 1).unsqueeze(0)
            return self.shifted(block, shift, reads[block] if block in shares else None, n)

        reach, slots = self.reach, {w: i for i, w in enumerate(self.reach.writers.tolist())}
        run = PartialRun(self.ports, self.batch, reach, n, read, self._now, shift, slots, self.kept)
        logits: Tensor = run.logits().unflatten(0, (n, -1))
        return logits

    def _now(self, writers: list[int]) -> Float[Tensor, "writer token d_model"]:
        """What some writers wrote in the kept run."""
        return self.ablated[writers] + self.delta[writers]

    # ---------------------------------------------------------------- what readers see

    def mixed(
        self, block: Block, gates: Float[Tensor, "row writer"]
    ) -> Float[Tensor, "row _ d_model"]:
        """Inputs under these gates of readers in a block, from the kept run's writers."""
        look = partial(self.at, block)
        delta = look(self.delta[: block.n_writers])
        return self.streams.mixed(block, gates, delta, look)

    def shares(self, block: Block) -> Float[Tensor, "row writer"]:
        """Gates of a block's reached readers on the reached writers."""
        return self.gates[block][self.reach.rows[block]][:, self.reach.in_front_of(block)]

    def shifted(
        self,
        block: Block,
        shift: Float[Tensor, "writer _ d_model"],
        stream: Float[Tensor, "row _ d_model"] | None,
        n: int,
    ) -> Float[Tensor, "row _ d_model"]:
        """Inputs of a block's reached readers when the reached writers have moved by `shift`.

        Args:
            block: Where they are.
            shift: Of all reached writers.
            stream: What the readers take of it, but for norms, where that is known.
            n: Candidates.
        """
        writers, shares = self.reach.in_front_of(block), self.shares(block)
        gates, moved = self.gates[block][self.reach.rows[block]], shift[: len(writers)]
        moved = self.at(block, moved, n)
        if stream is None:
            stream = self.post_norms.linear(shares, writers) @ moved.flatten(1)
        if block not in self.kept_inputs:
            self.kept_inputs[block] = self.mixed(block, gates)
        stream = stream.view(len(gates), n, -1)
        stream += self.kept_inputs[block].flatten(1).unsqueeze(1)
        stream = stream.view(len(gates), -1, self.graph.d_model)
        for layer, heads in self.post_norms.upstream(block.n_writers):
            of_layer = (writers >= heads.start) & (writers < heads.stop)
            if not bool(of_layer.any()):
                continue
            ablated = self.at(block, self.streams.head_sums[layer])
            kept = added(ablated, gates[:, heads], self.at(block, self.delta[heads]))
            now = added(kept.repeat(1, n, 1), shares[:, of_layer], moved[of_layer])
            stream += self.post_norms.of(layer, now)
            stream -= self.post_norms.of(layer, kept).repeat(1, n, 1)
        return stream

    def at(self, block: Block, chunks: Tensor, n: int = 1) -> Tensor:
        """Of `[..., token, d_model]`, what a block looks at: answers only, at the model's end."""
        if not looks_at_answers(self.graph, block):
            return chunks
        return at_answers(chunks, self.batch.last.repeat(n))


def _check(graph: Graph, gates: Tensor, reader: int) -> None:
    if gates.shape != (graph.n_edges,):
        raise GraphError(
            f"expected {counted(graph.n_edges, 'gate')}, one per edge, got {tuple(gates.shape)}"
        )
    if not 0 <= reader < graph.n_readers:
        raise GraphError(f"reader {reader} is not one of the {graph.n_readers} of this graph")
