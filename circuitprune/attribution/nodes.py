"""Whole nodes instead of edges: scores of writers, and edge scores that stand for them.

A gradient method's scores of a writer's out-edges add up to the score of the writer itself: the
gradient at its output is the sum of the gradients at its readers. The way back is closed: `lift`
gives an edge the score of its weaker endpoint, and out of those no sum makes the nodes' scores.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import Attribution
from circuitprune.attribution.eap import eap
from circuitprune.attribution.eap_ig_inputs import eap_ig_inputs_right
from circuitprune.circuits.graph import Graph
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric

NodeAttribution = Callable[
    [References, Iterable[Batch], Metric, int],
    Float[Tensor, " writer"],
]
"""`(references, batches, metric, steps) -> scores` of the writers, in the order of the graph."""


def node_scores(graph: Graph, edge_scores: Float[Tensor, " edge"]) -> Float[Tensor, " writer"]:
    """Each writer's score: the sum over its out-edges.

    For a method that is linear in the gradient it is `<ablated[w] - clean[w], d metric / d w>`, the
    first-order change of the metric when everything that `w` writes is ablated.
    """
    total = edge_scores.new_zeros(graph.n_writers)
    return total.index_add(0, graph.edge_writer.to(edge_scores.device), edge_scores)


def lift(graph: Graph, node_scores: Float[Tensor, " writer"]) -> Float[Tensor, " edge"]:
    """Edge scores that cut out nodes: an edge scores as its weaker endpoint.

    The weaker endpoint is the one of smaller magnitude, and its sign is kept, so the edges with
    `|score| >= t` are exactly the edges among the nodes with `|score| >= t`. A reader belongs to
    the head or MLP that it feeds; a KV reader to the strongest head of its group, since any of them
    needs it. `input` and `logits` are always kept: an edge between these two gets the largest
    magnitude of all, with the sign of an edge that helps.
    """
    of_writers = node_scores.clone()
    of_writers[0] = -torch.inf  # stronger than any node, and gone before anybody sees it
    feeds = [graph.heads_of_reader(reader) for reader in range(graph.n_readers - 1)]
    strongest = [heads[int(of_writers[heads].abs().argmax())] for heads in map(list, feeds)]
    of_readers = of_writers[[*strongest, 0]]
    ends = torch.stack([of_writers[graph.edge_writer], of_readers[graph.edge_reader]])
    weaker = ends.gather(0, ends.abs().argmin(dim=0, keepdim=True))[0]
    largest = node_scores[1:].abs().nan_to_num(0).amax()
    return torch.where(weaker.isinf(), -largest, weaker)


def node_level(method: Attribution) -> NodeAttribution:
    """A method of edges as one of writers: `node_scores` of what it gives."""

    def score(
        references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
    ) -> Float[Tensor, " writer"]:
        return node_scores(references.gated.graph, method(references, batches, metric, steps))

    return score


atp_nodes, atp_ig_nodes = node_level(eap), node_level(eap_ig_inputs_right)


def atp(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """Attribution patching of nodes, lifted to edges: `node_scores` of `eap`, then `lift`.

    First-order change of the metric when a whole node is ablated. `steps` is ignored.

    Source: Nanda 2023, "Attribution Patching"; Kramar et al. 2024, "AtP*" (arXiv 2403.00745).
    """
    return lift(references.gated.graph, atp_nodes(references, batches, metric, steps))


def atp_ig(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """Attribution patching of nodes with integrated gradients, lifted to edges.

    `node_scores` of `eap_ig_inputs` by the right sum, which EAP-IG takes at node level, then
    `lift`. Node scores settle more slowly than edge scores: take ten steps or more.

    Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv 2403.17806).
    """
    return lift(references.gated.graph, atp_ig_nodes(references, batches, metric, steps))
