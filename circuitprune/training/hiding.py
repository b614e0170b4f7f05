"""Places of a prompt that part of it does not see, so that training finds the way around them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.data.batches import Batch


@dataclass(frozen=True)
class Hiding:
    """What is hidden from what, in spans of a batch, and for how long."""

    steps: int
    """First steps of the training; all see everything afterwards."""
    places: tuple[int, ...]
    """Spans whose tokens are hidden."""
    beyond: int
    """Span: they are hidden from its first token and from all that follow."""


def attention_mask(
    batch: Batch, hiding: Hiding, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "batch 1 query key"]:
    """What attention adds to its scores: 0 where a token may look, else the type's least number.

    A token looks at itself and at the real tokens in front of it::

        seen[i, j] = i == j  or  j < i and real[j] and not (beyond[i] and hidden[j])

    Args:
        batch: Its tokens dealt to spans.
        hiding: Which of them are hidden, and from where on.
        dtype: The model's.
    """
    spans = batch.spans
    assert spans is not None
    places = torch.tensor(hiding.places, dtype=spans.dtype, device=spans.device)
    hidden = torch.isin(spans, places)
    beyond = ((spans == hiding.beyond) & batch.mask).cumsum(1) > 0
    own = torch.eye(spans.shape[1], dtype=torch.bool, device=spans.device)
    earlier = torch.ones_like(own).tril(-1) & batch.mask[:, None, :]
    seen = own | earlier & ~(beyond[:, :, None] & hidden[:, None, :])
    least = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, least)[
        :, None
    ]
