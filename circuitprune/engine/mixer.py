"""One panel of a gated run: its readers' inputs on the way forth, their gradients on the way back.

Both lie in one buffer, as the backward pass of a reader needs its input and nobody needs it after.
Panels take turns with a few such buffers; the inputs of one whose buffer has been used again are
mixed once more.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.graph import Block, Graph
from circuitprune.engine.dealing import mix, pull, slopes, views_of
from circuitprune.engine.layout import Layout
from circuitprune.engine.panels import Panel
from circuitprune.engine.positions import Positions
from circuitprune.models.post_norms import PostNorms


@dataclass
class Seat:
    """A buffer for reader inputs, and the panel whose inputs lie in it."""

    rows: Float[Tensor, "reader token d_model"]
    holder: Panel | None = None


class Mixer:
    """The readers of a panel, their gates, and what of the stream they see.

    Args:
        graph: Of the model.
        post_norms: Of the model; heads in front of one do not go through the mix.
        panel: Which readers.
        gates: Of each of its blocks' readers at each span, by block.
        layout: Where the writers lie.
        where: The positions that the readers look at.
        seat: Takes the inputs of the readers; other panels may use it too.
        needed_again: Whether the backward pass will ask for the inputs.

    Attributes:
        remade: Whether the inputs in the seat were mixed again for the backward pass, which then
            adds each layer's late writers when it comes to that layer.
        bases: What the writers inside the panel carried when ablated, up to each layer.
    """

    def __init__(
        self,
        graph: Graph,
        post_norms: PostNorms,
        panel: Panel,
        gates: dict[Block, Float[Tensor, "span reader writer"]],
        layout: Layout,
        where: Positions,
        seat: Seat,
        needed_again: bool,
    ) -> None:
        self.graph, self.post_norms, self.panel, self.layout = graph, post_norms, panel, layout
        self.where, self.seat, self.needed_again = where, seat, needed_again
        self.early = layout.up_to(panel.early)
        self.end = layout.up_to(max(panel.n_writers.values()))
        some = next(iter(gates.values()))
        self.gates = some.new_zeros(len(some), panel.n_rows, self.end)
        for member in panel.members:
            own = post_norms.linear(gates[member.block][:, member.rows, : member.n_writers])
            wide = layout.widened(own)
            self.gates[:, panel.rows[member.block], : wide.shape[-1]] = wide
        self.inputs = seat.rows[: panel.n_rows]
        self.remade = False
        self.bases: dict[int, Float[Tensor, "token d_model"]] = {}

    def rows_of(self, block: Block) -> range:
        """Which of a block's readers stand in the panel."""
        (rows,) = (one.rows for one in self.panel.members if one.block == block)
        return range(*rows.indices(block.n_readers))

    def fill(self) -> None:
        """Mix what stands in front of the panel for all of its readers."""
        early, gates = self.where.up_to(self.early), self.gates[..., : self.early]
        mix(self.where.pieces, gates, early, self.inputs)
        self.seat.holder = self.panel

    def complete(self, layer: int) -> None:
        """Add what a layer's readers take from the writers inside the panel."""
        late = self._late(layer)
        if late.start == late.stop:
            return
        rows, parts = self.panel.layers[layer], self.where.up_to(late.stop)
        values, into, gates = parts[late], self.inputs[rows], self.gates[:, rows, late]
        if not self.remade:
            if self.needed_again:
                self.bases[layer] = parts[late.start].clone()
            mix(self.where.pieces, gates, values, into, add=True)
            return
        mix(self.where.pieces, gates[..., 1:], values[1:], into, add=True)
        into += self.bases[layer]  # in the stream it has grown since

    def again(self, block: Block) -> Float[Tensor, "reader token d_model"]:
        """The inputs of a block's readers, once more in the backward pass; may be overwritten."""
        self._be_seated()
        if self.remade:
            self.complete(block.layer)
        return self.inputs[self.panel.rows[block]]

    def receive(self, block: Block, grads: Float[Tensor, "reader token d_model"] | None) -> None:
        """Put the gradients of a block's readers where their inputs were."""
        self._be_seated()
        rows = self.inputs[self.panel.rows[block]]
        if grads is None:  # what reads these is not read itself
            rows.zero_()
        elif grads.data_ptr() != rows.data_ptr():
            rows.copy_(grads.view_as(rows))

    def spread(self, layer: int) -> None:
        """Pass a layer's gradients on to the writers inside the panel."""
        late, rows = self._late(layer), self.panel.layers[layer]
        if late.start < late.stop:
            gates, into = self.gates[:, rows, late], self.where.gradients()[late]
            pull(self.where.pieces, gates, self.inputs[rows], into)
            self.where.settle()

    def finish(self, into: Float[Tensor, "span edge"]) -> None:
        """Pass all gradients on to the writers in front of the panel, and to the gates."""
        pieces, gates = self.where.pieces, self.gates[..., : self.early]
        pull(pieces, gates, self.inputs, self.where.gradients()[: self.early])
        self.where.settle()
        found = slopes(pieces, self.inputs, self.where.up_to(self.end), len(into))
        columns = self.layout.writer_rows.to(found.device)
        for member in self.panel.members:
            n, rows = member.n_writers, self.panel.rows[member.block]
            view = views_of(into, member.block)
            view[:, member.rows, :n] += self.post_norms.linear(found[:, rows][..., columns[:n]])

    def _be_seated(self) -> None:
        """See to it that what lies in the seat is the panel's own."""
        if self.needed_again and self.seat.holder is not self.panel:
            self.fill()
            self.remade = True

    def _late(self, layer: int) -> slice:
        return slice(self.early, max(self.early, self.layout.up_to(self.panel.n_writers[layer])))
