"""How far an attribution method is: it asks its metric once in each pass through the model.

So the methods themselves need not tell. What they are given tells for them: the metric, where the
method's record says how many passes a batch takes, else the batches.
"""

from collections.abc import Iterable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.methods import Method
from circuitprune.circuits.graph import Graph
from circuitprune.data.pairs import Batch
from circuitprune.engine.progress import Progress, Watch, told
from circuitprune.metrics import Metric


class Counted:
    """A metric that tells how often it was asked.

    Args:
        metric: Answers.
        total: How often it will be asked.
        progress: Told.
    """

    def __init__(self, metric: Metric, total: int, progress: Progress) -> None:
        self.metric, self.total, self.progress = metric, total, progress
        self.done = 0

    def __call__(
        self, logits: Float[Tensor, "batch vocab"], batch: Batch
    ) -> Float[Tensor, " batch"]:
        """What the metric gives; a pass that asks for it has only the way back before it."""
        self.done += 1
        self.progress(self.done, self.total)
        return self.metric(logits, batch)


class _Told(list[Batch]):
    """Batches that tell, each time that they are gone through, how many are done with."""

    def __init__(self, batches: Iterable[Batch], progress: Progress) -> None:
        super().__init__(batches)
        self.progress = progress

    def __iter__(self) -> Iterator[Batch]:
        return told(list(super().__iter__()), self.progress)


def watched(
    method: Method,
    graph: Graph,
    batches: Sequence[Batch],
    metric: Metric,
    steps: Sequence[int],
    watch: Watch,
    what: str,
    alone: bool = False,
) -> tuple[Sequence[Batch], Metric]:
    """The batches and the metric to call a method with, so that it tells how far it is.

    Args:
        method: Its record.
        graph: Of the model.
        batches: The pairs.
        metric: What is attributed.
        steps: Of each call that will be made.
        watch: Shows it.
        what: Its name there.
        alone: Each pair will be given as a batch of its own.
    """
    if method.passes is None:
        return _Told(batches, watch(what, "batches")), metric
    n = sum(map(len, batches)) if alone else len(batches)
    total = n * sum(method.passes(graph, each) for each in steps)
    return batches, Counted(metric, total, watch(what, "passes"))
