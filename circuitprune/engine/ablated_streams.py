"""The residual stream with every writer ablated, and what readers see of it under gates."""

from collections.abc import Callable, Mapping
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Block
from circuitprune.engine.panel_reads import PanelReads
from circuitprune.models.ports import Ports


class AblatedStreams:
    """What each block of readers sees when every edge is cut.

    Args:
        ports: Of the model.
        ablated: What each writer carries when ablated.

    Attributes:
        bases: The stream in front of each block.
        head_sums: Of each layer, bias included, in front of any post-norm.
    """

    def __init__(self, ports: Ports, ablated: Float[Tensor, "writer token d_model"]) -> None:
        self.graph, self.post_norms = ports.graph, ports.post_norms
        self.bases: dict[Block, Float[Tensor, "token d_model"]] = {}
        self.head_sums: list[Float[Tensor, "token d_model"]] = []
        graph, stream = ports.graph, ablated[0]
        for layer in range(graph.n_layers):
            bias = ports.attention_bias(layer)
            heads = ablated[graph.heads(layer)].sum(dim=0)
            self.head_sums.append(heads if bias is None else heads + bias)
            attended = stream + self.post_norms.of(layer, self.head_sums[-1])
            self.bases[graph.attention_block(layer)] = stream
            self.bases[graph.mlp_block(layer)] = stream if graph.parallel else attended
            stream = attended + ablated[graph.mlp_writer(layer)]
        self.bases[graph.logits_block] = stream

    def reading(
        self,
        gates: Mapping[Block, Float[Tensor, "row _"]],
        delta: Float[Tensor, "writer token d_model"],
        look: Callable[[Block, Tensor], Tensor],
        writers: Int[Tensor, " writer"] | None = None,
    ) -> Callable[[Block], Float[Tensor, "row _ d_model"]]:
        """`mixed` of each block that is asked for, in forward order, while a run fills `delta`.

        Args:
            gates: Of the readers that will be asked for, on the writers in front of each.
            delta: As below, everywhere.
            look: The part of something by token that a block looks at.
            writers: As below.
        """
        everywhere = {  # the model's end looks at few positions: nothing is to be saved there
            block: self.post_norms.linear(own, _first(writers, own))
            for block, own in gates.items()
            if block.layer < self.graph.n_layers and look(block, delta[0]).shape == delta[0].shape
        }
        reads = PanelReads(self.graph, everywhere, delta)

        def read(block: Block) -> Tensor:
            own = gates[block]
            places, moved = _first(writers, own), look(block, delta[: own.shape[1]])
            if block not in everywhere:
                return self.mixed(block, own, moved, partial(look, block), places)
            return self._behind(block, reads[block], own, moved, partial(look, block), places)

        return read

    def mixed(
        self,
        block: Block,
        gates: Float[Tensor, "row writer"],
        delta: Float[Tensor, "writer _ d_model"],
        look: Callable[[Tensor], Tensor],
        writers: Int[Tensor, " writer"] | None = None,
    ) -> Float[Tensor, "row _ d_model"]:
        """Inputs of some readers of a block: the ablated stream, and what open gates let through.

        Args:
            block: Where they are.
            gates: Of the readers.
            delta: What the writers wrote minus what they carry when ablated, where the block looks.
            look: The part of something by token that the block looks at.
            writers: Which they are, in the graph's order; by default the first ones.
        """
        shares = self.post_norms.linear(gates, writers) @ delta.flatten(1)
        shares = shares.view(len(gates), *delta.shape[1:])
        return self._behind(block, shares, gates, delta, look, writers)

    def _behind(
        self,
        block: Block,
        stream: Float[Tensor, "row _ d_model"],
        gates: Float[Tensor, "row writer"],
        delta: Float[Tensor, "writer _ d_model"],
        look: Callable[[Tensor], Tensor],
        writers: Int[Tensor, " writer"] | None,
    ) -> Float[Tensor, "row _ d_model"]:
        """What open gates let through, added to the ablated stream and through norms, in place."""
        stream += look(self.bases[block])
        for layer, heads in self.post_norms.upstream(block.n_writers):
            of_layer = _among(heads, writers)
            ablated = look(self.head_sums[layer])
            own = added(ablated, gates[:, of_layer], delta[of_layer])
            stream += self.post_norms.change(layer, own, ablated)
        return stream


def added(
    base: Float[Tensor, "*row token d_model"],
    gates: Float[Tensor, "row writer"],
    delta: Float[Tensor, "writer token d_model"],
) -> Float[Tensor, "row token d_model"]:
    """`base + gates @ delta`."""
    return base + (gates @ delta.flatten(1)).view(len(gates), *delta.shape[1:])


def _first(
    writers: Int[Tensor, " writer"] | None, gates: Float[Tensor, "row _"]
) -> Int[Tensor, " _"] | None:
    """Those that some gates are of."""
    return None if writers is None else writers[: gates.shape[1]]


def _among(heads: slice, writers: Int[Tensor, " writer"] | None) -> slice | Tensor:
    """Where a layer's heads stand among some writers."""
    return heads if writers is None else (writers >= heads.start) & (writers < heads.stop)
