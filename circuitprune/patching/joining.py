"""By which edges a node takes part in a circuit: what the slopes of the KL promise most of."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import joinable_edges

Mask = Bool[Tensor, " edge"]
Edges = Int[Tensor, " n"]
Slopes = Float64[Tensor, " edge"]


class Joining:
    """What each node would bring into the circuits of a graph.

    Args:
        graph: Of the edges.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.feeds = torch.zeros(graph.n_readers, graph.n_writers, dtype=torch.bool)
        for reader in range(graph.n_readers):
            self.feeds[reader, list(graph.heads_of_reader(reader))] = True

    def outside(self, mask: Mask, slopes: Slopes) -> list[Edges]:
        """For each node that nothing reaches, its best edge in and its best edge out.

        The lowest sum of slopes first.
        """
        return self._in_order(mask, slopes, 2, ~self._reached(mask))

    def anywhere(self, mask: Mask, slopes: Slopes, most: int) -> list[Edges]:
        """For each node at most so many edges by which it takes part, or takes more part.

        The best edge in and the best edge out where it has none, then others of negative slope. The
        lowest sum of slopes first.
        """
        everyone = torch.ones(self.graph.n_writers, dtype=torch.bool)
        return self._in_order(mask, slopes, most, everyone)

    def _in_order(
        self, mask: Mask, slopes: Slopes, most: int, nodes: Bool[Tensor, " writer"]
    ) -> list[Edges]:
        found = self._brought(mask, slopes, most, nodes)
        return sorted(found, key=lambda edges: slopes[edges].sum().item())

    def _brought(
        self, mask: Mask, slopes: Slopes, most: int, nodes: Bool[Tensor, " writer"]
    ) -> Iterator[Edges]:
        """The edges that each of the nodes would bring, of those that can."""
        graph, reached = self.graph, self._reached(mask)
        useful = torch.zeros(graph.n_readers, dtype=torch.bool)
        useful[graph.edge_reader[joinable_edges(graph, mask)]] = True
        used = torch.zeros(graph.n_writers, dtype=torch.bool)
        used[graph.edge_writer[mask]] = True
        into, out_of = reached[graph.edge_writer] & ~mask, useful[graph.edge_reader] & ~mask
        for node in nodes.nonzero().flatten().tolist():
            own_in = into & self.feeds[:, node][graph.edge_reader]
            own_out = out_of & (graph.edge_writer == node)
            first = [] if reached[node] else _best_first(slopes, own_in)[:1]
            first = first if used[node] else first + _best_first(slopes, own_out)[:1]
            if not int(~reached[node]) + int(~used[node]) == len(first) <= most:
                continue
            others = _best_first(slopes, (own_in | own_out) & (slopes < 0))
            edges = [*first, *(edge for edge in others if edge not in first)][:most]
            if edges:
                yield torch.tensor(edges)

    def _reached(self, mask: Mask) -> Bool[Tensor, " writer"]:
        """Writers that a path leads to: an edge of any of these to the logits would be live."""
        reached = torch.zeros(self.graph.n_writers, dtype=torch.bool)
        reached[self.graph.edge_writer[joinable_edges(self.graph, mask)]] = True
        return reached


def _best_first(slopes: Slopes, among: Mask) -> list[int]:
    """Some edges, the lowest slope first."""
    edges = among.nonzero().flatten()
    order: list[int] = edges[slopes[edges].argsort(stable=True)].tolist()
    return order
