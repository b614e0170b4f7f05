"""The residual stream under gates: what a run's readers see, what ablated writers leave in it."""

from itertools import cycle

from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Block
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.mixer import Mixer, Seat
from circuitprune.engine.panels import Member, Panel, layers_in_panels
from circuitprune.engine.positions import Positions
from circuitprune.engine.stream import Stream
from circuitprune.engine.workspace import Workspace
from circuitprune.models.ports import Ports

WORTH_KEEPING = 2.4
"""Writers for each reader of a layer, from which on reader inputs are kept for the backward pass.

They are the largest tensors of a step. Mixing few writers again costs less time than keeping the
result costs memory.
"""
ALL = slice(None)


class GatedStream:
    """What all layers of one gated run share.

    Args:
        ports: Of the model.
        gates: One float per edge at each span, in the graph's flat order.
        ablated: What each writer carries when ablated.
        last: Position of each example's answer, or None if all positions are asked for.
        dealt: The span of each token, or None if there is one.
        workspace: Lends the large buffers.

    Attributes:
        parts: Bases and deltas of the stream.
        mixers: Of all panels, in the order in which they are read.
        head_sums: Ablated head sums, bias included, of layers with a norm behind them.
    """

    def __init__(
        self,
        ports: Ports,
        gates: Float[Tensor, "span edge"],
        ablated: Ablated,
        last: Int[Tensor, " batch"] | None,
        dealt: Int[Tensor, "batch pos"] | None,
        workspace: Workspace,
    ) -> None:
        self.ports, self.graph, self.last = ports, ports.graph, last
        self.post_norms = ports.post_norms
        gates = gates.to(ports.model.dtype)
        self._ablated: Ablated | None = ablated
        shape = self.n_batch, self.n_pos, self.d_model = ablated.shape[1:]
        everywhere, at_answers = self._panels(gates.element_size())
        starts = [panel.early for panel in (*everywhere, *at_answers)]
        n_dense = self.graph.n_writers
        if last is not None:
            n_dense = self.graph.attention_block(self.graph.n_layers - 1).n_writers
        self.parts = Stream(self.graph, gates, shape, last, dealt, starts, n_dense, workspace)
        self.differentiable = self.parts.differentiable
        self.mixers = self._seated(everywhere, self.parts.everywhere)
        self.mixers += self._seated(at_answers, self.parts.answers)
        self.head_sums: dict[int, Tensor] = {}

    def close(self) -> None:
        """Let go of what the backward pass does not need, and of the autograd graph itself."""
        self.parts.token = self.parts.token.detach()
        self._ablated = None
        self.head_sums.clear()

    # ---------------------------------------------------------------- panels

    def _panels(self, itemsize: int) -> tuple[list[Panel], list[Panel]]:
        """The panels that look everywhere, and the one that looks at the answers alone.

        In the last layer a query, and what the MLP reads, matters only where an answer is; the
        logits are read there. Keys and values matter everywhere.
        """
        graph, end = self.graph, self.graph.n_layers - 1
        row_bytes = self.n_batch * self.n_pos * self.d_model * itemsize
        runs = layers_in_panels(graph, row_bytes)
        members = {layer: self._members(layer, ALL, True) for layer in range(end)}
        logits = Member(graph.logits_block, ALL, graph.n_writers)
        at_answers: list[Member] = []
        if self.last is None:
            members[end] = [*self._members(end, ALL, True), logits]
        elif self.post_norms:  # norms of reader sums would be taken apart
            members[end] = self._members(end, ALL, False)
            at_answers = [self._members(end, ALL, True)[1], logits]
        else:
            members[end] = self._members(end, slice(graph.n_heads, None), False)
            at_answers = [*self._members(end, slice(0, graph.n_heads), True), logits]
        everywhere = [
            Panel([one for layer in run for one in members[layer]], self._in_front_of(run[0]))
            for run in runs
        ]
        return everywhere, [Panel(at_answers, self._in_front_of(end))] if at_answers else []

    def _members(self, layer: int, rows: slice, with_mlp: bool) -> list[Member]:
        """Readers of a layer: some of its attention's, and its MLP as far as it reads the same."""
        attention, mlp = self.graph.attention_block(layer), self.graph.mlp_block(layer)
        both = [Member(attention, rows, attention.n_writers)]
        return [*both, Member(mlp, ALL, attention.n_writers)] if with_mlp else both

    def _in_front_of(self, layer: int) -> int:
        return self.graph.attention_block(layer).n_writers

    def _seated(self, panels: list[Panel], where: Positions) -> list[Mixer]:
        """Mixers that share a few buffers: the last ones find theirs as they left it."""
        if not panels:
            return []
        layer, n_rows = self.graph.readers_per_layer - 1, max(panel.n_rows for panel in panels)
        kept = sum(panel.early > WORTH_KEEPING * layer for panel in panels)
        needed_again = self.differentiable and not self.post_norms  # they keep what they change
        n_seats = max(1, kept) if needed_again else 1
        shape = (n_rows, *where.up_to(0).shape[1:])
        seats = [Seat(self.parts.loan.take(*shape, like=self.parts.parts)) for _ in range(n_seats)]
        shared = self.parts.gates, self.parts.layout, where
        return [
            Mixer(self.graph, self.post_norms, panel, *shared, seat, needed_again)
            for panel, seat in zip(panels, cycle(seats), strict=False)
        ]

    # ---------------------------------------------------------------- what layers ask for

    def ablated(self, writers: slice) -> Float[Tensor, "writer token d_model"]:
        """What some writers carry when ablated; lent until their own place in the stream is used.

        That place is where examples that are kept apart are joined.
        """
        assert self._ablated is not None
        if isinstance(self._ablated, Tensor):
            return self._ablated[writers].flatten(1, 2)
        out = self.parts.deltas(writers).unflatten(1, (self.n_batch, self.n_pos))
        return self._ablated.into(writers, out).flatten(1, 2)

    def mixers_of(self, layer: int) -> list[Mixer]:
        """Of the panels that hold readers of a layer."""
        return [mixer for mixer in self.mixers if layer in mixer.panel.layers]

    def read_logits(self) -> Float[Tensor, "1 _ d_model"]:
        """What the final norm reads."""
        (mixer,), block = self.mixers_of(self.graph.n_layers), self.graph.logits_block
        readers = self.parts.read(mixer, block.layer)[block]
        return self.normed(readers, block, mixer.where)

    def normed(
        self, readers: Float[Tensor, "reader _ d_model"], block: Block, where: Positions
    ) -> Float[Tensor, "reader _ d_model"]:
        """The residual inputs of a block's readers, with what norms behind attentions change.

        In a tensor of their own, as what a panel mixed makes room for others. The base holds the
        normed ablated head sums, where there are norms, and each such layer adds how far these
        readers' own normed sums are from them.
        """
        readers = readers.clone()
        for layer, heads in self.post_norms.upstream(block.n_writers):
            ablated = where.of(self.head_sums[layer]).unsqueeze(0)
            own = self.parts.mix(block, heads, where, ablated)
            readers = readers + self.post_norms.change(layer, own, ablated)
        return readers

    def add_heads(
        self, layer: int, ablated: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """Put a layer's ablated heads and output bias into the base; returns what joined it."""
        bias = self.ports.attention_bias(layer)
        if bias is not None:
            ablated = ablated + bias
        if layer in self.post_norms.norms:
            self.head_sums[layer] = ablated
        written = self.post_norms.of(layer, ablated)
        self.parts.add_to_base(self.graph.heads(layer).start, written)
        return written

    def nothing(self) -> Float[Tensor, "batch pos d_model"]:
        """What Hugging Face's residual addition gets instead of a branch's output."""
        nothing = self.parts.token.detach().expand(self.n_batch, self.n_pos, self.d_model)
        return self.ports.writable(nothing)
