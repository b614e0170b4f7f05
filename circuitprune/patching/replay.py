"""Every edge and node of one recorded run, patched alone, several side by side.

Patching one edge leaves everything upstream of its reader as it was, so each starts from the
record. All readers of an attention layer see the same stream: with one writer's value replaced in
it, three calls of the attention (queries, keys, values changed) give what every head writes when
its own reader alone sees the change.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Block, Graph
from circuitprune.circuits.span_graph import require_edges
from circuitprune.data.batches import Prompts
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.gated import GatedModel
from circuitprune.patching.ordering import ordered
from circuitprune.patching.recorded import FinalStack, RecordedRun, Stack

TOKENS_PER_PASS = 2560
"""Tokens that go through a layer at once; more makes temporaries that cost page faults."""

Logits = Float[Tensor, "change batch vocab"]
Item = TypeVar("Item")


class Edge(NamedTuple):
    """An edge with its ends, as positions in the graph."""

    edge: int
    writer: int
    reader: int


class Replay:
    """A recorded run in which any writer's value can be replaced for one reader, or for all.

    Args:
        gated: The model.
        prompts: What is run.
        replacement: What each writer carries instead, as `References.ablated` returns it.
        tokens_per_pass: Changes are stacked up to so many tokens; at least one is taken.
    """

    @torch.no_grad()
    def __init__(
        self,
        gated: GatedModel,
        prompts: Prompts,
        replacement: Ablated,
        tokens_per_pass: int = TOKENS_PER_PASS,
    ) -> None:
        require_edges(gated.graph, "exact patching")
        self.run = RecordedRun(gated, prompts)
        self.ports, self.graph = gated.ports, gated.graph
        self.tokens_per_pass = tokens_per_pass
        written = self.run.written
        for writer in range(self.graph.n_writers):
            one = slice(writer, writer + 1)
            torch.sub(replacement[one], written[one], out=written[one])
        self.delta: dict[int, Float[Tensor, "batch pos d_model"]] = dict(enumerate(written))

    @property
    def logits(self) -> Float[Tensor, "batch vocab"]:
        """Logits at the answers of the run as recorded."""
        return self.run.logits

    # ---------------------------------------------------------------- what is asked of a run

    @torch.no_grad()
    def edges(self, edges: Int[Tensor, " n"]) -> Iterator[tuple[Sequence[int], Logits]]:
        """Logits at the answers with each edge alone carrying its writer's replaced value.

        Yields `(edges, logits)`, a few edges at a time, in the order of `ordered`.
        """
        work = {
            "attention": self._attention_edges,
            "mlp": self._mlp_edges,
            "logits": self._logits_edges,
        }
        for block, some in _by_block(self.graph, edges):
            for part, stream in work[block.kind](block, some):
                yield from self.run.unembedded([edge.edge for edge in part], stream)

    @torch.no_grad()
    def nodes(self, writers: Iterable[int]) -> Iterator[tuple[Sequence[int], Logits]]:
        """Logits at the answers with all out-edges of one writer carrying its replaced value.

        Yields `(writers, logits)`, a few writers at a time, in forward order.
        """
        run = self.run
        for (layer, head), some in groupby(sorted(writers), self._place):
            for part in self._passes(list(some), layer):
                if head:
                    change = torch.stack([run.answers(layer, self.delta[w]) for w in part])
                    out = change.add_(run.answers(layer, run.heads[layer]))
                    stream = run.after_attention(layer, out)
                else:
                    out = self._changes(part, layer).add_(run.streams[layer + 1])
                    stream = run.from_layer(layer + 1, out)
                yield from run.unembedded(part, stream)

    @torch.no_grad()
    def through(
        self, writer: int, reader: int, component: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """Change of what `component` writes when its `reader` sees `writer`'s replaced value.

        All else is as recorded. `component` is one of `graph.heads_of_reader(reader)`.
        """
        block, edge = self.graph.block_of_reader(reader), Edge(-1, writer, reader)
        if block.kind == "mlp":
            return self._mlp_change(block.layer, [edge], answers=False)[0]
        ((_, values, weight),) = self._head_changes(block, [edge], answers=False)
        own = component - self.graph.heads_of_reader(reader).start
        features = slice(own * self.ports.d_head, (own + 1) * self.ports.d_head)
        return (values[:, features] @ weight[features]).view_as(self.delta[component])

    @property
    def difference(self) -> Float[Tensor, "writer batch pos d_model"]:
        """What each writer carries when replaced, minus what it wrote."""
        return self.run.written

    @torch.no_grad()
    def value_changes(
        self, edges: Int[Tensor, " n"]
    ) -> Iterator[tuple[int, list[tuple[int, Edge]], Stack]]:
        """How the mixed values of heads change when each edge into attention is replaced alone.

        Yields a layer, some edges into it with the place of each in what comes with them, and the
        change of all its heads' values side by side, as its output projection reads them. Of an
        edge, only the values of `graph.heads_of_reader` are its doing.
        """
        for block, some in _by_block(self.graph, edges):
            for part, change in self._value_changes(block.layer, some):
                yield block.layer, part, change

    def values_at(self, writer: int, reader: int, share: Tensor) -> Stack:
        """All heads' values when one reader of theirs sees a share of a writer's replacement.

        Differentiable in `share`, a number: 0 is the run as recorded, 1 the edge replaced.
        """
        run, layer = self.run, self.graph.block_of_reader(reader).layer
        stream = run.streams[layer].unsqueeze(0)
        change = self.replacing(writer, share * self.delta[writer])._change(writer)
        base, changed = run.project(layer, stream), run.project(layer, stream + change)
        port, rows = "qkv".index(self.graph.reader_kind[reader]), self._own_rows(reader)
        return run.values(layer, run.swapped(port, base, changed, rows))

    def replacing(self, writer: int, delta: Float[Tensor, "batch pos d_model"]) -> "Replay":
        """The same recorded run, in which `writer` is replaced by what it wrote plus `delta`."""
        other = copy.copy(self)
        other.delta = {**self.delta, writer: delta}
        return other

    def within(self, where: Bool[Tensor, "batch pos 1"]) -> "Replay":
        """The same recorded run, in which writers are replaced at some tokens alone."""
        other = copy.copy(self)
        other.delta = {writer: delta * where for writer, delta in self.delta.items()}
        return other

    # ---------------------------------------------------------------- edges, block by block

    def _attention_edges(
        self, block: Block, edges: list[Edge]
    ) -> Iterator[tuple[Sequence[Edge], FinalStack]]:
        """Edges into one attention layer and the final streams that they lead to."""
        base = self.run.answers(block.layer, self.run.heads[block.layer])
        waiting: list[Edge] = []
        room = base.new_empty(0)
        for number, (edge, values, weight) in enumerate(self._head_changes(block, edges), start=1):
            if not waiting:
                n = min(self._per_pass(block.layer), len(edges) - number + 1)
                room = base.new_empty(n, *base.shape)
            into = room[len(waiting)].flatten(0, 1)
            torch.addmm(base.flatten(0, 1), values, weight, out=into)
            waiting.append(edge)
            if len(waiting) == len(room):
                yield waiting, self.run.after_attention(block.layer, room)
                waiting = []

    def _head_changes(
        self, block: Block, edges: list[Edge], answers: bool = True
    ) -> Iterator[tuple[Edge, Float[Tensor, "token width"], Float[Tensor, "width d_model"]]]:
        """For each edge, the change of its heads' values, and the weights that write it."""
        run, layer, d_head = self.run, block.layer, self.ports.d_head
        first = self.graph.head_writer(layer, 0)
        weight = self.ports.head_weight(layer).flatten(0, 1)
        for some, values in self._value_changes(layer, edges):
            moved = (run.answers(layer, values) if answers else values).flatten(1, 2)
            for i, edge in some:
                heads = self.graph.heads_of_reader(edge.reader)
                own = slice((heads.start - first) * d_head, (heads.stop - first) * d_head)
                yield edge, moved[i, :, own], weight[own]

    def _value_changes(
        self, layer: int, edges: list[Edge]
    ) -> Iterator[tuple[list[tuple[int, Edge]], Stack]]:
        """Change of all heads' values under several writers, for q, k and v readers in turn.

        Yields the edges whose readers are of one kind, each with the place of its writer in the
        `[writer, batch, pos, width]` that comes with them.
        """
        run, stream = self.run, self.run.streams[layer].unsqueeze(0)
        base = run.project(layer, stream)
        values = run.values(layer, base)
        by_writer = [list(some) for _, some in groupby(edges, lambda edge: edge.writer)]
        for some in _cut(by_writer, self.tokens_per_pass // run.tokens.numel()):
            change = torch.stack([self._change(of_one[0].writer) for of_one in some])
            changed = run.project(layer, change.add_(stream))
            numbered = [(i, edge) for i, of_one in enumerate(some) for edge in of_one]
            for port, kind in enumerate("qkv"):
                wanted = [x for x in numbered if self.graph.reader_kind[x[1].reader] == kind]
                for part, rows in self._together(wanted, kind):
                    moved = run.values(layer, run.swapped(port, base, changed, rows))
                    yield part, moved.sub_(values)

    def _together(
        self, edges: list[tuple[int, Edge]], kind: str
    ) -> Iterator[tuple[list[tuple[int, Edge]], slice | None]]:
        """Edges whose readers can see their changes at once: all, but for heads that are coupled.

        With each part the rows of its readers among those of their kind, or None for all rows.
        """
        if self.graph.coupled and kind != "v":
            yield from (([edge], self._own_rows(edge[1].reader)) for edge in edges)
        elif edges:
            yield edges, None

    def _own_rows(self, reader: int) -> slice:
        """The one reader's row among the queries, keys or values of its layer."""
        row = reader - self.graph.block_of_reader(reader).first_reader
        row = (
            row
            if row < self.graph.n_heads
            else (row - self.graph.n_heads) % self.graph.n_kv_readers
        )
        return slice(row, row + 1)

    def _mlp_edges(
        self, block: Block, edges: list[Edge]
    ) -> Iterator[tuple[Sequence[Edge], FinalStack]]:
        """Edges into one MLP and the final streams that they lead to."""
        after = self.run.streams[block.layer + 1]
        for part in self._passes(edges, block.layer):
            change = self._mlp_change(block.layer, part)
            yield part, self.run.from_layer(block.layer + 1, change.add_(after))

    def _mlp_change(self, layer: int, edges: Sequence[Edge], answers: bool = True) -> Stack:
        """Change of what a layer's MLP writes under each edge."""
        run, stream = self.run, self.run.streams[layer]
        if not self.graph.parallel:
            stream = stream + run.post_norms.of(layer, run.heads[layer])
        change = torch.stack([self._change(edge.writer) for edge in edges])
        if answers:
            stream, change = run.answers(layer, stream), run.answers(layer, change)
        return run.mlp(layer, change.add_(stream)).sub_(run.mlp(layer, stream))

    def _logits_edges(
        self, block: Block, edges: list[Edge]
    ) -> Iterator[tuple[Sequence[Edge], FinalStack]]:
        """Edges into the logits and the final streams that they make."""
        for part in self._passes(edges, block.layer):
            change = self._changes([edge.writer for edge in part], block.layer)
            yield part, change.add_(self.run.streams[block.layer])

    # ---------------------------------------------------------------- changes of the stream

    def _change(self, writer: int) -> Float[Tensor, "batch pos d_model"]:
        """How the residual stream changes when one writer is replaced."""
        layer, head = self._place(writer)
        if not head or layer not in self.run.post_norms.norms:
            return self.delta[writer]
        heads = self.run.heads[layer]
        return self.run.post_norms.change(layer, heads + self.delta[writer], heads)

    def _changes(self, writers: Sequence[int], layer: int) -> Stack:
        """`_change` of several writers, as far as what follows `layer` needs it."""
        return torch.stack([self.run.answers(layer, self._change(writer)) for writer in writers])

    def _place(self, writer: int) -> tuple[int, bool]:
        """Layer of a writer, -1 for the input, and whether it is a head."""
        layer, within = divmod(writer - 1, self.graph.n_heads + 1)
        return layer, within < self.graph.n_heads

    # ---------------------------------------------------------------- passes

    def _per_pass(self, layer: int) -> int:
        """How many changes that enter in a layer go through the rest of the model at once."""
        n_pos = 1 if layer >= self.graph.n_layers - 1 else self.run.n_pos
        return max(1, self.tokens_per_pass // (self.run.n_batch * n_pos))

    def _passes(self, items: Sequence[Item], layer: int) -> Iterator[Sequence[Item]]:
        return _cut(items, self._per_pass(layer))


def _by_block(graph: Graph, edges: Int[Tensor, " n"]) -> Iterator[tuple[Block, list[Edge]]]:
    """The edges by block of readers, each block's by writer."""
    edges = ordered(graph, edges.cpu())
    ends = (edges, graph.edge_writer[edges], graph.edge_reader[edges])
    named = [Edge(*numbers) for numbers in zip(*(part.tolist() for part in ends), strict=True)]
    for block, some in groupby(named, lambda edge: graph.block_of_reader(edge.reader)):
        yield block, list(some)


def _cut(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive parts of at most `size` items, and at least one."""
    for start in range(0, len(items), max(1, size)):
        yield items[start : start + max(1, size)]
