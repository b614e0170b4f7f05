"""The residual stream as a graph: writers, readers, and every edge between them in one flat order.

A graph knows sizes and names, no model. All scores, gates and masks of the package are one vector
over `Graph.edges`, in the order of `Graph.blocks`: per layer the attention readers (all q heads,
all k heads, all v heads), then the MLP, and `logits` last. A block is reader-major, so
`graph.block_view(values, block)` is a `[reader, writer]` matrix without a copy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from circuitprune.errors import GraphError
from circuitprune.files.limits import LAYERS
from circuitprune.files.text import counted


@dataclass(frozen=True)
class Block:
    """Readers that share the same writers: one layer's attention, one MLP, or the logits."""

    kind: str
    """`attention`, `mlp` or `logits`."""
    layer: int
    """Layer index; `n_layers` for the logits."""
    first_reader: int
    n_readers: int
    n_writers: int
    """Writers `0 .. n_writers - 1` are upstream of this block."""
    first_edge: int

    @property
    def readers(self) -> slice:
        """Positions of this block's readers in `Graph.readers`."""
        return slice(self.first_reader, self.first_reader + self.n_readers)

    @property
    def edges(self) -> slice:
        """Positions of this block's edges in the flat order."""
        return slice(self.first_edge, self.first_edge + self.n_readers * self.n_writers)


@dataclass(frozen=True)
class Graph:
    """All edges of a transformer of the given sizes.

    Writers are `input`, heads `a3.h7`, MLPs `m3`: `W = 1 + L * (H + 1)`. Readers are `a3.h7<q>`,
    `<k>`, `<v>`, `m3`, `logits`. With fewer key/value readers than heads (grouped-query attention)
    the key and value readers belong to a KV head and are printed `a3.kv1<k>`; the query-head
    spelling `a3.h2<k>` is accepted everywhere and means the KV head that serves `h2`.

    Args:
        n_layers: Transformer blocks, >= 1.
        n_heads: Query heads of each block.
        n_kv_readers: Key readers (and value readers) of each block; divides `n_heads`. Equal to
            `n_heads` for multi-head attention, or to count by query head as EAP-IG and MIB do.
        parallel: The MLP reads the block's input, not its heads (GPT-NeoX).
        d_model: Width of the residual stream; carried for file formats that ask for it.
        coupled: One norm spans a layer's queries (keys), so that each of them feeds all its heads.

    Raises:
        GraphError: sizes that no model has.
    """

    n_layers: int
    n_heads: int
    n_kv_readers: int
    parallel: bool = False
    d_model: int = 0
    coupled: bool = False

    def __post_init__(self) -> None:
        if not all(1 <= n <= LAYERS for n in (self.n_layers, self.n_heads, self.n_kv_readers)):
            raise GraphError(f"sizes must be at least 1 and at most {LAYERS:,}, got {self}")
        if self.n_heads % self.n_kv_readers:
            raise GraphError(f"n_kv_readers {self.n_kv_readers} must divide n_heads {self.n_heads}")

    @property
    def unit(self) -> str:
        """What one gate stands on, in words."""
        return "edge"

    @property
    def n_writers(self) -> int:
        """`1 + n_layers * (n_heads + 1)`."""
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def n_readers(self) -> int:
        """`n_layers * (n_heads + 2 * n_kv_readers + 1) + 1`."""
        return self.n_layers * self.readers_per_layer + 1

    @property
    def readers_per_layer(self) -> int:
        """Readers of one block: q heads, k and v readers, the MLP."""
        return self.n_heads + 2 * self.n_kv_readers + 1

    @cached_property
    def n_edges(self) -> int:
        """Edges in this graph's own convention."""
        return self.logits_block.first_edge + self.n_writers

    @property
    def n_edges_ungrouped(self) -> int:
        """Edges counted with one key and one value reader per query head, as EAP-IG and MIB do."""
        return self.ungrouped().n_edges

    def ungrouped(self) -> "Graph":
        """The same model with one key and one value reader per query head."""
        return replace(self, n_kv_readers=self.n_heads)

    def same_edges(self, other: "Graph") -> bool:
        """Whether a flat vector over the edges means the same in both; the width may differ."""
        return replace(self, d_model=0, coupled=False) == replace(other, d_model=0, coupled=False)

    # ---------------------------------------------------------------- names

    def head_writer(self, layer: int, head: int) -> int:
        """Index of writer `a{layer}.h{head}`."""
        return 1 + layer * (self.n_heads + 1) + head

    def heads(self, layer: int) -> slice:
        """Positions of one layer's heads among the writers."""
        return slice(self.head_writer(layer, 0), self.mlp_writer(layer))

    def mlp_writer(self, layer: int) -> int:
        """Index of writer `m{layer}`."""
        return 1 + layer * (self.n_heads + 1) + self.n_heads

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Names of all writers, in forward order."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"m{layer}"]
        return tuple(names)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Names of all readers, in the order of `blocks`."""
        letter = "h" if self.n_kv_readers == self.n_heads else "kv"
        names = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}<q>" for head in range(self.n_heads)]
            for port in "kv":
                names += [f"a{layer}.{letter}{i}<{port}>" for i in range(self.n_kv_readers)]
            names.append(f"m{layer}")
        return (*names, "logits")

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of all edges, `writer->reader`, in the flat order."""
        return tuple(
            f"{writer}->{reader}"
            for block in self.blocks
            for reader in self.readers[block.readers]
            for writer in self.writers[: block.n_writers]
        )

    @cached_property
    def _writer_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.writers)}

    @cached_property
    def _reader_index(self) -> dict[str, int]:
        """Position of each reader under its own name and, for KV heads, under each query head's."""
        index = {name: i for i, name in enumerate(self.readers)}
        group = self.n_heads // self.n_kv_readers
        for block in self.blocks[:-1:2]:
            for port, first in (("k", self.n_heads), ("v", self.n_heads + self.n_kv_readers)):
                for head in range(self.n_heads):
                    name = f"a{block.layer}.h{head}<{port}>"
                    index[name] = block.first_reader + first + head // group
        return index

    def writer_index(self, name: str) -> int:
        """Position of a writer. Raises GraphError for a name that this graph does not have."""
        if name not in self._writer_index:
            raise GraphError(
                f"no writer {name!r:.80} in {self.describe()}; "
                "writers look like 'input', 'a0.h0', 'm0'"
            )
        return self._writer_index[name]

    def reader_index(self, name: str) -> int:
        """Position of a reader; `a3.h2<k>` finds the KV head that serves `h2`."""
        if name in self._reader_index:
            return self._reader_index[name]
        raise GraphError(
            f"no reader {name!r:.80} in {self.describe()}; "
            "readers look like 'a0.h0<q>', 'm0', 'logits'"
        )

    def edge_index(self, name: str) -> int:
        """Position of an edge `writer->reader` in the flat order.

        Raises:
            GraphError: the name is not `writer->reader`, or the writer is not upstream.
        """
        writer_name, arrow, reader_name = name.partition("->")
        if not arrow:
            raise GraphError(f"an edge is written 'writer->reader', got {name!r:.80}")
        writer, reader = self.writer_index(writer_name), self.reader_index(reader_name)
        block = self.block_of_reader(reader)
        if writer >= block.n_writers:
            raise GraphError(
                f"{name!r:.80} is not an edge: {writer_name} is not upstream of {reader_name}"
            )
        return self.edge_at(writer, reader)

    def edge_name(self, edge: int) -> str:
        """`writer->reader` of the edge at this position, without naming all the others."""
        writer, reader = int(self.edge_writer[edge]), int(self.edge_reader[edge])
        return f"{self.writers[writer]}->{self.readers[reader]}"

    def edge_at(self, writer: int, reader: int) -> int:
        """Position of the edge from a writer upstream of a reader, by their own positions."""
        block = self.block_of_reader(reader)
        return block.first_edge + (reader - block.first_reader) * block.n_writers + writer

    def no_edges(self) -> Bool[Tensor, " edge"]:
        """The mask that keeps nothing."""
        return torch.zeros(self.n_edges, dtype=torch.bool)

    def mask_of(self, names: Iterable[str]) -> Bool[Tensor, " edge"]:
        """The mask that keeps exactly the named edges."""
        mask = self.no_edges()
        mask[[self.edge_index(name) for name in names]] = True
        return mask

    def describe(self) -> str:
        """One line with the sizes, for messages."""
        heads = counted(self.n_heads, "head")
        if self.n_kv_readers != self.n_heads:
            heads += f", {counted(self.n_kv_readers, 'KV reader')}"
        layers, edges = counted(self.n_layers, "layer"), counted(self.n_edges, "edge")
        return f"a graph of {layers}, {heads}, {edges}"

    # ---------------------------------------------------------------- blocks and views

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Attention and MLP blocks in forward order, `logits` last."""
        blocks: list[Block] = []
        reader = edge = 0

        def add(kind: str, layer: int, n_readers: int, n_writers: int) -> None:
            nonlocal reader, edge
            blocks.append(Block(kind, layer, reader, n_readers, n_writers, edge))
            reader, edge = reader + n_readers, edge + n_readers * n_writers

        for layer in range(self.n_layers):
            upstream = 1 + layer * (self.n_heads + 1)
            add("attention", layer, self.n_heads + 2 * self.n_kv_readers, upstream)
            add("mlp", layer, 1, upstream if self.parallel else upstream + self.n_heads)
        add("logits", self.n_layers, 1, self.n_writers)
        return tuple(blocks)

    def attention_block(self, layer: int) -> Block:
        """The q, k and v readers of one layer."""
        return self.blocks[2 * layer]

    def mlp_block(self, layer: int) -> Block:
        """The MLP reader of one layer."""
        return self.blocks[2 * layer + 1]

    @property
    def logits_block(self) -> Block:
        """The reader in front of the final norm."""
        return self.blocks[-1]

    def block_of_reader(self, reader: int) -> Block:
        """The block that holds the reader at this position."""
        layer, within = divmod(reader, self.readers_per_layer)
        return self.blocks[2 * layer + (within == self.readers_per_layer - 1)]

    def block_view(
        self, values: Shaped[Tensor, " edge"], block: Block
    ) -> Shaped[Tensor, "reader writer"]:
        """The slice of a flat edge vector that belongs to a block, as a matrix; no copy."""
        return values[block.edges].view(block.n_readers, block.n_writers)

    @cached_property
    def edge_writer(self) -> Int[Tensor, " edge"]:
        """Writer index of each edge."""
        return torch.cat([torch.arange(b.n_writers).repeat(b.n_readers) for b in self.blocks])

    @cached_property
    def edge_reader(self) -> Int[Tensor, " edge"]:
        """Reader index of each edge."""
        readers = torch.arange(self.n_readers)
        return torch.cat([readers[b.readers].repeat_interleave(b.n_writers) for b in self.blocks])

    @cached_property
    def reader_layer(self) -> Int[Tensor, " reader"]:
        """Layer of each reader; `n_layers` for the logits."""
        return torch.tensor([b.layer for b in self.blocks for _ in range(b.n_readers)])

    @cached_property
    def writer_layer(self) -> Int[Tensor, " writer"]:
        """Layer of each writer; -1 for the input."""
        per_layer = torch.arange(self.n_layers).repeat_interleave(self.n_heads + 1)
        return torch.cat([torch.tensor([-1]), per_layer])

    @cached_property
    def reader_kind(self) -> tuple[str, ...]:
        """`q`, `k`, `v`, `mlp` or `logits` for each reader."""
        ports = "q" * self.n_heads + "k" * self.n_kv_readers + "v" * self.n_kv_readers
        return (*([*ports, "mlp"] * self.n_layers), "logits")

    def heads_of_reader(self, reader: int) -> range:
        """Writers (heads) that this attention reader feeds; the MLP writer for an MLP reader.

        Empty for `logits`. A KV reader feeds every query head of its group; see also `coupled`.
        """
        layer, within = divmod(reader, self.readers_per_layer)
        if layer == self.n_layers:
            return range(0)
        if within == self.readers_per_layer - 1:
            return range(self.mlp_writer(layer), self.mlp_writer(layer) + 1)
        if self.coupled and within < self.n_heads + self.n_kv_readers:
            start, size = 0, self.n_heads
        elif within < self.n_heads:
            start, size = within, 1
        else:
            size = self.n_heads // self.n_kv_readers
            start = (within - self.n_heads) % self.n_kv_readers * size
        return range(first := self.head_writer(layer, start), first + size)

    @cached_property
    def group_of_ungrouped(self) -> Int[Tensor, " edge_ungrouped"]:
        """For each edge of `ungrouped()`, the position of the edge here that carries it."""
        group = self.n_heads // self.n_kv_readers
        kv = torch.arange(self.n_kv_readers).repeat_interleave(group)
        readers = (torch.arange(self.n_heads), self.n_heads + kv)
        rows = torch.cat([*readers, self.n_heads + self.n_kv_readers + kv])
        flat = torch.arange(self.n_edges)
        parts = [
            self.block_view(flat, b)[rows].reshape(-1) if b.kind == "attention" else flat[b.edges]
            for b in self.blocks
        ]
        return torch.cat(parts)

    def ungroup(self, values: Shaped[Tensor, " edge"]) -> Shaped[Tensor, " edge_ungrouped"]:
        """Values over `ungrouped().edges`: a KV reader's edge is repeated for its query heads."""
        return values[self.group_of_ungrouped.to(values.device)]
