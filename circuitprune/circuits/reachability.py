"""Which edges and nodes of a circuit matter: those on a path from the input to the logits."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitprune.circuits.flow import arrivals, departures, reached_writers, useful_readers
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.span_graph import base_of, flat_of, flow_of, grid_of


def live_edges(graph: Graph, mask: Bool[Tensor, " edge"]) -> Bool[Tensor, " edge"]:
    """The kept edges that lie on a path of kept edges from `input` to `logits`.

    An edge (w, r) is live if w is reached from `input` and the node of r reaches `logits`. A head
    is reached through any of its q, k and v readers; a shared KV reader stands for all its heads.
    """
    return mask & joinable_edges(graph, mask)


def joinable_edges(graph: Graph, mask: Bool[Tensor, " edge"]) -> Bool[Tensor, " edge"]:
    """Edges that are live, or would be by themselves if they were kept too.

    All parts are: each is written into the stream that everything behind it reads. At spans, an
    edge is live where its writer is reached and its reader's node leads to the logits.
    """
    if isinstance(graph, PartGraph):
        return torch.ones_like(mask)
    flow, writers, readers = flow_of(graph).to(mask.device), *_ends(graph, mask.device)
    base, grid = base_of(graph), grid_of(graph, mask, False)
    reached = reached_writers(base, grid, flow)[writers]
    return flat_of(graph, reached & useful_readers(base, grid, flow)[readers])


def live_from(graph: Graph, places: Int[Tensor, " edge"]) -> Int[Tensor, " edge"]:
    """For each edge the smallest n such that it is live among the first n edges of an order.

    An edge is there from its own place on, and live once its writer is reached and its reader's
    node leads to the logits; a path is as late as its last edge, and a node as early as its best
    path::

        arrives(node) = min over edges (w, r) into it of max(places(w, r), arrives(w))

    and likewise from the logits backwards. So the number of live edges of every prefix is known at
    once, `(live_from <= n).sum()`, for the price of a few `live_edges`.

    Args:
        graph: The graph of the edges.
        places: The place of each edge in the order, counted from 0.
    """
    never, flow = len(places), flow_of(graph).to(places.device)
    base, grid = base_of(graph), grid_of(graph, places, never)
    writers, readers = _ends(graph, places.device)
    arrives = arrivals(base, grid, flow, never)[writers]
    leads = departures(base, grid, flow, never)[readers]
    return flat_of(graph, torch.maximum(grid, torch.maximum(arrives, leads))) + 1


def _ends(graph: Graph, device: torch.device) -> tuple[Tensor, Tensor]:
    """Writer and reader of each edge of the model, spans aside."""
    base = base_of(graph)
    return base.edge_writer.to(device), base.edge_reader.to(device)


def kept_nodes(graph: Graph, mask: Bool[Tensor, " edge"]) -> tuple[str, ...]:
    """Names of the nodes that a kept edge leaves or enters, in forward order.

    A reader shared by several query heads enters none of them: such a head counts if it writes,
    or if its own query reads.
    """
    kept = set(graph.edge_writer[mask].unique().tolist())
    if isinstance(graph, PartGraph):
        return tuple(graph.writers[writer] for writer in sorted(kept))
    readers = graph.edge_reader[mask].unique().tolist()
    for reader in readers:
        heads = graph.heads_of_reader(reader)
        kept.update(heads if len(heads) == 1 else ())
    names = tuple(graph.writers[writer] for writer in sorted(kept))
    return (*names, "logits") if graph.n_readers - 1 in readers else names
