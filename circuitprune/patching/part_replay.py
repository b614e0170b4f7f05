"""Every part and node of one run, patched alone, several side by side."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.data.batches import Prompts
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.gated_parts import GatedParts

TOKENS_PER_PASS = 2560
"""Tokens that go through the model at once, as of `replay`."""

Logits = Float[Tensor, "change batch vocab"]


class PartReplay:
    """A run in which any part, or all parts of a node, can be replaced.

    Args:
        gated: The model.
        prompts: What is run.
        replacement: What each part carries instead, as `References.ablated` returns it.
        dealt: The span of each token, where gates stand at spans.
        tokens_per_pass: Changes are stacked up to so many tokens; at least one is taken.
        kept: The parts that are as the prompts have them before any change; all if None.
    """

    def __init__(
        self,
        gated: GatedParts,
        prompts: Prompts,
        replacement: Ablated,
        dealt: Int[Tensor, "batch pos"] | None = None,
        tokens_per_pass: int = TOKENS_PER_PASS,
        kept: Bool[Tensor, " edge"] | None = None,
    ) -> None:
        self.gated, self.prompts, self.replacement = gated, prompts, replacement
        self.dealt, self.tokens_per_pass = dealt, tokens_per_pass
        every = torch.ones(gated.graph.n_edges, dtype=torch.bool)
        self.kept = every if kept is None else kept.cpu()
        self.logits: Float[Tensor, "batch vocab"] = self._under(self.kept.unsqueeze(0))[0]
        """At the answers of the run before any change."""

    def edges(self, edges: Int[Tensor, " n"]) -> Iterator[tuple[Sequence[int], Logits]]:
        """Logits at the answers with each part alone replaced: `(parts, logits)`, a few at once."""
        return self._each(edges.tolist(), self._without)

    def nodes(self, writers: Iterable[int]) -> Iterator[tuple[Sequence[int], Logits]]:
        """Logits at the answers with all parts of a node replaced."""
        of = self.gated.graph.edge_writer
        return self._each(list(writers), lambda writer: self.kept & (of != writer))

    def _without(self, part: int) -> Bool[Tensor, " edge"]:
        mask = self.kept.clone()
        mask[part] = False
        return mask

    def _each(
        self, names: list[int], left: Callable[[int], Bool[Tensor, " edge"]]
    ) -> Iterator[tuple[Sequence[int], Logits]]:
        at_once = max(1, self.tokens_per_pass // self.prompts.tokens.numel())
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            yield some, self._under(torch.stack([left(name) for name in some]))

    def _under(self, masks: Bool[Tensor, "change edge"]) -> Logits:
        gates = masks.to(self.gated.device, self.gated.dtype)
        return self.gated.each(gates, self.prompts, self.replacement, self.dealt)
