"""What a circuit's edges carry from the input to the logits, span by span of positions.

A node at a span is reached if a kept edge brings it something, and useful if kept edges lead on
from it to the logits. Attention alone goes from one span to another: a head at a span reads keys
and values of every span that it sees. Without spans there is one, which sees itself.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from circuitprune.circuits.graph import Block, Graph

Grid = Shaped[Tensor, "whole span"]
"""A value for each whole edge at each span."""


class Flow(NamedTuple):
    """Where something can enter, leave, and go from span to span."""

    enters: Bool[Tensor, " span"]
    """The input may carry something else than when ablated."""
    leaves: Bool[Tensor, " span"]
    """The logits are read there."""
    sees: Bool[Tensor, "span seen"]
    """Attention of a span looks at another, and at itself."""

    def to(self, device: torch.device) -> "Flow":
        """The same on a device."""
        return Flow(self.enters.to(device), self.leaves.to(device), self.sees.to(device))


_YES = torch.ones(1, dtype=torch.bool)
WHOLE = Flow(_YES, _YES, _YES.unsqueeze(0))
"""Of positions that are not told apart."""


def reached_writers(graph: Graph, mask: Grid, flow: Flow) -> Bool[Tensor, "writer span"]:
    """At which spans a path of kept edges from `input` reaches each writer."""
    reached = torch.zeros(graph.n_writers, mask.shape[1], dtype=torch.bool, device=mask.device)
    reached[0] = flow.enters
    kv, group = graph.n_kv_readers, graph.n_heads // graph.n_kv_readers
    for block in graph.blocks[:-1]:
        fed = (_rows(mask, block) & reached[: block.n_writers]).any(dim=1)
        if block.kind == "mlp":
            reached[graph.mlp_writer(block.layer)] = fed[0]
            continue
        q, k, v = fed.split([graph.n_heads, kv, kv])
        seen = ((k | v).unsqueeze(1) & flow.sees).any(dim=-1)
        reached[graph.heads(block.layer)] = q | seen.repeat_interleave(group, dim=0)
    return reached


def useful_readers(graph: Graph, mask: Grid, flow: Flow) -> Bool[Tensor, "reader span"]:
    """At which spans each reader belongs to a node from which kept edges lead to `logits`."""
    n_spans = mask.shape[1]
    leads = torch.zeros(graph.n_writers, n_spans, dtype=torch.bool, device=mask.device)
    useful = torch.ones(graph.n_readers, n_spans, dtype=torch.bool, device=mask.device)
    useful[-1] = flow.leaves
    for block in reversed(graph.blocks):
        if block.kind == "mlp":
            useful[block.readers] = leads[graph.mlp_writer(block.layer)]
        elif block.kind == "attention":
            heads = leads[graph.heads(block.layer)]
            shared = heads.view(graph.n_kv_readers, -1, n_spans).any(dim=1)
            looked_at = (shared.unsqueeze(1) & flow.sees.T).any(dim=-1)
            useful[block.readers] = torch.cat([heads, looked_at, looked_at])
        rows = _rows(mask, block) & useful[block.readers].unsqueeze(1)
        leads[: block.n_writers] |= rows.any(dim=0)
    return useful


def arrivals(graph: Graph, places: Grid, flow: Flow, never: int) -> Int[Tensor, "writer span"]:
    """The place of the edge with which each writer is first reached; -1 where the input enters."""
    arrives = places.new_full((graph.n_writers, places.shape[1]), never)
    arrives[0] = arrives[0].where(~flow.enters, -1)
    kv, group = graph.n_kv_readers, graph.n_heads // graph.n_kv_readers
    for block in graph.blocks[:-1]:
        fed = torch.maximum(_rows(places, block), arrives[: block.n_writers]).amin(dim=1)
        if block.kind == "mlp":
            arrives[graph.mlp_writer(block.layer)] = fed[0]
            continue
        q, k, v = fed.split([graph.n_heads, kv, kv])
        seen = torch.minimum(k, v).unsqueeze(1).where(flow.sees, never).amin(dim=-1)
        arrives[graph.heads(block.layer)] = torch.minimum(q, seen.repeat_interleave(group, dim=0))
    return arrives


def departures(graph: Graph, places: Grid, flow: Flow, never: int) -> Int[Tensor, "reader span"]:
    """The place of the edge with which each reader's node first leads to the logits."""
    n_spans = places.shape[1]
    leads = places.new_full((graph.n_writers, n_spans), never)
    useful = places.new_full((graph.n_readers, n_spans), -1)
    useful[-1] = useful[-1].where(flow.leaves, never)
    for block in reversed(graph.blocks):
        if block.kind == "mlp":
            useful[block.readers] = leads[graph.mlp_writer(block.layer)]
        elif block.kind == "attention":
            heads = leads[graph.heads(block.layer)]
            shared = heads.view(graph.n_kv_readers, -1, n_spans).amin(dim=1)
            looked_at = shared.unsqueeze(1).where(flow.sees.T, never).amin(dim=-1)
            useful[block.readers] = torch.cat([heads, looked_at, looked_at])
        rows = torch.maximum(_rows(places, block), useful[block.readers].unsqueeze(1))
        leads[: block.n_writers] = torch.minimum(leads[: block.n_writers], rows.amin(dim=0))
    return useful


def _rows(values: Grid, block: Block) -> Shaped[Tensor, "reader writer span"]:
    """The part of a block, as a matrix for each span."""
    rows: Tensor = values[block.edges].unflatten(0, (block.n_readers, block.n_writers))
    return rows
