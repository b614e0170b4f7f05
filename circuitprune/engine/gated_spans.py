"""A model under gates on edges at spans: readers of one edge may see it at some tokens only."""

from collections.abc import Iterable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.circuits.span_graph import Span, SpanGraph, span_graph
from circuitprune.data.batches import Batch, Prefix
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.dealing import Pieces, dealt_to, held_against
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_run import GatedRun
from circuitprune.engine.gated_stream import GatedStream


class GatedSpans(GatedModel):
    """A Hugging Face causal language model whose edges carry a gate at each span of positions.

    Every reader r sees at position p `base[r] + sum_w gate[w, r, span(p)] * delta[w]`: as a
    `GatedModel`, but for what gates stand on. `graph` is a `SpanGraph`; an edge without a gate at a
    span is cut there, where that changes nothing.

    Args:
        gated: The model under gates on edges, which it is held with: `release` releases both.
        spans: What tokens are dealt to.

    Attributes:
        whole: The model under gates on edges without spans.

    Raises:
        GraphError: spans where no gate matters.
    """

    by_reach = False

    def __init__(self, gated: GatedModel, spans: Iterable[Span]) -> None:
        self._held, self.model, self.ports = gated._held, gated.model, gated.ports
        self.workspace, self.whole = gated.workspace, gated
        self.graph: SpanGraph = span_graph(gated.graph, spans)

    def __call__(
        self,
        gates: Float[Tensor, " edge"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        ablated: Ablated,
        last: Int[Tensor, " batch"] | None = None,
        prefix: Prefix | None = None,
        dealt: Int[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits with every edge between its own and its ablated value, at each span its own way.

        Args:
            gates: One float per gate of `graph`; otherwise as of `GatedModel`.
            dealt: The span of each token, by its place in `graph.spans`.

        Raises:
            GraphError: `gates` or `ablated` do not fit the graph.
            DataError: tokens that are not dealt to spans, or to spans that there are not.
        """
        self._check(gates, ablated)
        places = held_against(self.graph.spans, dealt)
        stream = GatedStream(self.ports, self.by_span(gates), ablated, last, places, self.workspace)
        return GatedRun(stream).logits(tokens, mask, prefix)

    def on(
        self, batch: Batch, gates: Float[Tensor, " edge"], ablated: Ablated
    ) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits of a batch's clean prompts, its tokens dealt to spans."""
        tokens, mask, last, prefix = batch.clean_prompts
        return self(gates, tokens, mask, ablated, last, prefix, batch.spans)

    def pieces(
        self, dealt: Int[Tensor, "batch pos"] | None, last: Int[Tensor, " batch"] | None
    ) -> Pieces:
        """Places of each span.

        Raises:
            DataError: as a call.
        """
        places = held_against(self.graph.spans, dealt)
        return dealt_to(places if last is None else places.gather(1, last.unsqueeze(1)))

    def by_span(self, gates: Float[Tensor, " edge"]) -> Float[Tensor, "span edge_of_base"]:
        """Gates of all the model's edges at each span: closed where there is none."""
        exists = self.graph.exists.to(gates.device)
        places = exists.flatten().nonzero().flatten()
        grid = gates.new_zeros(exists.numel()).index_copy(0, places, gates)
        return grid.view(exists.shape).T.contiguous()
