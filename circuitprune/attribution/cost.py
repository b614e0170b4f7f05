"""What a method costs: in plain forwards, and in passes that progress is told by.

Nothing of torch, as `methods` that it serves.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Sizes(Protocol):
    """What a cost may depend on; a `Graph` has it."""

    @property
    def n_edges(self) -> int:
        """Edges of the graph."""
        ...

    @property
    def n_writers(self) -> int:
        """Writers of the graph."""
        ...

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        ...


Cost = Callable[[Sizes, int], float]
"""`(graph, steps) -> plain forwards of the pairs`, as measured in benchmarks/."""
Passes = Callable[[Sizes, int], int]
"""`(graph, steps) -> passes` of a batch through the model, with the metric at the end of each."""


def forwards(number: int) -> Cost:
    """So many, whatever the model and the steps."""
    return lambda graph, steps: number


def gradients(graph: Sizes, steps: int) -> float:
    """A forward and a backward at each step."""
    return 3.0 * steps


def input_gradients(graph: Sizes, steps: int) -> float:
    """The same, and a forward for the end of the path."""
    return 1.0 + 3.0 * steps


def writer_gradients(graph: Sizes, steps: int) -> float:
    """A forward and a backward at each step for each writer."""
    return 3.0 * graph.n_writers * steps


def patterns_of_writers(graph: Sizes, steps: int) -> float:
    """Four, and for each writer the attention of the layers behind it, its patterns moved."""
    return 4.0 + 0.4 * graph.n_writers


def every_edge(graph: Sizes, steps: int) -> float:
    """What an edge changes lies downstream of it: a quarter of a forward."""
    return 0.25 * graph.n_edges


def passes(number: int) -> Passes:
    """So many, whatever the model and the steps."""
    return lambda graph, steps: number


def pass_each_step(graph: Sizes, steps: int) -> int:
    """One at each step."""
    return steps


def pass_each_group(graph: Sizes, steps: int) -> int:
    """One at each step for the input, the heads of each layer and each MLP."""
    return steps * (2 * graph.n_layers + 1)


def pass_each_writer(graph: Sizes, steps: int) -> int:
    """One at each step for each writer, or of parts for each thing that is cut into them."""
    return steps * (len(getattr(graph, "cuts", ())) or graph.n_writers)


def pass_each_sample(graph: Sizes, steps: int) -> int:
    """For `ugs`: the full and the empty model, then 20 samples of gates (`ugs.SAMPLES`) a step."""
    return 2 + 20 * steps


def pass_each_edge(graph: Sizes, steps: int) -> int:
    """The run as it is, then each edge of it."""
    return 1 + graph.n_edges


def pass_each_node(graph: Sizes, steps: int) -> int:
    """The run as it is, then each writer of it."""
    return 1 + graph.n_writers
