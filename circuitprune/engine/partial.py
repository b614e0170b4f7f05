"""A pass through Hugging Face's own modules of which only a part does anything.

Only the readers that a change can reach compute; all others keep their values of an earlier, whole
pass. With everything reached, this is that whole pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuitprune.circuits.graph import Block, Graph
from circuitprune.data.pairs import Batch
from circuitprune.models.changes import Branch, Change, Forward, Output
from circuitprune.models.ports import Ports

Changes = list[Change]


@dataclass(frozen=True)
class Reach:
    """What a change can change: readers as rows of their blocks, and writers."""

    rows: dict[Block, Int[Tensor, " row"]]
    """Blocks without such readers are left out."""
    writers: Int[Tensor, " writer"]
    """In forward order."""

    def in_front_of(self, block: Block) -> Int[Tensor, " writer"]:
        """The writers that a block's readers can see."""
        return self.writers[self.writers < block.n_writers]


def everything(graph: Graph, device: torch.device) -> Reach:
    """All readers and writers."""
    rows = {block: torch.arange(block.n_readers, device=device) for block in graph.blocks}
    return Reach(rows, torch.arange(graph.n_writers, device=device))


def reach_of(
    graph: Graph, kept: Bool[Tensor, " edge"], changed: Bool[Tensor, " reader"], needed: int = 0
) -> Reach:
    """All that lies downstream of the changed readers, they included, along kept edges.

    Left out are readers of heads and MLPs that no kept edge leaves: what these write is read by
    nobody. The first `needed` writers count as read.
    """
    read = torch.arange(graph.n_writers, device=kept.device) < needed
    read[graph.edge_writer.to(kept.device)[kept]] = True
    touched, rows = torch.zeros_like(read), {}
    for block in graph.blocks:
        sees = (graph.block_view(kept, block) & touched[: block.n_writers]).any(dim=1)
        sees |= changed[block.readers]
        reached = []
        for row in sees.nonzero().flatten().tolist():
            fed = list(graph.heads_of_reader(block.first_reader + row))
            if not fed or bool(read[fed].any()):
                touched[fed] = True
                reached.append(row)
        if reached:
            rows[block] = torch.tensor(reached, device=kept.device)
    return Reach(rows, touched.nonzero().flatten())


Heads = dict[int, Float[Tensor, "reader token d_head"]]
"""Queries, keys and values of layers: of a pass before, for what is not reached in another."""


def looks_at_answers(graph: Graph, block: Block) -> bool:
    """Whether nothing but the answer positions of a block's input matters."""
    return block.kind != "attention" and block in graph.blocks[-2:]


def at_answers(
    chunks: Float[Tensor, "... token d_model"], last: Int[Tensor, " batch"]
) -> Float[Tensor, "... batch d_model"]:
    """The answer positions of examples that lie one after the other along `token`."""
    rows = torch.arange(len(last), device=last.device)
    found: Tensor = chunks.unflatten(-2, (len(last), -1))[..., rows, last, :]
    return found


class PartialRun:
    """One pass for n candidates, stacked along the batch dimension.

    Args:
        ports: Of the model.
        batch: Its clean prompts are run, once for each candidate.
        reach: What to compute.
        n: Candidates.
        read: The residual inputs of a block's reached readers, `[row, token, d_model]`, at all
            positions or, where only they matter, at the answers.
        values: What some writers are compared with, `[writer, token, d_model]`.
        shift: Filled with what each reached writer writes minus its value.
        slots: Where in `shift` each reached writer has its place.
        kept: Of an earlier pass, for what is not reached; `logits` can add to it.
    """

    def __init__(
        self,
        ports: Ports,
        batch: Batch,
        reach: Reach,
        n: int,
        read: Callable[[Block], Float[Tensor, "row token d_model"]],
        values: Callable[[list[int]], Float[Tensor, "writer token d_model"]],
        shift: Float[Tensor, "reached stacked d_model"],
        slots: dict[int, int],
        kept: Heads,
    ) -> None:
        self.ports, self.graph, self.batch, self.reach = ports, ports.graph, batch, reach
        self.n, self.read, self.values, self.shift, self.slots = n, read, values, shift, slots
        self.kept, self.keep = kept, False
        self.n_batch, self.n_pos = n * len(batch), batch.clean.shape[1]
        self.pending: dict[nn.Module, Tensor] = {}

    def logits(self, keep: bool = False) -> Float[Tensor, "_ vocab"]:
        """Logits at the answer positions of all candidates, one after the other.

        Args:
            keep: Put the queries, keys and values of this pass into `kept`.
        """
        self.keep = keep
        _ = self.ports.more_returned  # asked of the model while it is untouched
        with self.ports.intercept(self._changes()):
            return self.ports.run(*self.batch.clean_prompts.repeat(self.n))

    # ---------------------------------------------------------------- interception

    def _changes(self) -> Changes:
        """The forwards to replace: layers out of reach pass their input on, norms see nothing."""
        changes: Changes = [*self.ports.ungrouping()]
        for layer, module in enumerate(self.ports.blocks):
            ports = self.ports.layers[layer]
            attention = self.graph.attention_block(layer) in self.reach.rows
            mlp = self.graph.mlp_block(layer) in self.reach.rows
            if not attention and not mlp:
                changes.append((module, "forward", self.ports.pass_over))
                continue
            changes += self._attention(layer) if attention else self._skip(ports.attention)
            changes += self._mlp(layer) if mlp else self._skip(ports.mlp)
            for norm in (ports.attention_norm, ports.mlp_norm):
                changes.append((norm, "forward", _pass_on))
        final = self.ports.final_norm
        if 0 in self.slots:
            changes.append(self._entrance(changes))
        return [*changes, (final, "forward", self._leave(final.forward))]

    def _entrance(self, changes: Changes) -> Change:
        """The first layer, which may pass its input on already, with its input stored."""
        first = self.ports.first_layer
        replaced = any(module is first for module, _, _ in changes)
        forward: Branch = self.ports.pass_over if replaced else first.forward

        def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            torch.sub(hidden.flatten(0, 1), self.values([0])[0], out=self.shift[0])
            return forward(hidden, *args, **kwargs)

        return first, "forward", first_layer

    def _leave(self, forward: Forward) -> Forward:
        def final_norm(hidden: Tensor) -> Tensor:
            stream = self.read(self.graph.logits_block)
            return forward(stream[0]).unsqueeze(1).expand_as(hidden)

        return final_norm

    def _skip(self, module: nn.Module) -> Changes:
        """A branch that adds nothing: none of its readers is reached."""

        def nothing(*_args: object, **_kwargs: object) -> Output:
            return self._nothing(module)

        return [(module, "forward", nothing)]

    def _nothing(self, module: nn.Module) -> Output:
        """A branch's result whose output is zeros, in the form in which the module returned it."""
        return self.ports.returned(module, self._zeros())

    def _zeros(self) -> Float[Tensor, "stacked pos d_model"]:
        zeros = self.shift.new_zeros(()).expand(self.n_batch, self.n_pos, self.graph.d_model)
        return self.ports.writable(zeros)

    # ---------------------------------------------------------------- attention

    def _attention(self, layer: int) -> Changes:
        ports = self.ports.layers[layer]
        norm = ports.attention_norm.forward
        projections = [(m, "forward", self._projection(layer, m, norm)) for m in ports.projections]
        return [
            *projections,
            (ports.output, "forward", self._output(layer)),
        ]

    def _projection(self, layer: int, module: nn.Module, norm: Forward) -> Forward:
        def projection(_hidden: Tensor) -> Tensor:
            if module not in self.pending:
                joined = self.ports.join(self._heads(layer, norm))
                for one, part in zip(self.ports.layers[layer].projections, joined, strict=True):
                    self.pending[one] = part.unflatten(0, (self.n_batch, self.n_pos))
            return self.pending.pop(module)

        return projection

    def _heads(self, layer: int, norm: Forward) -> Float[Tensor, "reader token d_head"]:
        """q, k and v of every reader of a layer: the kept ones, and new ones where reached."""
        block = self.graph.attention_block(layer)
        rows, inputs = self.reach.rows[block], norm(self.read(block))
        if layer in self.kept:
            heads = self.kept[layer].repeat(1, self.n, 1)
        else:
            heads = inputs.new_empty(block.n_readers, inputs.shape[1], self.ports.d_head)
        if self.keep:
            self.kept[layer] = heads
        first = 0
        for projection in self.ports.projections(layer):
            here = (rows >= first) & (rows < first + len(projection.weight))
            own = rows[here] - first
            values = torch.bmm(inputs[here], projection.weight[own])
            if projection.bias is not None:
                values += projection.bias[own].unsqueeze(1)
            heads[rows[here]] = values
            first += len(projection.weight)
        return heads

    def _output(self, layer: int) -> Forward:
        first = self.graph.head_writer(layer, 0)
        heads = [head for head in range(self.graph.n_heads) if first + head in self.slots]
        writers = [first + head for head in heads]

        def output(values: Tensor) -> Tensor:
            weight = self.ports.head_weight(layer)
            by_head = values.flatten(0, 1).unflatten(1, (len(weight), -1)).transpose(0, 1)
            written = torch.bmm(by_head[heads], weight[heads])
            known = self.values(writers)
            written.view(len(heads), self.n, *known.shape[1:]).sub_(known.unsqueeze(1))
            self.shift[[self.slots[writer] for writer in writers]] = written
            return self._zeros()

        return output

    # ---------------------------------------------------------------- MLPs

    def _mlp(self, layer: int) -> Changes:
        ports, block = self.ports.layers[layer], self.graph.mlp_block(layer)
        writer, forward, norm = (
            self.graph.mlp_writer(layer),
            ports.mlp.forward,
            ports.mlp_norm.forward,
        )

        def mlp(_hidden: Tensor) -> Output:
            (inputs,) = self.read(block)
            result = forward(norm(inputs).view(self.n_batch, -1, self.graph.d_model))
            written = ports.mlp_writes(result, self.n_batch)
            self._write(block, writer, written.flatten(0, 1))
            return self._nothing(ports.mlp)

        return [(ports.mlp, "forward", mlp)]

    def _write(self, block: Block, writer: int, written: Float[Tensor, "token d_model"]) -> None:
        """Store how far one writer is from its known value, where anybody looks."""
        into, known = self.shift[self.slots[writer]], self.values([writer])[0]
        if not looks_at_answers(self.graph, block):
            torch.sub(
                written.view(self.n, *known.shape), known, out=into.view(self.n, *known.shape)
            )
            return
        known = at_answers(known, self.batch.last).repeat(self.n, 1)
        last = self.batch.last.repeat(self.n)
        rows = torch.arange(self.n_batch, device=last.device)
        into.view(self.n_batch, self.n_pos, -1)[rows, last] = written - known


def _pass_on(hidden: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    return hidden
