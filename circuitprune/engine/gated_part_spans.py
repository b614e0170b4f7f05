"""A model under gates on parts at spans: one may pass at some tokens and be ablated at others."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.circuits.part_spans import PartSpanGraph, at_spans
from circuitprune.circuits.span_graph import Span
from circuitprune.engine.dealing import held_against
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.gated_spans import GatedSpans


class GatedPartSpans(GatedParts):
    """A Hugging Face causal language model whose parts carry a gate at each span of positions.

    At position p passes `now + sum_j (1 - gate[j, span(p)]) (ablated_j - now_j)`: as of
    `GatedParts`, but for what gates stand on. `graph` is a `PartSpanGraph`; a part without a gate
    at a span is its own self there, where that changes nothing.

    Args:
        gated: The model under gates on parts, which it is held with: `release` releases both.
        spans: What tokens are dealt to.

    Raises:
        GraphError: spans where no gate matters.
    """

    def __init__(self, gated: GatedParts, spans: Iterable[Span]) -> None:
        vars(self).update(vars(gated))
        self._whole, graph = gated, at_spans(gated.graph, spans)
        assert isinstance(graph, PartSpanGraph)
        self.graph: PartSpanGraph = graph

    @property
    def whole(self) -> GatedParts:
        """The model under gates on parts that are the same at all tokens."""
        return self._whole

    def place(self, edge: int) -> tuple[int, int]:
        """The site that the part of a gate passes, and which of its parts it is."""
        return self.whole.place(int(self.graph.edge_base[edge]))

    def laid(
        self, gates: Float[Tensor, "rows edge"], dealt: Int[Tensor, "copies pos"] | None
    ) -> Callable[[int], Float[Tensor, "copies pos part"]]:
        """Gates of the parts of the site of a number, at each token those of its span.

        Raises:
            DataError: tokens that are not dealt to the spans.
        """
        graph, spans = self.graph, held_against(self.graph.spans, dealt)
        places = graph.exists.to(gates.device).flatten().nonzero().flatten()
        every = gates.new_ones(len(gates), graph.exists.numel(), dtype=self.dtype)
        every = every.index_copy(1, places, gates.to(self.dtype))
        grid = every.view(len(gates), *graph.exists.shape).transpose(1, 2)
        copies = torch.arange(len(spans), device=spans.device).unsqueeze(1)

        def at_tokens(number: int) -> Tensor:
            own = grid[..., self.gates_of[number]]
            return own.expand(len(spans), -1, -1)[copies, spans]

        return at_tokens


def spanned(gated: GatedModel, spans: Iterable[Span]) -> GatedModel:
    """A model under the same gates, with one at each span.

    Raises:
        GraphError: spans where no gate matters.
    """
    return (
        GatedPartSpans(gated, spans) if isinstance(gated, GatedParts) else GatedSpans(gated, spans)
    )
