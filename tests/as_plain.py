"""What must hold of a model in whatever form it comes: it is the plain model, under gates too."""

from copy import deepcopy
from functools import cache

import torch
from conftest import random_batch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from circuitprune.data.pairs import Batch
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.selfcheck import self_check
from circuitprune.engine.tapped import edge_scores

NOTHING = torch.zeros(3, 1, dtype=torch.long)
BATCH = Batch(torch.arange(3), *random_batch([9, 7, 6], seed=3), NOTHING, NOTHING)


def difference(logits: Tensor, batch: Batch | None = None) -> Tensor:
    """A metric."""
    return logits[:, 5] - logits[:, 11]


def gradients(gated: GatedModel) -> tuple[Tensor, Tensor]:
    """Of the gates, in between; and the scores of EAP."""
    ablated = gated.record(BATCH.corrupt, BATCH.mask)
    gates = torch.full((gated.graph.n_edges,), 0.7, dtype=gated.dtype, requires_grad=True)
    logits = gated(gates, BATCH.clean, BATCH.mask, ablated, BATCH.last)
    (gradient,) = torch.autograd.grad(difference(logits).sum(), gates)
    return gradient, edge_scores(gated, BATCH, difference, ablated)


@cache
@torch.no_grad()
def of_plain(plain: PreTrainedModel) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """A plain model's own logits of clean and corrupt prompts, and its gradients."""
    model, mask = deepcopy(plain), BATCH.mask.long()
    logits = [model(tokens, attention_mask=mask).logits for tokens in (BATCH.clean, BATCH.corrupt)]
    with torch.enable_grad():
        return logits, gradients(GatedModel(model))


def check_is_plain(given: nn.Module, plain: PreTrainedModel, **rounding: float) -> GatedModel:
    """Laws 1 and 2, the self-check, and gradients against those of the plain model.

    Args:
        given: The model as a user has it.
        plain: The same weights in eval, from a config; is left alone.
        rounding: Of weights that are not the same to the bit, as `assert_close` takes it; by
            default float64's, and gradients the same but for the order of sums.
    """
    gated, tolerance = GatedModel(given), rounding or dict(rtol=1e-5, atol=1e-5)
    self_check(gated)
    logits, own_gradients = of_plain(plain)
    ablated = gated.record(BATCH.corrupt, BATCH.mask)
    for gate, expected in zip((1.0, 0.0), logits, strict=True):
        gates = torch.full((gated.graph.n_edges,), gate, dtype=gated.dtype)
        found = gated(gates, BATCH.clean, BATCH.mask, ablated)
        assert_close(BATCH.mask[..., None] * found, BATCH.mask[..., None] * expected, **tolerance)
    for found, own in zip(gradients(gated), own_gradients, strict=True):
        scale = own.abs().max()
        assert scale > 0
        assert_close(found / scale, own / scale, **(rounding or dict(rtol=0, atol=1e-12)))
    return gated
