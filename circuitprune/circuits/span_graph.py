"""Gates on edges at spans of positions: what each reader sees may differ from token to token.

The tokens of a prompt are dealt to named spans, and an edge has a gate at each span where it can
matter. A `SpanGraph` is a `Graph` of these gates, printed `m2->a5.h1<q>@S2`: scores, masks,
selection, files and evidence take it as any other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from circuitprune.circuits.flow import WHOLE, Flow, Grid, reached_writers, useful_readers
from circuitprune.circuits.graph import Block, Graph
from circuitprune.errors import GraphError
from circuitprune.files.limits import EDGES
from circuitprune.files.text import counted

MOST_SPANS = 256
"""Spans of a graph: several times as many as a task names, or each token of a prompt of one."""


@dataclass(frozen=True)
class Span:
    """Positions that share their gates, and what is known of them in the pairs of a study."""

    name: str
    sees: tuple[int, ...]
    """Spans, by their place, with a position at or in front of one of this span's, as far as
    something can differ at either."""
    differs: bool
    """Whether the input there may be something else when ablated."""
    answers: bool
    """Whether an answer is read there."""


@dataclass(frozen=True)
class SpanGraph(Graph):
    """The edges of a transformer of the given sizes, at each span where they can matter.

    Wherever an edge is asked for it is one at a span: `n_edges` is the number of gates, `edge_name`
    ends in `@` and the span, `edge_writer` and `edge_reader` are those of the edge. Gates of one
    edge stand side by side. A gate exists if it is live while all gates are open: at a span in
    which nothing can differ from the ablated run, or from which nothing leads to an answer, an
    edge has none.

    Args:
        spans: What tokens are dealt to.

    Raises:
        GraphError: no spans, names that are not apart, or spans where no gate matters.

    Example:
        >>> subject, end = Span("S2", (0,), True, False), Span("end", (0, 1), False, True)
        >>> graph = SpanGraph(1, 1, 1, spans=(subject, end))
        >>> graph.edges
        ('input->a0.h0<k>@S2', 'input->a0.h0<v>@S2', 'a0.h0->m0@end', 'a0.h0->logits@end', \
'm0->logits@end')
    """

    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [span.name for span in self.spans]
        if not 1 <= len(names) <= MOST_SPANS or len({*names}) < len(names):
            raise GraphError(f"expected 1 to {MOST_SPANS} spans of different names, got {names}")
        if not all(is_name(name) for name in names):
            raise GraphError(f"names of spans are letters, digits, '_' and '-', got {names}")
        if not all(0 <= seen < len(names) for span in self.spans for seen in span.sees):
            raise GraphError(f"spans see others by their place, 0 to {len(names) - 1}")
        if self.base.n_edges * len(names) > EDGES or not self.exists.any():
            raise GraphError(
                f"expected 1 to {EDGES:,} gates at spans {', '.join(names)} of "
                f"{self.base.describe()}: an answer must stand where something differs, or behind"
            )

    @property
    def form(self) -> str:
        """How names of gates are written."""
        return "writer->reader@span"

    @cached_property
    def base(self) -> Graph:
        """The same without spans."""
        return Graph(**{name: getattr(self, name) for name in Graph.__dataclass_fields__})

    @cached_property
    def flow(self) -> Flow:
        """Where something enters and leaves, and which spans see which."""
        sees = torch.zeros(len(self.spans), len(self.spans), dtype=torch.bool)
        for row, span in zip(sees, self.spans, strict=True):
            row[list(span.sees)] = True
        enters, leaves = ([getattr(s, name) for s in self.spans] for name in ("differs", "answers"))
        return Flow(torch.tensor(enters), torch.tensor(leaves), sees)

    @cached_property
    def exists(self) -> Bool[Tensor, "whole span"]:
        """Where there is a gate: where one is live if all are open."""
        base = self.base
        every = torch.ones(base.n_edges, len(self.spans), dtype=torch.bool)
        reached = reached_writers(base, every, self.flow)[base.edge_writer]
        return reached & useful_readers(base, every, self.flow)[base.edge_reader]

    @cached_property
    def n_edges(self) -> int:
        """Gates: edges, each at so many spans."""
        return int(self.exists.sum())

    def describe(self) -> str:
        """One line with the sizes, for messages."""
        sizes, _, _ = self.base.describe().rpartition(", ")
        names = ", ".join(span.name for span in self.spans)
        return f"{sizes}, {counted(self.n_edges, self.unit)} at spans ({names})"

    # ---------------------------------------------------------------- the flat order

    @cached_property
    def edge_base(self) -> Int[Tensor, " edge"]:
        """The edge of each gate, by its place in `base`."""
        return self.exists.nonzero()[:, 0]

    @cached_property
    def edge_span(self) -> Int[Tensor, " edge"]:
        """The span of each gate."""
        return self.exists.nonzero()[:, 1]

    @cached_property
    def edge_writer(self) -> Int[Tensor, " edge"]:
        """Writer index of each gate's edge."""
        return self.base.edge_writer[self.edge_base]

    @cached_property
    def edge_reader(self) -> Int[Tensor, " edge"]:
        """Reader index of each gate's edge."""
        return self.base.edge_reader[self.edge_base]

    @cached_property
    def group_of_ungrouped(self) -> Int[Tensor, " edge_ungrouped"]:
        """For each gate of `ungrouped()`, the position of the gate here that carries it."""
        whole = self.ungrouped()
        assert isinstance(whole, SpanGraph)
        return self._places[self.base.group_of_ungrouped[whole.edge_base], whole.edge_span]

    def block_view(
        self, values: Shaped[Tensor, " edge"], block: Block
    ) -> Shaped[Tensor, "reader writer"]:
        """Refused: a reader has a row of gates for each span, and not all of them.

        Raises:
            GraphError: always.
        """
        raise GraphError(f"{self.describe()} has no matrix of readers and writers: take `grid_of`")

    def edge_at(self, writer: int, reader: int) -> int:
        """Refused: an edge has a gate at each span.

        Raises:
            GraphError: always.
        """
        raise GraphError(f"in {self.describe()} an edge has no gate of its own: name its span too")

    # ---------------------------------------------------------------- names

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of all gates, `writer->reader@span`, in the flat order."""
        return tuple(map(self.edge_name, range(self.n_edges)))

    def edge_name(self, edge: int) -> str:
        """`writer->reader@span` of the gate at this position."""
        name = self.base.edge_name(int(self.edge_base[edge]))
        return f"{name}@{self.spans[int(self.edge_span[edge])].name}"

    def edge_index(self, name: str) -> int:
        """Position of a gate `writer->reader@span`; an edge may be spelt as in `base`.

        Raises:
            GraphError: no such edge or span, or the edge can do nothing there.
        """
        edge, at, span = name.rpartition("@")
        names = [one.name for one in self.spans]
        if not at or span not in names:
            raise GraphError(
                f"{self.unit}s at spans are written {self.form!r} with one of {', '.join(names)} "
                f"as span, got {name!r:.80}"
            )
        place = self.base.edge_index(edge), names.index(span)
        if not bool(self.exists[place]):
            raise GraphError(
                f"{name!r:.80} has no gate: there nothing differs when it is cut, or nothing that "
                "leads to an answer reads it"
            )
        return int(self._places[place])

    @cached_property
    def _places(self) -> Int[Tensor, "whole span"]:
        return grid_of(self, torch.arange(self.n_edges), -1)


def span_graph(graph: Graph, spans: Iterable[Span]) -> SpanGraph:
    """The graph of a graph's edges at spans."""
    sizes = {name: getattr(graph, name) for name in Graph.__dataclass_fields__}
    return SpanGraph(**sizes, spans=tuple(spans))


def is_name(name: str) -> bool:
    """Whether a span can be called so."""
    return name.isascii() and name.replace("_", "").replace("-", "").isalnum()


def in_prompt_order(spans: Sequence[Span]) -> tuple[int, ...]:
    """Places of spans, those first that see little and are seen by much.

    What a span sees is at or in front of its own positions, so where prompts go through their spans
    one after the other, this is the order in which they do. One that sees nothing, itself included,
    stands in front of all that may differ, so it comes first.
    """
    seen = [sum(place in other.sees for other in spans) for place in range(len(spans))]
    sees = [len(span.sees) for span in spans]
    return tuple(sorted(range(len(spans)), key=lambda at: (sees[at] > 0, sees[at] - seen[at])))


def spans_at(graph: SpanGraph, edges: Int[Tensor, " n"]) -> list[str]:
    """Names of the spans of some gates."""
    return [graph.spans[span].name for span in graph.edge_span[edges].tolist()]


def named_spans(graph: Graph, places: Iterable[int]) -> tuple[str, ...] | None:
    """Names of the spans that tokens are dealt to; None of a graph without spans."""
    if not isinstance(graph, SpanGraph):
        return None
    return tuple(graph.spans[place].name for place in places)


def require_edges(graph: Graph, what: str) -> None:
    """Nothing, if gates stand on whole edges.

    Args:
        graph: Of the gates.
        what: What is of whole edges alone, as the subject of a sentence.

    Raises:
        GraphError: they stand on edges at spans, or on parts.
    """
    if graph.unit != "edge":
        raise GraphError(f"{what} is of edges, not of {graph.unit}s; take level=edge for it")
    if isinstance(graph, SpanGraph):
        raise GraphError(f"{what} is of whole edges, not of edges at spans; take spans=none for it")


def base_of(graph: Graph) -> Graph:
    """The graph without spans; one that has none is its own."""
    return graph.base if isinstance(graph, SpanGraph) else graph


def flow_of(graph: Graph) -> Flow:
    """How spans of a graph hang together; of one without spans, all positions are one."""
    return graph.flow if isinstance(graph, SpanGraph) else WHOLE


def grid_of(graph: Graph, values: Shaped[Tensor, " edge"], fill: float | int) -> Grid:
    """Values in the flat order as one for each edge of the model at each span.

    Args:
        graph: Of the values.
        values: One for each gate.
        fill: Where there is no gate.
    """
    if not isinstance(graph, SpanGraph):
        return values.unsqueeze(1)
    grid = values.new_full(graph.exists.shape, fill)
    grid[graph.exists.to(values.device)] = values
    return grid


def flat_of(graph: Graph, grid: Grid) -> Shaped[Tensor, " edge"]:
    """The inverse of `grid_of`."""
    if not isinstance(graph, SpanGraph):
        return grid.squeeze(1)
    return grid[graph.exists.to(grid.device)]


def spans_of(
    names: Sequence[str],
    rows: Iterable[tuple[Sequence[int], Sequence[int], Sequence[int]]],
    everywhere: bool,
) -> tuple[Span, ...]:
    """What is known of spans, from the pairs whose tokens are dealt to them.

    Args:
        names: Of the spans.
        rows: Of each pair the span of each token, and the tokens of its clean and corrupt prompt.
        everywhere: Cut edges may carry something else at every position, as means do; else only
            what the corrupt prompt has there: the same in front of the first token that differs,
            so what stands there counts for nothing.
    """
    n = len(names)
    sees: list[set[int]] = [set() for _ in range(n)]
    differs, answers = [False] * n, [False] * n
    for dealt, clean, corrupt in rows:
        before: set[int] = set()
        for span, one, other in zip(dealt, clean, corrupt, strict=True):
            if not (everywhere or before or one != other):
                continue
            before.add(span)
            sees[span] |= before
            differs[span] |= everywhere or one != other
        answers[dealt[-1]] = True
    facts = zip(names, sees, differs, answers, strict=True)
    return tuple(Span(name, tuple(sorted(seen)), *ends) for name, seen, *ends in facts)
