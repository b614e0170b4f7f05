"""Scores of edges from gradients at readers: one product for the readers of several layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Block
from circuitprune.circuits.span_graph import flat_of, flow_of
from circuitprune.engine.dealing import slopes, views_of
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.panels import Member, Panel, layers_in_panels
from circuitprune.engine.partial import at_answers


class Contraction:
    """`<difference[w], gradient at r>` for every edge, as a backward pass brings the gradients.

    Args:
        gated: The model.
        difference: What each writer would carry instead, minus what it carries.
        last: Position of each example's answer.
        dealt: The span of each token, or None if there is one.

    Attributes:
        scores: Of each span, filled panel by panel.
        heads: What the heads of layers with a norm behind them wrote together.
    """

    def __init__(
        self,
        gated: GatedModel,
        difference: Float[Tensor, "writer batch pos d_model"],
        last: Int[Tensor, " batch"],
        dealt: Int[Tensor, "batch pos"] | None,
    ) -> None:
        self.of, self.graph = gated.graph, gated.ports.graph
        self.post_norms = gated.ports.post_norms
        self.everywhere, self.answers = gated.pieces(dealt, None), gated.pieces(dealt, last)
        self.difference, self.last = difference.flatten(1, 2), last
        precise = torch.promote_types(difference.dtype, torch.float32)
        shape = len(flow_of(self.of).enters), self.graph.n_edges
        self.scores = difference.new_zeros(shape, dtype=precise)
        self.heads: dict[int, Float[Tensor, "token d_model"]] = {}
        self.panels = self._panels(self.difference[0].nbytes)
        self.panel: Panel | None = None
        """Whose readers' gradients lie in `gradients`, as far as they are `known`."""
        widest = max(panel.n_rows for panel in self.panels.values())
        loan = gated.workspace.lend(self)
        self.gradients = loan.take(widest, *self.difference.shape[1:], like=difference)
        self.known = torch.zeros(widest, dtype=torch.bool, device=difference.device)

    def _panels(self, row_bytes: int) -> dict[Block, Panel]:
        """The panel of each block but the logits."""
        panels: dict[Block, Panel] = {}
        for run in layers_in_panels(self.graph, row_bytes):
            blocks = self.graph.blocks[2 * run[0] : 2 * run[-1] + 2]
            members = [Member(block, slice(None), block.n_writers) for block in blocks]
            panels |= dict.fromkeys(blocks, Panel(members, 0))
        return panels

    def room(self, block: Block, rows: slice) -> Float[Tensor, "reader token d_model"]:
        """Where the gradients of some of a block's readers go; blocks come in backward order."""
        panel = self.panels[block]
        if panel is not self.panel:
            self._contract()
            self.panel = panel
        first = panel.rows[block].start
        place = slice(first + rows.start, first + rows.stop)
        self.known[place] = True
        return self.gradients[place]

    @torch.no_grad()
    def add_logits(self, grads: Float[Tensor, "1 batch d_model"]) -> None:
        """The gradient in front of the final norm, at the answers."""
        deltas = at_answers(self.difference, self.last)
        found = slopes(self.answers, grads, deltas, len(self.scores))
        self._add(self.graph.logits_block, grads, found)

    def finished(self) -> Float[Tensor, " edge"]:
        """The scores, when all gradients have come."""
        self._contract()
        return flat_of(self.of, self.scores.T)

    @torch.no_grad()
    def _contract(self) -> None:
        if self.panel is None:
            return
        panel, n_rows = self.panel, self.panel.n_rows
        grads, known = self.gradients[:n_rows], self.known[:n_rows]
        if not bool(known.all()):  # a branch was given its output: its readers are not read
            grads[~known] = 0
        n_writers = max(block.n_writers for block in panel.rows)
        found = slopes(self.everywhere, grads, self.difference[:n_writers], len(self.scores))
        for block, rows in panel.rows.items():
            if bool(known[rows].any()):  # of a layer that did not run, there are no heads either
                self._add(block, grads[rows], found[:, rows])
        self.panel = None
        known.zero_()

    def _add(self, block: Block, grads: Tensor, found: Tensor) -> None:
        """Add what was found for a block's readers; through a norm, what its own gradient gives."""
        view = views_of(self.scores, block)
        view += found[..., : block.n_writers]
        pieces = self.answers if block == self.graph.logits_block else self.everywhere
        for layer, writers in self.post_norms.upstream(block.n_writers):
            heads, delta = self.heads[layer], self.difference[writers]
            if block == self.graph.logits_block:
                heads, delta = at_answers(heads, self.last), at_answers(delta, self.last)
            through = self.post_norms.pull_back(layer, heads, grads)
            view[..., writers] = slopes(pieces, through, delta, len(view))
