"""What every attribution method is: a function from a model and pairs to edge scores."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from numbers import Integral
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.agreement import spearman
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError, NonFiniteError
from circuitprune.metrics import Metric


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


def per_example(
    method: Attribution,
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    steps: int = 5,
) -> Float[Tensor, "example edge"]:
    """The scores of each example alone, in the order of the batches.

    The method is run on one example at a time, at that example's own length. For a method that is a
    mean over examples, the mean over the rows is what it gives on all of them.

    Raises:
        DataError: no batches.
    """
    rows = [
        method(references, [single], metric, steps)
        for batch in batches
        for single in single_examples(batch)
    ]
    if not rows:
        raise DataError("attribution needs pairs, but was given no batches")
    return torch.stack(rows)


def single_examples(batch: Batch) -> Iterator[Batch]:
    """Each example of a batch as a batch of its own, without its padding."""
    for row, last in enumerate(batch.last.tolist()):
        alone = {name: values[row : row + 1] for name, values in vars(batch).items()}
        by_position = {"clean", "corrupt", "mask", "dealt"} & alone.keys()
        real = {name: alone[name][:, : last + 1] for name in by_position}
        yield replace(batch, **alone | real)


def convergence(
    method: Attribution,
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    steps: int = 5,
    doublings: int = 1,
) -> list[tuple[int, int, float]]:
    """How far the order of edges still moves when the steps double: `(m, 2m, rank correlation)`.

    Spearman's correlation of the magnitudes of the scores, which is the order in which circuits
    take edges: 1 means that more steps would change no circuit. One entry per doubling, from
    `steps` up; a method without steps has 1 everywhere.

    Raises:
        MetricError: all scores are equal, so there is no order.
    """
    batches = list(batches)
    sizes = [steps * 2**i for i in range(doublings + 1)]
    orders = [method(references, batches, metric, size).abs() for size in sizes]
    return [(sizes[i], sizes[i + 1], spearman(orders[i], orders[i + 1])) for i in range(doublings)]


def require_steps(steps: int, name: str) -> None:
    """Refuse to integrate over no points at all, on behalf of the method of that name.

    Raises:
        ConfigError: fewer than one step, or no whole number.
    """
    if not isinstance(steps, Integral) or steps < 1:
        raise ConfigError(f"{name} takes 1 step or more, a whole number, got steps={steps!r:.80}")


def require_patch(references: References, name: str) -> None:
    """Refuse an ablation without a corrupt run, on behalf of the method of that name.

    Raises:
        ConfigError: the ablation is not `patch`.
    """
    kind = references.ablation.kind
    if kind != "patch":
        raise ConfigError(
            f"{name} needs the corrupt prompts, so it is defined for the ablation 'patch' alone, "
            f"not for {kind!r}; set ablation=patch or take a method such as eap or gate_ig"
        )
