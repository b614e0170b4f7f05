"""Gates on parts at spans of positions: a node, neuron or feature may count at some tokens alone.

Both axes at once: what is cut is that of a `PartGraph`, where it has gates that of a `SpanGraph`.
Gates are printed `m0.f3@S2`, `a1.h2@end`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitprune.circuits.flow import reached_writers, useful_readers
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph, part_graph
from circuitprune.circuits.span_graph import Span, SpanGraph, span_graph


@dataclass(frozen=True)
class PartSpanGraph(SpanGraph, PartGraph):
    """The parts of a `PartGraph`, each at the spans of a `SpanGraph` where it can matter.

    A part has a gate at a span in which what is cut there may differ from the ablated run, and from
    which something that reads the stream behind it leads to an answer.

    Example:
        >>> from circuitprune.circuits.part_graph import Cut
        >>> cuts = Cut("input", 0), Cut("m0", 2, "neuron", 2)
        >>> subject, end = Span("S2", (0,), True, False), Span("end", (0, 1), False, True)
        >>> PartSpanGraph(1, 1, 1, level="neuron", cuts=cuts, spans=(subject, end)).edges
        ('input@S2', 'm0.n0@end', 'm0.n1@end')
    """

    @property
    def form(self) -> str:
        """How names of gates are written."""
        return f"{self.base.edges[-1]}@span"

    def describe(self) -> str:
        """One line with the sizes, for messages."""
        return f"{super().describe()}, level {self.level}"

    @cached_property
    def base(self) -> PartGraph:
        """The same without spans."""
        return part_graph(self, self.level, self.cuts)

    @cached_property
    def exists(self) -> Bool[Tensor, "whole span"]:
        """Where there is a gate: where one can matter if all are open."""
        whole = Graph(**{name: getattr(self, name) for name in Graph.__dataclass_fields__})
        every = torch.ones(whole.n_edges, len(self.spans), dtype=torch.bool)
        differs = reached_writers(whole, every, self.flow)
        useful, leads = useful_readers(whole, every, self.flow), torch.zeros_like(differs)
        for block in whole.blocks:
            leads[: block.n_writers] |= useful[block.readers].any(dim=0)
        first = [0 if cut.stream else cut.writer for cut in self.cuts]
        rows = [
            differs[start : cut.writer + 1].any(dim=0) & leads[cut.writer]
            for start, cut in zip(first, self.cuts, strict=True)
        ]
        return torch.stack(rows)[self.base.edge_cut]

    @cached_property
    def edge_cut(self) -> Int[Tensor, " edge"]:
        """Position in `cuts` of what each part is of."""
        return self.base.edge_cut[self.edge_base]

    @cached_property
    def first(self) -> tuple[int, ...]:
        """Position of each cut's first gate, and behind the last the number of all."""
        sizes = torch.bincount(self.edge_cut, minlength=len(self.cuts))
        return (0, *sizes.cumsum(0).tolist())


def at_spans(graph: Graph, spans: Iterable[Span]) -> SpanGraph:
    """The graph of a graph's edges, or of its parts, at spans.

    Raises:
        GraphError: as of `SpanGraph`.
    """
    if not isinstance(graph, PartGraph):
        return span_graph(graph, spans)
    sizes = {name: getattr(graph, name) for name in PartGraph.__dataclass_fields__}
    return PartSpanGraph(**sizes, spans=tuple(spans))
