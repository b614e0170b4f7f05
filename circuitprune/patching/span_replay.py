"""A recorded run in which an edge carries another value at one span of tokens alone."""

from collections.abc import Iterable, Iterator, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.data.batches import Prompts
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.gated_spans import GatedSpans
from circuitprune.patching.replay import TOKENS_PER_PASS, Logits, Replay


class SpanReplay:
    """As a `Replay`, for edges at spans: what a writer carries instead differs there alone.

    Args:
        gated: The model.
        prompts: What is run.
        replacement: What each writer carries instead.
        dealt: The span of each token.
        tokens_per_pass: As of `Replay`.
    """

    def __init__(
        self,
        gated: GatedSpans,
        prompts: Prompts,
        replacement: Ablated,
        dealt: Int[Tensor, "batch pos"],
        tokens_per_pass: int = TOKENS_PER_PASS,
    ) -> None:
        self.graph, self.dealt = gated.graph, dealt
        self.whole = Replay(gated.whole, prompts, replacement, tokens_per_pass)

    @property
    def logits(self) -> Float[Tensor, "batch vocab"]:
        """Logits at the answers of the run as recorded."""
        return self.whole.logits

    def edges(self, edges: Int[Tensor, " n"]) -> Iterator[tuple[Sequence[int], Logits]]:
        """Logits at the answers with each edge replaced at its span: `(edges, logits)`."""
        spans, base = self.graph.edge_span[edges], self.graph.edge_base[edges]
        for span in spans.unique().tolist():
            own = spans == span
            flat = dict(zip(base[own].tolist(), edges[own].tolist(), strict=True))
            replay = self.whole.within((self.dealt == span).unsqueeze(-1))
            for some, logits in replay.edges(base[own]):
                yield [flat[edge] for edge in some], logits

    def nodes(self, writers: Iterable[int]) -> Iterator[tuple[Sequence[int], Logits]]:
        """Logits at the answers with all out-edges of a writer replaced, at all spans."""
        return self.whole.nodes(writers)
