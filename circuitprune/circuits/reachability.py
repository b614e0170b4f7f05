"""Which edges and nodes of a circuit matter: those on a path from the input to the logits."""

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.graph import Graph


def live_edges(graph: Graph, mask: Bool[Tensor, " edge"]) -> Bool[Tensor, " edge"]:
    """The kept edges that lie on a path of kept edges from `input` to `logits`.

    An edge (w, r) is live if w is reached from `input` and the node of r reaches `logits`. A head
    is reached through any of its q, k and v readers; a shared KV reader stands for all its heads.
    """
    return mask & joinable_edges(graph, mask)


def joinable_edges(graph: Graph, mask: Bool[Tensor, " edge"]) -> Bool[Tensor, " edge"]:
    """Edges that are live, or would be by themselves if they were kept too."""
    reached = _reached_writers(graph, mask)[graph.edge_writer.to(mask.device)]
    return reached & _useful_readers(graph, mask)[graph.edge_reader.to(mask.device)]


def kept_nodes(graph: Graph, mask: Bool[Tensor, " edge"]) -> tuple[str, ...]:
    """Names of the nodes that a kept edge leaves or enters, in forward order.

    A reader shared by several query heads enters none of them: such a head counts if it writes,
    or if its own query reads.
    """
    kept = set(graph.edge_writer[mask].unique().tolist())
    readers = graph.edge_reader[mask].unique().tolist()
    for reader in readers:
        heads = graph.heads_of_reader(reader)
        kept.update(heads if len(heads) == 1 else ())
    names = tuple(graph.writers[writer] for writer in sorted(kept))
    return (*names, "logits") if graph.n_readers - 1 in readers else names


def _reached_writers(graph: Graph, mask: Bool[Tensor, " edge"]) -> Bool[Tensor, " writer"]:
    """Which writers a path of kept edges from `input` reaches."""
    reached = torch.zeros(graph.n_writers, dtype=torch.bool, device=mask.device)
    reached[0] = True
    kv, group = graph.n_kv_readers, graph.n_heads // graph.n_kv_readers
    for block in graph.blocks[:-1]:
        fed = (graph.block_view(mask, block) & reached[: block.n_writers]).any(dim=1)
        if block.kind == "mlp":
            reached[graph.mlp_writer(block.layer)] = fed[0]
            continue
        q, k, v = fed.split([graph.n_heads, kv, kv])
        reached[graph.heads(block.layer)] = q | (k | v).repeat_interleave(group)
    return reached


def _useful_readers(graph: Graph, mask: Bool[Tensor, " edge"]) -> Bool[Tensor, " reader"]:
    """Which readers belong to a node from which kept edges lead to `logits`."""
    leads = torch.zeros(graph.n_writers, dtype=torch.bool, device=mask.device)
    useful = torch.ones(graph.n_readers, dtype=torch.bool, device=mask.device)
    for block in reversed(graph.blocks):
        if block.kind == "mlp":
            useful[block.readers] = leads[graph.mlp_writer(block.layer)]
        elif block.kind == "attention":
            heads = leads[graph.heads(block.layer)]
            shared = heads.view(graph.n_kv_readers, -1).any(dim=1)
            useful[block.readers] = torch.cat([heads, shared, shared])
        rows = graph.block_view(mask, block) & useful[block.readers, None]
        leads[: block.n_writers] |= rows.any(dim=0)
    return useful
