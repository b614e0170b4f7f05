"""Where in the prompt an edge into queries or keys acts: its score by query and key position."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.functional import jvp

from circuitprune.attribution.methods import METHODS, names_with
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.span_graph import require_edges
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, GraphError
from circuitprune.metrics import Metric
from circuitprune.models.changes import narrow
from circuitprune.models.ports import Ports
from circuitprune.models.softmax import Softmax, through_softmax
from circuitprune.patching.effects import positions
from circuitprune.patching.replay import Replay

ByPosition = Float[Tensor, "batch head query key"]


def score_by_position(
    references: References,
    batch: Batch,
    metric: Metric,
    edge: str | int,
    method: str = "eap",
) -> ByPosition:
    """An edge's score, cut by who attends and to what; each example's cells sum to its score.

    - `eap`: `d s_ij / d x_r (ablated[w] - clean[w]) * d metric / d s_ij`: how the attention score
      from query i to key j moves, to first order, times what that is worth.
    - `eap_qk`: `(p'_ij - p_ij) * d metric / d p_ij`: how far attention itself moves, exactly, times
      what that is worth. What one key wins another loses, so cells of one query hang together.

    For an edge into a query, row i belongs to what w writes at position i; for one into a key,
    column j to what it writes at j.

    Args:
        references: The model and what cut edges carry.
        batch: Pairs; prefixes are not left out.
        metric: Per-example worth of answer-position logits.
        edge: Name or position of an edge into queries or keys.
        method: Whose score is cut: `eap` or `eap_qk`.

    Returns:
        In the metric's unit. The heads are `graph.heads_of_reader`: one, or the query heads that
        share a key; behind the keys stands a column for the sink in families that have one.

    Raises:
        GraphError: no such edge, or one into values, an MLP or the logits.
        ConfigError: another method.
        ModelError: attention that calls no softmax (Falcon).
    """
    cut_by = METHODS[method].at_keys if method in METHODS else None
    if cut_by is None:
        known = ", ".join(names_with("at_keys"))
        raise ConfigError(f"positions are told of {known}, got method={method!r}")
    gated, batch = references.gated, batch.to(references.gated.device)
    graph = gated.graph
    require_edges(graph, "what a score is made of, position by position,")
    writer, reader = _ends(graph, edge)
    layer, heads = graph.block_of_reader(reader).layer, graph.heads_of_reader(reader)
    ablated, seen = references.ablated(batch), _Seen(layer)
    with through_softmax(gated.ports, seen.rule):
        worth = seen.worth(gated.ports, batch, metric, of_pattern=cut_by == "pattern")
        replay = Replay(gated, batch.clean_prompts, ablated)

        def moved(share: Tensor) -> Tensor:
            replay.values_at(writer, reader, share)
            return seen.pattern if cut_by == "pattern" else seen.scores

        none = worth.new_zeros(())
        if cut_by == "pattern":
            with torch.no_grad():
                change = moved(none + 1) - moved(none)
        else:
            _, change = jvp(moved, none, none + 1)
    first = graph.head_writer(layer, 0)
    return (change * worth)[:, heads.start - first : heads.stop - first]


def _ends(graph: Graph, edge: str | int) -> tuple[int, int]:
    """Writer and reader of an edge into queries or keys."""
    (number,) = positions("edge", [edge] if isinstance(edge, str) else torch.tensor([edge]), graph)
    writer, reader = int(graph.edge_writer[number]), int(graph.edge_reader[number])
    kind = graph.reader_kind[reader]
    if kind not in ("q", "k"):
        raise GraphError(
            f"{graph.edges[int(number)]} is no edge into queries or keys, so no pattern lies on "
            "its way; take one that ends in <q> or <k>"
        )
    return writer, reader


class _Seen:
    """What the softmax of one layer was given and gave when it was last called."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.scores = self.pattern = torch.empty(0)
        self.cut = False
        """Whether scores count as given, so that a gradient ends at them."""

    def rule(self, layer: int, softmax: Softmax, scores: Tensor) -> Tensor:
        if layer != self.layer:
            return softmax(scores)
        self.scores = scores.detach().requires_grad_() if self.cut else scores
        self.pattern = softmax(self.scores)
        return self.pattern

    @torch.enable_grad()
    def worth(self, ports: Ports, batch: Batch, metric: Metric, of_pattern: bool) -> ByPosition:
        """The metric's gradient at the layer's scores on the clean run, or at its pattern."""
        norm, self.cut = ports.final_norm, True
        with ports.intercept([(norm, "forward", narrow(norm.forward, batch.last))]):
            logits = ports.run(*batch.clean_prompts)
        self.cut = False
        at = self.pattern if of_pattern else self.scores
        return torch.autograd.grad(metric(logits, batch).sum(), at)[0]
