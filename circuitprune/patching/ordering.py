"""The order in which edges are patched: those that share work stand together."""

import torch
from jaxtyping import Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.span_graph import SpanGraph, base_of


def ordered(graph: Graph, edges: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The edges sorted so that those that share work stand together.

    By span, then block, then writer, then reader.
    """
    base, spans, whole = base_of(graph), torch.zeros_like(edges), edges
    if isinstance(graph, SpanGraph):
        spans, whole = graph.edge_span[edges], graph.edge_base[edges]
    starts = torch.tensor([block.first_edge for block in base.blocks])
    block = torch.bucketize(whole, starts, right=True) + spans * len(starts)
    writer, reader = base.edge_writer[whole], base.edge_reader[whole]
    key = (block * graph.n_writers + writer) * graph.n_readers + reader
    return edges[key.argsort(stable=True)]
