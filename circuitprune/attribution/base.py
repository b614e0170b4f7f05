"""What every attribution method is: a function from a model and pairs to edge scores."""

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.data import Batch
from circuitprune.errors import DataError, NonFiniteError
from circuitprune.gradients import Metric
from circuitprune.references import References


@runtime_checkable
class Attribution(Protocol):
    """`(references, batches, metric, steps) -> scores`; methods without steps ignore them."""

    def __call__(
        self, references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
    ) -> Float[Tensor, " edge"]:
        """Mean over all examples of the predicted change of `metric` when an edge is ablated."""
        ...


def mean_over_batches(
    batches: Iterable[Batch], score: Callable[[Batch], Float[Tensor, " edge"]]
) -> Float[Tensor, " edge"]:
    """Sum of the batches' scores, accumulated in float64, over the number of examples.

    Raises:
        DataError: no batches.
        NonFiniteError: a score is NaN or infinite.
    """
    total, count, dtype = None, 0, torch.float32
    for batch in batches:
        scores = score(batch)
        if not bool(torch.isfinite(scores).all()):
            raise NonFiniteError(
                f"attribution gave NaN or infinite scores on examples {batch.index.tolist()}; "
                "use model.dtype=float32 or a metric that is finite on them"
            )
        total = scores.double() if total is None else total + scores.double()
        count = count + len(batch)
        dtype = torch.promote_types(scores.dtype, torch.float32)
    if total is None:
        raise DataError("attribution needs pairs, but was given no batches")
    return (total / count).to(dtype)
