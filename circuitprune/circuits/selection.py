"""From scores to circuits of a wanted size.

The size of a circuit is its number of *live* edges, those on a path from `input` to `logits`: the
others change nothing under patching, so a budget spent on them is wasted. EAP-IG and MIB take n
edges first and drop the dangling ones after, which `top_n_raw` does too.
"""

import heapq
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.reachability import joinable_edges, live_edges
from circuitprune.errors import GraphError
from circuitprune.files.text import counted

Method = Literal["top_n", "top_n_raw", "greedy"]


def select(
    graph: Graph,
    scores: Float[Tensor, " edge"],
    n_edges: int,
    method: Method = "top_n",
) -> Bool[Tensor, " edge"]:
    """The mask of the best circuit of at most `n_edges` live edges; every kept edge is live.

    The k best edges are taken, with the largest k whose live edges are within `n_edges`, and what
    is left of the budget goes to the next best edges between live nodes: see `select_ranked`.

    Args:
        graph: The graph of the scores.
        scores: Higher is kept first. Signed: pass `scores.abs()` to rank by size.
        n_edges: In the graph's own convention. 0 gives no edges; the graph's own number, or
            more, gives all.
        method: `top_n` ranks by score. `greedy` grows from the logits: next is the best edge into
            a node that already leads to the logits. `top_n_raw` takes exactly the `n_edges` best
            and then drops the dangling ones, as EAP-IG's `apply_topn` and MIB do.

    Raises:
        GraphError: scores that do not fit the graph or hold NaN, a negative size, or an unknown
            method.

    Source: EAP-IG `src/eap/graph.py`, `apply_topn` and `apply_greedy`; Hanna et al. 2024, "Have
    Faith in Faithfulness" (arXiv:2403.17806).
    """
    if n_edges < 0:
        raise GraphError(f"a circuit cannot have {counted(n_edges, 'edge')}; ask for 0 or more")
    if method == "top_n_raw":
        return live_edges(graph, _first(rank(graph, scores, "top_n"), n_edges))
    return select_ranked(graph, rank(graph, scores, method), n_edges)


def ranking_of(scores: Float[Tensor, " edge"], kind: str = "absolute") -> Float[Tensor, " edge"]:
    """What circuits are cut from by scores, higher first.

    `absolute` is |score|. `signed` is minus the score: what helps the metric most comes first and
    what works against it last, the order of MIB's CPR (arXiv 2504.13151).
    """
    return -scores if kind == "signed" else scores.abs()


def n_edges_of(graph: Graph, size: float) -> int:
    """Edges in a circuit of a fractional size: rounded down as MIB does, at least one."""
    return max(1, int(graph.n_edges * size + 1e-9))


def select_sizes(
    graph: Graph, scores: Float[Tensor, " edge"], sizes: Iterable[float], method: Method = "top_n"
) -> dict[float, Bool[Tensor, " edge"]]:
    """`select` at each fraction of all edges, ranking once."""
    counts = {size: n_edges_of(graph, size) for size in sizes}
    if method == "top_n_raw":
        return {size: select(graph, scores, n, method) for size, n in counts.items()}
    order = rank(graph, scores, method)
    return {size: select_ranked(graph, order, n) for size, n in counts.items()}


def select_threshold(
    graph: Graph, scores: Float[Tensor, " edge"], threshold: float
) -> Bool[Tensor, " edge"]:
    """The mask of all edges with `score >= threshold`, without those that are not live."""
    _check(graph, scores)
    return live_edges(graph, scores >= threshold)


def rank(
    graph: Graph, scores: Float[Tensor, " edge"], method: Method = "top_n"
) -> Int[Tensor, " edge"]:
    """All edges in the order in which a method takes them; equal scores in the graph's order.

    Rank once and call `select_ranked` for each size of a frontier.
    """
    _check(graph, scores)
    if method in ("top_n", "top_n_raw"):
        return scores.argsort(descending=True, stable=True)
    if method == "greedy":
        if isinstance(graph, PartGraph):
            raise GraphError("greedy grows along edges; parts have none between them: take top_n")
        return torch.tensor(_greedy_order(graph, scores), device=scores.device)
    raise GraphError(f"unknown method {method!r}; choose one of {', '.join(get_args(Method))}")


def select_ranked(graph: Graph, order: Int[Tensor, " edge"], n_edges: int) -> Bool[Tensor, " edge"]:
    """The live edges of the longest prefix of `order` with at most `n_edges`, filled up in order.

    Taking one more edge never kills another, so the number of live edges only grows and bisection
    finds the prefix. The edge after it would bring too many others to life at once; what is left
    of the budget goes to the next best edges between nodes that are live already.
    """
    fits, over = 0, len(order) + 1
    while over - fits > 1:
        middle = (fits + over) // 2
        if live_edges(graph, _first(order, middle)).sum() <= n_edges:
            fits = middle
        else:
            over = middle
    live = live_edges(graph, _first(order, fits))
    ready = order[(joinable_edges(graph, live) & ~live)[order]]
    live[ready[: n_edges - int(live.sum())]] = True
    return live


def _greedy_order(graph: Graph, scores: Float[Tensor, " edge"]) -> list[int]:
    """Edges in the order of growing from the logits: best first among those into a known node."""
    waiting: list[tuple[float, int]] = []
    opened = [False] * graph.n_readers
    values, order = (-scores).tolist(), []

    def open_reader(reader: int) -> None:
        if not opened[reader]:
            opened[reader] = True
            for edge in _edges_into(graph, reader):
                heapq.heappush(waiting, (values[edge], edge))

    writers, known = graph.edge_writer.tolist(), [False] * graph.n_writers
    readers = _readers_of_writers(graph)
    open_reader(graph.n_readers - 1)
    while waiting:
        _, edge = heapq.heappop(waiting)
        order.append(edge)
        if not known[writers[edge]]:
            known[writers[edge]] = True
            for reader in readers[writers[edge]]:
                open_reader(reader)
    return order


def _edges_into(graph: Graph, reader: int) -> range:
    """Positions of the edges into a reader."""
    first = graph.edge_at(0, reader)
    return range(first, first + graph.block_of_reader(reader).n_writers)


def _readers_of_writers(graph: Graph) -> list[list[int]]:
    """For each writer, the readers that feed it: q, k and v of a head; none for `input`."""
    feeding: list[list[int]] = [[] for _ in range(graph.n_writers)]
    for reader in range(graph.n_readers):
        for writer in graph.heads_of_reader(reader):
            feeding[writer].append(reader)
    return feeding


def _first(order: Int[Tensor, " edge"], k: int) -> Bool[Tensor, " edge"]:
    """The mask of the first k edges of a ranking."""
    mask = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    mask[order[:k]] = True
    return mask


def _check(graph: Graph, scores: Float[Tensor, " edge"]) -> None:
    if scores.shape != (graph.n_edges,):
        raise GraphError(
            f"scores have shape {tuple(scores.shape)}, expected ({graph.n_edges},) for "
            f"{graph.describe()}"
        )
    if torch.isnan(scores).any():
        raise GraphError(
            f"{int(torch.isnan(scores).sum())} of {graph.n_edges} scores are NaN and have no rank; "
            "replace them first, for example scores.nan_to_num(-inf)"
        )
