"""Circuits on a batch, computed only where they differ from the model with every edge cut.

Where cut edges carry one run of the same model, as under `patch`, a reader without an open edge
from anything that differs sees that run's stream, so what it feeds writes what it carries when
ablated; and what feeds nobody need not be known. A circuit of few edges costs the few heads and
MLPs in it instead of the model.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Block
from circuitprune.data.batches import Batch
from circuitprune.engine.ablated_streams import AblatedStreams
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.partial import (
    Heads,
    PartialRun,
    Reach,
    at_answers,
    looks_at_answers,
    reach_of,
)
from circuitprune.models.ports import Ports
from circuitprune.models.sharding import gathered

SMALL = 0.5
"""Largest share of the readers that a circuit may reach for it to be run by reach."""


class CircuitRuns:
    """Any number of circuits on one batch.

    Args:
        ports: Of the model.
        batch: Its clean prompts are run.
        ablated: What each writer carries where an edge is cut: wrote in one run of this model.
    """

    def __init__(self, ports: Ports, batch: Batch, ablated: Ablated) -> None:
        self.ports, self.graph, self.batch = ports, ports.graph, batch
        self.ablated = ablated[:].flatten(1, 2)
        self.streams = AblatedStreams(ports, self.ablated)
        self.heads: Heads = {}
        """Of the model with every edge cut, by layer, as far as some circuit needed them."""

    def reach(self, mask: Bool[Tensor, " edge"]) -> Reach | None:
        """What a circuit computes; None where it is so much that nothing would be saved."""
        graph = self.graph
        from_input = mask & (graph.edge_writer == 0).to(mask.device)
        fed = torch.zeros(graph.n_readers, dtype=torch.bool, device=mask.device)
        fed[graph.edge_reader.to(mask.device)[from_input]] = True
        reach = reach_of(graph, mask, fed)
        if sum(map(len, reach.rows.values())) > SMALL * graph.n_readers:
            return None
        reach.rows[graph.logits_block] = torch.zeros(1, dtype=torch.long, device=mask.device)
        return Reach(reach.rows, torch.cat([reach.writers.new_zeros(1), reach.writers]))

    @torch.no_grad()
    def logits(self, mask: Bool[Tensor, " edge"], reach: Reach) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits of a circuit, of which `reach` is what it computes."""
        delta = self.ablated.new_empty(len(reach.writers), *self.ablated.shape[1:])
        slots = {writer: slot for slot, writer in enumerate(reach.writers.tolist())}
        for layer in range(self.graph.n_layers):
            rows = reach.rows.get(self.graph.attention_block(layer), ())
            if 0 < len(rows) < self.graph.attention_block(layer).n_readers:
                self._know(layer)

        gates = {
            block: self.graph.block_view(mask, block)[rows][:, reach.in_front_of(block)]
            for block, rows in reach.rows.items()
        }
        gates = {block: own.to(delta.dtype) for block, own in gates.items()}
        read = self.streams.reading(gates, delta, self._at, reach.writers)
        was, heads = self.ablated.__getitem__, dict(self.heads)
        run = PartialRun(self.ports, self.batch, reach, 1, read, was, delta, slots, heads)
        return run.logits()

    def _at(self, block: Block, chunks: Tensor) -> Tensor:
        """Of `[..., token, d_model]`, what a block looks at: answers only, at the model's end."""
        if not looks_at_answers(self.graph, block):
            return chunks
        return at_answers(chunks, self.batch.last)

    def _know(self, layer: int) -> None:
        """Find a layer's queries, keys and values with every edge cut, once."""
        if layer in self.heads:
            return
        block, modules = self.graph.attention_block(layer), self.ports.layers[layer]
        normed = modules.attention_norm(self.streams.bases[block].unsqueeze(0))
        with gathered(self.ports.blocks[layer]):
            outputs = [module(normed) for module in modules.projections]
        wide = [self.ports.widen(i, output) for i, output in enumerate(outputs)]
        parts = [part for i, output in enumerate(wide) for part in self.ports.split(i, output)]
        self.heads[layer] = torch.cat([part.values for part in parts])
