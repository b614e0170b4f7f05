"""`part_edges.json`: how much the parts of a run's circuit move each other, for its report."""

from dataclasses import dataclass

FILE = "part_edges.json"
"""In the folder of a run with gates on parts, once `part-edges` was run on it."""


@dataclass(frozen=True)
class PartEdge:
    """One part's effect through another."""

    part: str
    """Its name."""
    into: str
    """That of the part that it moves, or `logits`."""
    effect: float
    """On the task metric, in its unit; negative helps."""


@dataclass(frozen=True)
class PartEdgeFile:
    """`part_edges.json`."""

    circuit: str
    """File of the circuit whose parts they join, in the run's folder."""
    metric: str
    """The task metric."""
    steps: int
    """Runs behind each gradient."""
    threshold: float
    """Least magnitude of an edge."""
    edges: tuple[PartEdge, ...]
    """The strongest first."""
