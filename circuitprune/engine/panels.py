"""Readers of consecutive layers, taken together: one product for all that stands in front of them.

The readers of a layer are a dozen or two rows; a matrix product of so few rows with every writer in
front of them takes as long as reading those writers from memory. So the layers are cut into
panels, as a blocked triangular system is: what stands in front of a panel is read once for all of
its readers, and only the few writers inside it are added layer by layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from circuitprune.circuits.graph import Block, Graph

ROOM = 1 << 28
"""Bytes that the readers of a panel may take, however few the writers are."""
SHARE = 0.25
"""Of what all writers take, the part that the readers of a panel may take beyond that."""


def layers_in_panels(graph: Graph, row_bytes: int) -> list[range]:
    """The layers of a model, cut into runs whose readers are mixed together.

    With B layers in a run, a layer costs reading `W / 2B` writers in front of the runs and
    `(B - 1) W / 2L` within them, which is least at `B = sqrt(L)`; less where memory asks for it.

    Args:
        graph: Of the model: its W writers and L layers.
        row_bytes: What one writer, or one reader, takes: `batch * pos * d_model` numbers.
    """
    n_layers = graph.n_layers
    room = max(ROOM, SHARE * graph.n_writers * row_bytes)
    fitting = int(room / (graph.readers_per_layer * row_bytes))
    size = max(1, min(round(n_layers**0.5), fitting))
    n_runs = -(-n_layers // size)
    ends = [n_layers * (i + 1) // n_runs for i in range(n_runs)]
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Member:
    """Readers of a block that stand in a panel."""

    block: Block
    rows: slice
    """Which of the block's readers."""
    n_writers: int
    """How many of the first writers they take through the panel."""

    @property
    def n_rows(self) -> int:
        """How many readers."""
        return len(range(*self.rows.indices(self.block.n_readers)))


@dataclass(frozen=True)
class Panel:
    """Readers of one run of layers that look at the same positions, in forward order."""

    members: Sequence[Member]
    early: int
    """How many writers stand in front of all of them."""

    @cached_property
    def rows(self) -> dict[Block, slice]:
        """Where the readers of each block lie."""
        rows: dict[Block, slice] = {}
        first = 0
        for member in self.members:
            rows[member.block] = slice(first, first + member.n_rows)
            first += member.n_rows
        return rows

    @cached_property
    def layers(self) -> dict[int, slice]:
        """Where the readers of each layer lie; the logits are behind the last one."""
        layers: dict[int, slice] = {}
        for block, rows in self.rows.items():
            layers[block.layer] = slice(layers.get(block.layer, rows).start, rows.stop)
        return layers

    @property
    def n_rows(self) -> int:
        """How many readers."""
        return sum(member.n_rows for member in self.members)

    @cached_property
    def n_writers(self) -> dict[int, int]:
        """How many writers the readers of each layer take."""
        return {member.block.layer: member.n_writers for member in self.members}
