"""A check at load time that the gated model is the model: silent errors become loud ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor

from circuitprune.circuits.part_graph import PartGraph
from circuitprune.engine.feature_sites import places_of
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.progress import Progress, silent
from circuitprune.engine.sites import Edit, Slices, edited
from circuitprune.errors import ModelError
from circuitprune.metrics import kl_divergence

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest error accepted, relative to the spread of the logits, by the model's dtype."""
_ROUNDINGS = 4.0
"""What is accepted beyond that, in units of what one rounding of the stream in each layer costs."""


PROMPTS, LENGTH = 3, 8
FORWARDS = 11
"""What the check costs, in forwards of its prompts; six of them are under gates."""


@torch.no_grad()
def self_check(gated: GatedModel, seed: int = 0, progress: Progress = silent) -> None:
    """Run four laws on three random prompts of 8 tokens, in `FORWARDS` forwards of them.

    All gates open must give the model's own logits; all gates closed those of the corrupt prompt;
    closing one head's out-edges must equal patching that head at its output projection; closing a
    query, key or value reader must change its own heads alone, and at the first position, where a
    head can only attend to itself, only through the value.

    Of gates on parts, the first two, and that closing all parts of one MLP is patching its output:
    nobody reads another stream than the others, so there are no readers to close.

    Args:
        gated: The model under gates.
        seed: Of the prompts.
        progress: Told the checks that are done.

    Raises:
        ModelError: which law failed, by how much, for which family: the declaration of the family
            does not fit this model, so every number would be wrong.
    """
    laws = _Laws(gated, seed)
    checks: list[Callable[[], None]] = [laws.open, laws.closed, laws.one_head]
    if isinstance(gated, GatedParts):
        whole = gated.opens and gated.closes
        checks = [laws.open] * gated.opens + [laws.closed] * gated.closes + [laws.one_mlp] * whole
    else:
        checks += [partial(laws.reader, kind) for kind in "qkv"]
    progress(0, len(checks))
    for done, check in enumerate(checks, start=1):
        check()
        progress(done, len(checks))


class _Laws:
    """Prompts, their plain runs, and the laws that gated runs must keep to.

    Args:
        gated: The model under gates.
        seed: Of the prompts.

    Attributes:
        layer, head: Where a head is patched and readers are closed.
        values: What that layer's output projection gets with all gates open.
    """

    def __init__(self, gated: GatedModel, seed: int) -> None:
        self.gated, self.graph = gated, gated.graph
        generator = torch.Generator().manual_seed(seed)
        config = gated.model.config.get_text_config()
        shape = (PROMPTS, min(LENGTH, getattr(config, "max_position_embeddings", LENGTH)))
        clean = torch.randint(0, config.vocab_size, shape, generator=generator)
        self.clean = clean.to(gated.device)
        # another token everywhere
        self.corrupt = (self.clean + config.vocab_size // 2) % config.vocab_size
        self.mask = torch.ones_like(self.clean, dtype=torch.bool)
        self.layer, self.head = self.graph.n_layers // 2, self.graph.n_heads - 1
        self.output = gated.ports.layers[self.layer].output
        self.ablated = gated.record(self.corrupt, self.mask)
        self.full = gated.plain(self.clean, self.mask)
        self.compare = _judge(gated, self.full, self.clean, self.mask)
        self.values = self.ablated.new_empty(0)

    def open(self) -> None:
        """All gates open: the model's own logits."""
        logits, self.values = self._gated()
        self.compare("all gates open", logits, self.full)

    def closed(self) -> None:
        """All gates closed: those of the corrupt prompt."""
        gates = torch.zeros(self.graph.n_edges, device=self.gated.device)
        closed = self.gated(gates, self.clean, self.mask, self.ablated)
        with self._seen() as seen:
            corrupt = self.gated.plain(self.corrupt, self.mask)
        self.corrupt_values = seen[0]
        self.compare("all gates closed", closed, corrupt)

    def one_head(self) -> None:
        """One head's out-edges closed: that head patched in the untouched model."""
        cut, _ = self._gated(self.graph.edge_writer, self.graph.head_writer(self.layer, self.head))
        columns = slice(
            self.head * self.gated.ports.d_head, (self.head + 1) * self.gated.ports.d_head
        )

        def patch(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            values = args[0].clone()
            values[..., columns] = self.corrupt_values[..., columns]
            return (values, *args[1:])

        with self.output.register_forward_pre_hook(patch):
            patched = self.gated.plain(self.clean, self.mask)
        self.compare(f"out-edges of a{self.layer}.h{self.head} closed", cut, patched)

    def one_mlp(self) -> None:
        """All parts of an MLP closed: its output patched in the untouched model."""
        gated, graph, name = self.gated, self.graph, f"m{self.layer}"
        assert isinstance(gated, GatedParts) and isinstance(graph, PartGraph)
        mine = torch.tensor([cut.of == name for cut in graph.cuts])[graph.edge_cut]
        cut, _ = self._gated(mine.long(), 1)
        module, side = places_of(gated.ports)[name]
        place, seen = Slices(module, side, 1, graph.d_model), list[Tensor]()

        def run(tokens: Tensor, edit: Edit) -> Tensor:
            forward = edited(place, module.forward, len(tokens), edit)
            with gated.ports.intercept([(module, "forward", forward)]):
                return gated.ports.run(tokens, self.mask, None)

        run(self.corrupt, lambda now: seen.append(now) or now)  # type: ignore[func-returns-value]
        self.compare(f"all parts of {name} closed", cut, run(self.clean, lambda _: seen[0]))

    def reader(self, kind: str) -> None:
        """One attention reader closed: its own heads change, and the first position only by v."""
        graph = self.graph
        first = graph.attention_block(self.layer).first_reader
        reader = first + self.head + "qkv".index(kind) * graph.n_kv_readers
        own = torch.zeros(graph.n_heads, dtype=torch.bool, device=self.gated.device)
        writers = torch.tensor(graph.heads_of_reader(reader), device=own.device)
        own[writers - graph.head_writer(self.layer, 0)] = True
        _, values = self._gated(graph.edge_reader, reader)
        change = (values - self.values).unflatten(-1, (graph.n_heads, -1)).abs().amax(-1)
        moved = change > 1e-5 * self.values.std()
        at_first = own & (kind == "v")
        chooses = self.gated.ports.family.sinks and kind != "v"  # where to look, already there
        first_fits = chooses or torch.equal(moved[:, 0].any(0), at_first)
        if torch.equal(moved.any(1).any(0), own) and first_fits:
            return
        finding = f"{graph.readers[reader]} closed, other heads or positions change than its own"
        _refuse(self.gated, finding)

    # ---------------------------------------------------------------- runs

    def _gated(self, of: Tensor | None = None, number: int = 0) -> tuple[Tensor, Tensor]:
        """Logits, and what the output projection got, with one writer's or reader's edges closed.

        Args:
            of: Writer or reader of each edge; None closes none.
            number: Which.
        """
        gates = torch.ones(self.graph.n_edges, device=self.gated.device)
        if of is not None:
            gates[of.to(gates.device) == number] = 0
        with self._seen() as seen:
            logits = self.gated(gates, self.clean, self.mask, self.ablated)
        return logits, seen[0]

    @contextmanager
    def _seen(self) -> Iterator[list[Tensor]]:
        """What the output projection gets while this lasts."""
        seen: list[Tensor] = []
        with self.output.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
            yield seen


Compare = Callable[[str, Tensor, Tensor], None]
"""Refuses the logits of a law that are not what was expected."""


def _judge(gated: GatedModel, full: Tensor, clean: Tensor, mask: Tensor) -> Compare:
    """How far logits may be off: by their spread, or by the model's own rounding where it is large.

    That rounding is what the same model's logits move by when its stream is rounded once more in
    each layer: much where a common offset lies on the stream. With 8 bits of precision a sound
    model's logits move by a quarter of their spread, so there the limit is in nats.
    """
    again = _rounded_again(gated, clean, mask)
    if gated.dtype in _TOLERANCE:
        own = _ROUNDINGS * _distance(again, full)
        return partial(_compare_logits, gated, max(_TOLERANCE[gated.dtype], own))
    moved = kl_divergence(full.flatten(0, 1), again.flatten(0, 1)).mean()
    return partial(_compare_predictions, gated, _ROUNDINGS * moved.item() + 1e-6)


def _distance(got: Tensor, expected: Tensor) -> float:
    """The largest difference of logits, in units of their spread."""
    return ((got - expected).abs().max() / expected.std().clamp(min=1e-12)).item()


def _compare_logits(
    gated: GatedModel, limit: float, law: str, got: Tensor, expected: Tensor
) -> None:
    error = _distance(got, expected)
    if not error <= limit:  # a NaN fails too
        text = f"off by {error:.2g} of the logits' spread (limit {limit:.2g})"
        _refuse(gated, f"{law}, the gated model is {text}")


def _compare_predictions(
    gated: GatedModel, limit: float, law: str, got: Tensor, expected: Tensor
) -> None:
    error = kl_divergence(expected.flatten(0, 1), got.flatten(0, 1)).mean()
    if not bool(error <= limit):
        text = f"{error.item():.2g} nats from it (limit {limit:.2g}, by the model's own rounding)"
        _refuse(gated, f"{law}, the gated model is {text}")


def _rounded_again(gated: GatedModel, clean: Tensor, mask: Tensor) -> Tensor:
    """The model's logits when what enters each layer is off by a rounding, drawn at random."""
    generator, eps = torch.Generator().manual_seed(0), torch.finfo(gated.dtype).eps

    def off(_: torch.nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
        stream, *others = args
        assert isinstance(stream, Tensor)
        noise = torch.rand(stream.shape, generator=generator).sub_(0.5).to(gated.device)
        precise = torch.promote_types(stream.dtype, torch.float32)
        return ((stream.to(precise) * (1 + eps * noise)).to(stream.dtype), *others)

    with ExitStack() as hooks:
        for block in gated.ports.blocks:
            hooks.enter_context(block.register_forward_pre_hook(off))
        return gated.plain(clean, mask)


def _refuse(gated: GatedModel, finding: str) -> None:
    family = gated.model.config.get_text_config().model_type
    raise ModelError(
        f"self-check failed for family {family!r}: with {finding}. The family's declaration does "
        "not fit this model, or its weights are not finite, so no number would be right. Check the "
        "weights and the installed transformers; see docs/extending.md."
    )
