"""Gates on parts instead of edges: whole nodes, neurons, features of a dictionary.

What a writer adds to the residual stream is a sum of parts. Under gates on parts every reader sees
the same stream, so a part has one edge: into the stream, whose end is the logits. A `PartGraph` is
a `Graph` of these edges: scores, masks, selection, files and evidence take it as any other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from circuitprune.circuits.graph import Block, Graph
from circuitprune.errors import GraphError
from circuitprune.files.limits import EDGES
from circuitprune.files.text import counted

Grain = Literal["whole", "neuron", "feature"]
"""How fine a cut is: not at all, or into hidden neurons, or into features of a dictionary."""
LEVELS = ("node", "neuron", "feature")
"""What gates stand on, if not on edges."""
_LETTER = {"neuron": "n", "feature": "f"}


@dataclass(frozen=True)
class Cut:
    """One thing that is written, and the parts that it is cut into.

    Its parts are printed `m3.n17` (neurons), `m3.f17` (features) and `m3.error` (what a dictionary
    leaves out of it); one that is not cut is its own only part.
    """

    of: str
    """What is cut: a writer, such as `m3`."""
    writer: int
    """Position of the node that it is written by."""
    grain: Grain = "whole"
    n: int = 1
    """Parts, the error among them."""
    error: bool = False
    """Whether the last part is what a dictionary leaves out."""

    @property
    def stream(self) -> bool:
        """Whether the stream behind a layer is cut, with all that was written to it."""
        return self.of.startswith("resid")

    def name(self, part: int) -> str:
        """The part at this position."""
        if self.grain == "whole":
            return self.of
        if self.error and part == self.n - 1:
            return f"{self.of}.error"
        return f"{self.of}.{_LETTER[self.grain]}{part}"


@dataclass(frozen=True)
class PartGraph(Graph):
    """The parts of everything that is written in a transformer of the given sizes.

    Wherever an edge is asked for it is the one of a part: `n_edges` is the number of parts,
    `edge_name` a part's name, `edge_writer` the node that it belongs to, and every edge ends at the
    logits. Readers of their own have no gates here, so counting them otherwise changes nothing.

    Args:
        level: What the parts are: `node`, `neuron` or `feature`.
        cuts: What is written, in forward order.

    Raises:
        GraphError: no parts, more than a file may hold, or the same one twice.

    Example:
        >>> cuts = Cut("a0.h1", 2), Cut("m0", 3, "neuron", 4)
        >>> graph = PartGraph(1, 2, 2, level="neuron", cuts=cuts)
        >>> graph.n_edges, graph.edge_name(3), graph.edge_index("m0.n2")
        (5, 'm0.n2', 3)
    """

    level: str = "node"
    cuts: tuple[Cut, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in LEVELS:
            raise GraphError(f"parts are of level node, neuron or feature, not {self.level!r:.40}")
        names, n = {cut.of for cut in self.cuts}, sum(cut.n for cut in self.cuts)
        if len(names) < len(self.cuts) or not 1 <= n <= EDGES:
            raise GraphError(f"expected 1 to {EDGES:,} parts of different things, got {n:,}")
        if not all(0 <= cut.writer < self.n_writers and cut.n >= 1 for cut in self.cuts):
            raise GraphError(f"parts of nodes that {super().describe()} does not have")

    @property
    def unit(self) -> str:
        """What one gate stands on, in words."""
        return "node" if self.level == "node" else "part"

    @cached_property
    def n_edges(self) -> int:
        """Parts."""
        return sum(cut.n for cut in self.cuts)

    @property
    def n_edges_ungrouped(self) -> int:
        """Parts: no part belongs to a key or value reader."""
        return self.n_edges

    def ungrouped(self) -> "PartGraph":
        """This graph itself."""
        return self

    def ungroup(self, values: Shaped[Tensor, " edge"]) -> Shaped[Tensor, " edge"]:
        """The values themselves."""
        return values

    def same_edges(self, other: Graph) -> bool:
        """Whether a flat vector over the parts means the same in both; see the class."""
        ours, theirs = (
            replace(one, d_model=0, coupled=False, n_kv_readers=1) for one in (self, other)
        )
        return ours == theirs

    def describe(self) -> str:
        """One line with the sizes, for messages."""
        sizes = f"{counted(self.n_layers, 'layer')}, {counted(self.n_heads, 'head')}"
        return f"a graph of {sizes}, {counted(self.n_edges, self.unit)} (level {self.level})"

    # ---------------------------------------------------------------- names

    @cached_property
    def first(self) -> tuple[int, ...]:
        """Position of each cut's first part, and behind the last the number of all."""
        return (0, *accumulate(cut.n for cut in self.cuts))

    def parts(self, cut: int) -> slice:
        """Positions of a cut's parts."""
        return slice(self.first[cut], self.first[cut + 1])

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of all parts, in the flat order."""
        return tuple(cut.name(part) for cut in self.cuts for part in range(cut.n))

    def edge_name(self, edge: int) -> str:
        """Name of the part at this position."""
        return self.edges[edge]

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.edges)}

    def edge_index(self, name: str) -> int:
        """Position of a part. Raises GraphError for a name that this graph does not have."""
        if name not in self._index:
            raise GraphError(
                f"no part {name!r:.80} in {self.describe()}; parts look like "
                f"{self.edges[0]!r}, {self.edges[-1]!r}"
            )
        return self._index[name]

    # ---------------------------------------------------------------- ends

    @cached_property
    def edge_writer(self) -> Int[Tensor, " edge"]:
        """Position of the node of each part."""
        writers = torch.tensor([cut.writer for cut in self.cuts])
        return writers.repeat_interleave(torch.tensor([cut.n for cut in self.cuts]))

    @cached_property
    def edge_cut(self) -> Int[Tensor, " edge"]:
        """Position in `cuts` of what each part is of."""
        sizes = torch.tensor([cut.n for cut in self.cuts])
        return torch.arange(len(self.cuts)).repeat_interleave(sizes)

    @cached_property
    def edge_reader(self) -> Int[Tensor, " edge"]:
        """The logits, for every part."""
        return torch.full((self.n_edges,), self.n_readers - 1)

    @cached_property
    def reader_layer(self) -> Int[Tensor, " reader"]:
        """Layer of each of the model's readers; `n_layers` for the logits."""
        layers = torch.arange(self.n_layers).repeat_interleave(self.readers_per_layer)
        return torch.cat([layers, torch.tensor([self.n_layers])])

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """One: the stream that all parts are written to."""
        return (Block("logits", self.n_layers, self.n_readers - 1, 1, self.n_edges, 0),)


def part_graph(graph: Graph, level: str, cuts: tuple[Cut, ...]) -> PartGraph:
    """The graph of these parts in a model of a graph's sizes."""
    sizes = {name: getattr(graph, name) for name in Graph.__dataclass_fields__}
    return PartGraph(**sizes, level=level, cuts=cuts)
