"""Random circuits as large as a given one, in families from the easiest to beat to the hardest."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.reachability import joinable_edges, live_edges
from circuitprune.circuits.span_graph import SpanGraph, base_of, flat_of, grid_of

Draw = Callable[[Graph, Bool[Tensor, " edge"], torch.Generator], Bool[Tensor, " edge"]]
"""`(graph, circuit, generator) -> mask` of a random circuit as large as the given one."""
ROUNDS = 200
"""How often dangling edges of a matched circuit are drawn anew."""


def uniform(
    graph: Graph, mask: Bool[Tensor, " edge"], generator: torch.Generator
) -> Bool[Tensor, " edge"]:
    """As many live edges as the circuit has, from all edges alike.

    Cutting a random ranking would not do: few random edges hold a path from `input` to `logits`,
    and the ranking that does brings far more edges to life at once than were asked for. So edges
    that dangle are drawn anew, as in `matched`.
    """
    return _drawn(graph, mask, torch.zeros(graph.n_edges, dtype=torch.long), generator)


def matched(
    graph: Graph, mask: Bool[Tensor, " edge"], generator: torch.Generator
) -> Bool[Tensor, " edge"]:
    """As many edges of each kind and layer, at both ends, as the circuit has, and all of them live.

    A cell holds the edges from one layer's heads, one MLP or `input` to one layer's q, k or v
    readers, one MLP or `logits`; in each, as many edges are drawn as the circuit has there.
    """
    return _drawn(graph, mask, cell_of_edges(graph), generator)


def _drawn(
    graph: Graph,
    mask: Bool[Tensor, " edge"],
    cells: Int[Tensor, " edge"],
    generator: torch.Generator,
) -> Bool[Tensor, " edge"]:
    """As many random edges of each cell as the circuit has there, all live.

    Of the edges that dangle, a quarter is drawn anew, those first that are live at once next to
    what stays, and so on for up to `ROUNDS` rounds; every tenth draws half of all edges anew, in
    case the live ones leave no place for the rest. What dangles even then is cut off.
    """
    wanted = torch.bincount(cells[live_edges(graph, mask)], minlength=int(cells.max()) + 1)
    drawn = _best_of_cells(cells, torch.rand(graph.n_edges, generator=generator), wanted)
    for done in range(1, ROUNDS + 1):
        live = live_edges(graph, drawn)
        if torch.equal(live, drawn):
            break
        among, share = (drawn, 2) if done % 10 == 0 else (drawn & ~live, 4)
        edges = among.nonzero().flatten()
        some = torch.randperm(len(edges), generator=generator)[: 1 + len(edges) // share]
        out = edges[some]
        drawn[out] = False
        first = torch.rand(graph.n_edges, generator=generator)
        first[joinable_edges(graph, drawn)] += 1
        missing = torch.bincount(cells[out], minlength=len(wanted))
        drawn |= _best_of_cells(cells, first.masked_fill(drawn, -torch.inf), missing)
    return live_edges(graph, drawn)


def relabelled(
    graph: Graph, mask: Bool[Tensor, " edge"], generator: torch.Generator
) -> Bool[Tensor, " edge"]:
    """The same circuit with the heads of each layer exchanged among themselves at random.

    Same edges in each cell of `matched`, same shape, every edge as live as it was: what is random
    is only which heads have which part. With grouped queries, KV heads are exchanged and the heads
    of a group within it. Edges keep their spans. Parts have no shape to keep: they are exchanged as
    in `matched`.
    """
    if isinstance(graph, PartGraph):
        return matched(graph, mask, generator)
    edges, spans = grid_of(graph, mask, False).nonzero().unbind(dim=1)
    whole, graph = graph, base_of(graph)
    writers, readers = torch.arange(graph.n_writers), torch.arange(graph.n_readers)
    group = graph.n_heads // graph.n_kv_readers
    for layer in range(graph.n_layers):
        kv = torch.randperm(graph.n_kv_readers, generator=generator)
        within = [torch.randperm(group, generator=generator) for _ in range(graph.n_kv_readers)]
        heads = torch.cat([kv[i] * group + within[i] for i in range(graph.n_kv_readers)])
        writers[graph.heads(layer)] = graph.head_writer(layer, 0) + heads
        first = graph.attention_block(layer).first_reader
        moved = torch.cat([heads, graph.n_heads + kv, graph.n_heads + graph.n_kv_readers + kv])
        readers[first : first + len(moved)] = first + moved
    new = grid_of(whole, torch.zeros_like(mask), False)
    ends = writers[graph.edge_writer[edges]], readers[graph.edge_reader[edges]]
    new[_edge_of(graph, *ends), spans] = True
    return flat_of(whole, new)


DRAWS: dict[str, Draw] = {"uniform": uniform, "matched": matched, "relabelled": relabelled}
"""Families of random circuits, from the easiest to beat to the hardest."""


def cell_of_edges(graph: Graph) -> Int[Tensor, " edge"]:
    """Number of the cell of each edge: kind and layer of its two ends, and its span."""
    kinds = {kind: i for i, kind in enumerate(("q", "k", "v", "mlp", "logits"))}
    reader = torch.tensor([kinds[kind] for kind in graph.reader_kind])
    reader += len(kinds) * graph.reader_layer
    mlps = torch.tensor([graph.mlp_writer(layer) for layer in range(graph.n_layers)])
    writer = 2 * (graph.writer_layer + 1)
    writer[mlps] += 1
    pairs = writer[graph.edge_writer] * (int(reader.max()) + 1) + reader[graph.edge_reader]
    if isinstance(graph, SpanGraph):
        pairs = pairs * len(graph.spans) + graph.edge_span
    number: Tensor = pairs.unique(return_inverse=True)[1]
    return number


def _best_of_cells(
    cells: Int[Tensor, " edge"], keys: Tensor, number: Int[Tensor, " cell"]
) -> Bool[Tensor, " edge"]:
    """The mask of the `number[c]` edges of largest key in each cell c."""
    order = keys.argsort(descending=True, stable=True)
    order = order[cells[order].argsort(stable=True)]
    sizes = torch.bincount(cells, minlength=len(number))
    starts = sizes.cumsum(0) - sizes
    place = torch.arange(len(cells)) - starts[cells[order]]
    mask = torch.zeros(len(cells), dtype=torch.bool)
    mask[order[place < number[cells[order]]]] = True
    return mask


def _edge_of(
    graph: Graph, writers: Int[Tensor, " n"], readers: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Positions of the edges from each writer to the reader beside it."""
    first = torch.tensor(
        [b.first_edge + i * b.n_writers for b in graph.blocks for i in range(b.n_readers)]
    )
    return first[readers] + writers
