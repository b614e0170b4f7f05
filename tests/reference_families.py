"""The slow truth for any family: hooks on an untouched Hugging Face model, and nothing written out.

The package says where things are (`GatedModel.ports`: modules, in order) and how edges are called
(`Graph`); every number is the model's own. Whatever lies between a writer and a reader, a norm on
either side, a multiplier, the order of a layer's branches, is what its layers do when

* the stream that enters the first layer,
* what enters each output projection, head by head, and
* what leaves each MLP, behind its norm if it has one,

are replaced by the mixture of two runs that one reader is to see. All readers of a block run at
once, stacked along the batch. Which outputs of a projection are whose is found by trying
(`Untouched.columns`), not by the declared layout.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from circuitprune.circuits.graph import Block, Graph
from circuitprune.engine.gated import GatedModel

PROMPTS = [[7, 30, 12, 45, 9, 21], [11, 52, 33, 4, 28, 40], [19, 5, 47, 36, 14, 8]]
"""More than one, since an output may happen to be next to nothing on one."""

Change = Callable[[Tensor], Tensor | None]
"""What a place's value becomes, as `[batch, pos, width]`; None leaves it."""


class Place(NamedTuple):
    """A module's first input, or its output."""

    module: Module
    side: str


class Written(NamedTuple):
    """What the writers of a run wrote, in the terms of the model's own modules."""

    entering: Tensor
    heads: list[Tensor]
    """Each `[batch, pos, head, d_head]`, in front of the output projection."""
    mlps: list[Tensor]

    def minus(self, other: "Written") -> "Written":
        """As far as both have come."""
        heads = [a - b for a, b in zip(self.heads, other.heads, strict=False)]
        mlps = [a - b for a, b in zip(self.mlps, other.mlps, strict=False)]
        return Written(self.entering - other.entering, heads, mlps)

    def of(self, kind: str, layer: int) -> Tensor:
        """What the embeddings ("input"), the heads of a layer or its MLP wrote."""
        return {"input": [self.entering], "heads": self.heads, "mlp": self.mlps}[kind][layer]


class Column(NamedTuple):
    """Whose one output of a projection is: a port, and the heads that it serves."""

    port: str
    heads: tuple[int, ...]


class Enough(Exception):
    """Raised once a run has shown what it was for."""


@contextmanager
def at(place: Place, shape: torch.Size, change: Change) -> Iterator[None]:
    """While a run of `[batch, pos]` tokens lasts, a place holds what `change` makes of it."""

    def changed(value: Tensor | tuple) -> Tensor | tuple:
        first = value if isinstance(value, Tensor) else value[0]
        new = change(first.reshape(*shape, -1))
        # a copy: some layers add into what they are given
        new = first if new is None else new.reshape(first.shape).clone()
        return new if isinstance(value, Tensor) else (new, *value[1:])

    def before(_: Module, args: tuple, kwargs: dict) -> tuple:
        if args:
            return changed(args), kwargs
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, {**kwargs, name: changed(kwargs[name])}

    if place.side == "in":
        hook = place.module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        hook = place.module.register_forward_hook(lambda _, __, output: changed(output))
    try:
        yield
    finally:
        hook.remove()


class Untouched:
    """A model of any family seen through hooks.

    Args:
        gated: Says where the modules are, and how edges are called.
    """

    def __init__(self, gated: GatedModel) -> None:
        self.model, self.graph = gated.model, gated.graph
        layers = gated.ports.layers
        self.entering = Place(gated.ports.blocks[0], "in")
        self.leaving = Place(gated.ports.final_norm, "in")
        self.outputs = [Place(layer.output, "in") for layer in layers]
        self.projections = [[Place(p, "out") for p in layer.projections] for layer in layers]
        mlps = [getattr(layer.mlp, "modules_of_model", (layer.mlp,)) for layer in layers]
        self.mlp_inputs = [Place(parts[0], "in") for parts in mlps]
        ends = [layer.mlp_post_norm or parts[-1] for layer, parts in zip(layers, mlps, strict=True)]
        self.mlp_ends = [Place(end, "out") for end in ends]

    # ---------------------------------------------------------------- runs

    def logits(self, tokens: Tensor, mask: Tensor, changes: list[tuple[Place, Change]]) -> Tensor:
        """Of a run with some places changed."""
        with ExitStack() as stack:
            for place, change in changes:
                stack.enter_context(at(place, tokens.shape, change))
            padded = None if bool(mask.all()) else mask.long()
            return self.model(input_ids=tokens, attention_mask=padded, use_cache=False).logits

    def seen(
        self,
        tokens: Tensor,
        mask: Tensor,
        places: list[Place],
        changes: list[tuple[Place, Change]] = (),
    ) -> list[Tensor]:
        """What some places hold in a run, before they are changed themselves."""
        found: dict[int, Tensor] = {}

        def keep(number: int, value: Tensor) -> None:
            found[number] = value.clone()
            if len(found) == len(places):
                raise Enough

        looks = [(place, lambda v, i=i: keep(i, v)) for i, place in enumerate(places)]
        try:
            self.logits(tokens, mask, [*looks, *changes])
        except Enough:
            return [found[i] for i in range(len(places))]
        raise AssertionError("a declared module was never called")

    def record(self, tokens: Tensor, mask: Tensor) -> Written:
        """What every writer writes on a plain run."""
        places = [self.entering, *self.outputs, *self.mlp_ends]
        first, *others = self.seen(tokens, mask, places)
        n = self.graph.n_layers
        return Written(first, [self.by_head(z) for z in others[:n]], others[n:])

    def by_head(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.graph.n_heads, -1))

    # ---------------------------------------------------------------- who reads where

    @cached_property
    def columns(self) -> list[list[Column]]:
        """Of the middle layer, for each projection module: whose each of its outputs is, by trying.

        The sign of one output at one position is turned, which no norm over it notices. A query
        moves its own head there and nowhere else; a key or value moves later positions too, a value
        only one feature of each head that it serves.
        """
        layer, spot, prompts = self.graph.n_layers // 2, 2, torch.tensor(PROMPTS)
        places, output = self.projections[layer], self.outputs[layer]
        widths = [v.shape[-1] for v in self.seen(prompts, prompts > 0, places)]
        first = [sum(widths[:i]) for i in range(len(widths))]
        stacked = (sum(widths) + 1, *prompts.shape)

        def turn(values: Tensor, start: int) -> Tensor:
            rows = torch.arange(values.shape[-1])
            turned = values.unflatten(0, stacked[:2]).clone()
            turned[start + rows, :, spot, rows] *= -1
            return turned.flatten(0, 1)

        tokens = prompts.expand(stacked).flatten(0, 1)
        changes = [(p, lambda v, s=s: turn(v, s)) for p, s in zip(places, first, strict=True)]
        (z,) = self.seen(tokens, tokens > 0, [output], changes)
        z = self.by_head(z.unflatten(0, stacked[:2]))
        moved = (z[:-1] - z[-1:]).abs() > 1e-6 * z.std()
        found = [_whose(one) for one in moved.any(1)]
        return [found[s : s + w] for s, w in zip(first, widths, strict=True)]

    def slots(self, reader: int, member: int = 0) -> list[tuple[int, list[int]]]:
        """For an attention reader, the projection modules and the outputs of them that it makes.

        Args:
            reader: Position in the graph.
            member: Of a group of query heads that share a KV head, the one that is looked at.
        """
        block = self.graph.block_of_reader(reader)
        port, place = self.graph.reader_kind[reader], reader - block.first_reader
        n_heads, n_kv = self.graph.n_heads, self.graph.n_kv_readers
        head = place if port == "q" else (place - n_heads) % n_kv * (n_heads // n_kv)
        places = []
        for module, columns in enumerate(self.columns):
            own = [i for i, c in enumerate(columns) if c.port == port and head in c.heads]
            if own and (
                port == "q" or n_kv < n_heads or head % len(columns[own[0]].heads) == member
            ):
                places.append((module, own))
        return places

    @property
    def members(self) -> int:
        """Query heads with a key reader of their own that share a KV head: each needs a run."""
        shared = {len(c.heads) for columns in self.columns for c in columns if c.port == "k"}
        return max(shared) // (self.graph.n_heads // self.graph.n_kv_readers)

    def patches(self, reader: int, value: list[Tensor]) -> list[tuple[Place, Change]]:
        """Changes that give one reader alone what it reads of `value`, as of `at_reader`."""
        places = self.places_of(reader)
        if self.graph.reader_kind[reader] in ("mlp", "logits"):
            return [(places[0], lambda _: value[0])]

        def put(module: int, columns: list[int]) -> Change:
            def change(now: Tensor) -> Tensor:
                now = now.clone()
                now[..., columns] = value[module][..., columns]
                return now

            return change

        return [(places[module], put(module, own)) for module, own in self.slots(reader)]

    def places_of(self, reader: int) -> list[Place]:
        """Where a reader reads: its layer's projections, its MLP or the final norm."""
        layer, kind = int(self.graph.reader_layer[reader]), self.graph.reader_kind[reader]
        if kind == "logits":
            return [self.leaving]
        return [self.mlp_inputs[layer]] if kind == "mlp" else self.projections[layer]

    # ---------------------------------------------------------------- mixtures

    def mixing(self, gates: Tensor, now: Written, other: Written) -> list[tuple[Place, Change]]:
        """Changes by which row r of a stack sees `gates[r]` of one run and the rest of another.

        Args:
            gates: `[row, writer]`; of writers beyond them, nothing is changed.
            now, other: Runs of a batch; the stack has its examples once for each row.
        """
        shape = (-1, 1, 1, 1)

        def mixed(gate: Tensor, a: Tensor, b: Tensor) -> Change:
            value = (gate * a + (1 - gate) * b).flatten(0, 1).flatten(2)
            return lambda _: value

        changes = [(self.entering, mixed(gates[:, 0].view(shape), now.entering, other.entering))]
        for layer in range(self.graph.n_layers):
            heads, mlp = self.graph.heads(layer), self.graph.mlp_writer(layer)
            if mlp <= gates.shape[1]:
                gate = gates[:, heads].view(len(gates), 1, 1, -1, 1)
                value = mixed(gate, now.heads[layer], other.heads[layer])
                changes.append((self.outputs[layer], value))
            if mlp < gates.shape[1]:
                gate = gates[:, mlp].view(shape)
                changes.append(
                    (self.mlp_ends[layer], mixed(gate, now.mlps[layer], other.mlps[layer]))
                )
        return changes

    def at_readers(
        self, block: Block, gates: Tensor, now: Written, other: Written, mask: Tensor
    ) -> list[Tensor]:
        """`[reader, batch, pos, width]` at each of a block's places, each under its own gates."""
        n, (n_batch, n_pos) = len(gates), mask.shape
        tokens = torch.ones(n * n_batch, n_pos, dtype=torch.long)  # the mixture replaces them
        found = self.seen(
            tokens,
            mask.repeat(n, 1),
            self.places_of(block.first_reader),
            self.mixing(gates, now, other),
        )
        return [value.unflatten(0, (n, n_batch)) for value in found]

    def gated_logits(
        self,
        gates: Tensor,
        tokens: Tensor,
        other: Written,
        mask: Tensor,
        held: dict[tuple[str, int], Tensor] | None = None,
        apart: bool = False,
    ) -> Tensor:
        """Logits when every edge carries `gate * now + (1 - gate) * other`; differentiable.

        Args:
            gates: Of every edge.
            tokens, mask: The prompts.
            other: A run of other prompts.
            held: What some writers write instead of what they would: ("heads", 1), ("mlp", 0) ...
            apart: `other` is how far what an edge carries lies from what its writer writes now.
        """
        graph, view, held = self.graph, self.graph.block_view, held or {}
        (entering,) = self.seen(tokens, mask, [self.entering])
        now = Written(held.get(("input", 0), entering), [], [])
        for layer in range(graph.n_layers):
            block = graph.attention_block(layer)
            away = now.minus(other) if apart else other
            found = self.at_readers(block, view(gates, block), now, away, mask)
            z = self._attend(layer, found, tokens, mask)
            now.heads.append(held.get(("heads", layer), z))
            away = now.minus(other) if apart else other
            changes = self.mixing(view(gates, graph.mlp_block(layer)), now, away)
            (mlp,) = self.seen(tokens, mask, [self.mlp_ends[layer]], changes)
            now.mlps.append(held.get(("mlp", layer), mlp))
        away = now.minus(other) if apart else other
        return self.logits(tokens, mask, self.mixing(view(gates, graph.logits_block), now, away))

    def _attend(self, layer: int, found: list[Tensor], tokens: Tensor, mask: Tensor) -> Tensor:
        """What a layer's heads write when each of their projections comes from its own reader."""
        block, written = self.graph.attention_block(layer), []
        for member in range(self.members):
            whole = [torch.zeros_like(value[0]) for value in found]
            for reader in range(block.n_readers):
                for module, own in self.slots(block.first_reader + reader, member):
                    whole[module][..., own] = found[module][reader][..., own]
            changes = [
                (place, lambda _, v=v: v)
                for place, v in zip(self.projections[layer], whole, strict=True)
            ]
            (z,) = self.seen(tokens, mask, [self.outputs[layer]], changes)
            written.append(self.by_head(z))
        own = [written[head % self.members][..., head, :] for head in range(self.graph.n_heads)]
        return torch.stack(own, dim=-2)


def _whose(moved: Tensor) -> Column:
    """Of one output, from where it moved `[pos, head, feature]`."""
    heads = tuple(moved.any(0).any(-1).nonzero().flatten().tolist())
    if int(moved.any(-1).any(-1).sum()) == 1:
        return Column("q", heads)
    one_each = bool((moved.any(0).sum(-1) <= 1).all())
    return Column("v" if one_each else "k", heads)


def some_readers(graph: Graph, layer: int) -> list[int]:
    """One reader of each kind: the last of a layer's, and the logits."""
    first = {kind: reader for reader, kind in enumerate(graph.reader_kind[: graph.n_readers])}
    last = graph.readers_per_layer * (layer + 1)
    kinds = graph.reader_kind[last - graph.readers_per_layer : last]
    start = last - graph.readers_per_layer
    return [*{kind: start + i for i, kind in enumerate(kinds)}.values(), first["logits"]]
