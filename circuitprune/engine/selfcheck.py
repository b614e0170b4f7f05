"""A check at load time that the gated model is the model: silent errors become loud ones."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.engine.gated import GatedModel
from circuitprune.engine.progress import Progress, silent
from circuitprune.errors import ModelError
from circuitprune.metrics import kl_divergence

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest error accepted, relative to the spread of the logits, by the model's dtype."""
_ROUNDINGS = 4.0
"""What is accepted beyond that, in units of what one rounding of the stream in each layer costs."""


@torch.no_grad()
def self_check(gated: GatedModel, seed: int = 0, progress: Progress = silent) -> None:
    """Run four laws on three short random prompts, a few forwards in all.

    All gates open must give the model's own logits; all gates closed those of the corrupt prompt;
    closing one head's out-edges must equal patching that head at its output projection; closing a
    query, key or value reader must change its own heads alone, and at the first position, where a
    head can only attend to itself, only through the value.

    Args:
        gated: The model under gates.
        seed: Of the prompts.
        progress: Told the checks that are done.

    Raises:
        ModelError: which law failed, by how much, for which family: the declaration of the family
            does not fit this model, so every number would be wrong.
    """
    n_checks = 6
    progress(0, n_checks)
    generator = torch.Generator().manual_seed(seed)
    config = gated.model.config.get_text_config()
    shape = (3, min(8, getattr(config, "max_position_embeddings", 8)))
    clean = torch.randint(0, config.vocab_size, shape, generator=generator).to(gated.device)
    corrupt = (clean + config.vocab_size // 2) % config.vocab_size  # another token everywhere
    mask = torch.ones_like(clean, dtype=torch.bool)
    ablated = gated.record(corrupt, mask)
    gates = torch.ones(gated.graph.n_edges, device=gated.device)
    full = gated.plain(clean, mask)
    compare = _judge(gated, full, clean, mask)
    compare("all gates open", gated(gates, clean, mask, ablated), full)
    progress(1, n_checks)
    empty = gated(torch.zeros_like(gates), clean, mask, ablated)
    compare("all gates closed", empty, gated.plain(corrupt, mask))
    progress(2, n_checks)
    layer, head = gated.graph.n_layers // 2, gated.graph.n_heads - 1
    writer = gated.graph.head_writer(layer, head)
    gates[gated.graph.edge_writer.to(gated.device) == writer] = 0
    cut = gated(gates, clean, mask, ablated)
    patched = _patch_head(gated, layer, head, clean, corrupt, mask)
    compare(f"out-edges of a{layer}.h{head} closed", cut, patched)
    progress(3, n_checks)
    n_kv, first = gated.graph.n_kv_readers, gated.graph.attention_block(layer).first_reader
    for done, reader in enumerate((head, head + n_kv, head + 2 * n_kv), start=4):
        _check_reader(gated, first + reader, clean, ablated)
        progress(done, n_checks)


def _check_reader(gated: GatedModel, reader: int, clean: Tensor, ablated: Tensor) -> None:
    """Closing one attention reader must change its own heads, and the first position only by v."""
    graph, mask = gated.graph, torch.ones_like(clean, dtype=torch.bool)
    layer, kind = int(graph.reader_layer[reader]), graph.reader_kind[reader]
    first = graph.head_writer(layer, 0)
    own = torch.zeros(graph.n_heads, dtype=torch.bool, device=gated.device)
    own[[writer - first for writer in graph.heads_of_reader(reader)]] = True
    seen: list[Tensor] = []
    output = gated.ports.layers[layer].output
    with output.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        gates = torch.ones(graph.n_edges, device=gated.device)
        gated(gates, clean, mask, ablated)
        gates[graph.edge_reader.to(gated.device) == reader] = 0
        gated(gates, clean, mask, ablated)
    change = (seen[1] - seen[0]).unflatten(-1, (graph.n_heads, -1)).abs().amax(-1)
    moved = change > 1e-5 * seen[0].std()
    expected_first = own & (kind == "v")
    if torch.equal(moved.any(1).any(0), own) and torch.equal(moved[:, 0].any(0), expected_first):
        return
    _refuse(gated, f"{graph.readers[reader]} closed, other heads or positions change than its own")


def _patch_head(
    gated: GatedModel, layer: int, head: int, clean: Tensor, corrupt: Tensor, mask: Tensor
) -> Float[Tensor, "batch pos vocab"]:
    """Plain activation patching by a hook on the untouched model's output projection."""
    output = gated.ports.layers[layer].output
    seen: list[Tensor] = []
    columns = slice(head * gated.ports.d_head, (head + 1) * gated.ports.d_head)
    with output.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        gated.plain(corrupt, mask)

    def patch(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = args[0].clone()
        values[..., columns] = seen[0][..., columns]
        return (values, *args[1:])

    with output.register_forward_pre_hook(patch):
        return gated.plain(clean, mask)


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
