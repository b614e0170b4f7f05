"""Optimal ablation: the constants that cost least when writers are cut."""

from collections.abc import Sequence
from dataclasses import fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.cut_run import cut_logits
from circuitprune.metrics import kl_divergence
from circuitprune.models.ports import Ports

STEPS, PAIRS = 50, 8
"""Of the optimiser, and pairs in each step: what a few seconds pay for on a small model."""
RATE = 0.1
"""Peak learning rate, in the spread of what a writer writes; it falls linearly."""


def optimal_constants(
    ports: Ports,
    batches: Sequence[Batch],
    means: Float[Tensor, "writer d_model"],
    spread: Float[Tensor, " writer"],
    steps: int = STEPS,
) -> Float[Tensor, "writer d_model"]:
    """A constant for each writer that minimises the KL from the model to the model cut.

    `min_a E KL(M(x) || M(x; writers in C write a))` over the clean prompts and over random sets C:
    for each example a share drawn from [0, 1], and each writer in C by that chance, so that sets of
    one and sets of all both count, as circuits of every size need it. By Adam, from the means,
    `PAIRS` pairs a step, one after the other; the draws depend on the step alone.

    Args:
        ports: Of the model.
        batches: The training pairs, where the model is; the corrupt prompts are not looked at.
        means: Where the constants start.
        spread: Root mean square of each writer's output around its mean, per coordinate.
        steps: Of the optimiser; 0 gives the means.

    Source: Li and Janson 2024, "Optimal ablation for interpretability" (arXiv 2409.09951); theirs
    minimises over sets of one component, or with a circuit's own.
    """
    exact = torch.promote_types(means.dtype, torch.float32)
    start, scale = means.to(exact), spread.to(exact).clamp(min=1e-6).unsqueeze(1)
    offset = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([offset], lr=RATE)
    parts = [part for batch in batches for part in _parts(batch)]
    for step in range(steps):
        batch = parts[step % len(parts)]
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        cut = random_cuts(len(batch), len(means), step).to(means.device)
        with torch.enable_grad():
            loss = cut_cost(ports, batch, start + scale * offset, cut).mean()
            (offset.grad,) = torch.autograd.grad(loss, offset)
        optimizer.step()
    return (start + scale * offset).detach().to(means.dtype)


def cut_cost(
    ports: Ports,
    batch: Batch,
    constants: Float[Tensor, "writer d_model"],
    cut: Bool[Tensor, "batch writer"],
) -> Float[Tensor, " batch"]:
    """KL from the model to the model with some writers cut, on the clean prompts, in nats."""
    prompts = batch.clean_prompts
    with torch.no_grad():
        full = cut_logits(ports, prompts, constants, torch.zeros_like(cut))
    return kl_divergence(full, cut_logits(ports, prompts, constants, cut))


def _parts(batch: Batch) -> list[Batch]:
    """A batch as several of at most `PAIRS` pairs."""
    names = [field.name for field in fields(Batch)]
    return [
        Batch(**{name: getattr(batch, name)[first : first + PAIRS] for name in names})
        for first in range(0, len(batch), PAIRS)
    ]


def random_cuts(n_batch: int, n_writers: int, step: int) -> Bool[Tensor, "batch writer"]:
    """For each example the writers that are cut, at least one."""
    generator = torch.Generator().manual_seed(step)
    share = torch.rand(n_batch, 1, generator=generator)
    cut = torch.rand(n_batch, n_writers, generator=generator) < share
    one = torch.randint(n_writers, (n_batch,), generator=generator)
    cut[torch.arange(n_batch), one] |= ~cut.any(dim=1)
    return cut
