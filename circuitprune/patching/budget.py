"""How much exact refinement may try; nothing of torch."""

from dataclasses import dataclass

from circuitprune.data.checks import MANY, MANY_OR_0, PART, SHARE, misfits, refuse


@dataclass(frozen=True)
class RefinementConfig:
    """Exact refinement of circuits: what is tried, on which pairs, and how long."""

    tries: int = 32
    """Edges to add, and edges to remove, that are run exactly in each round."""
    least_gain: float = 0.002
    """Share of the KL by which a change must lower it, in [0, 1]."""
    most_rounds: int = 100
    """Changes accepted at most for each circuit."""
    n_pairs: int = 0
    """Training pairs that changes are judged on; 0 takes all."""
    max_size: float = 0.5
    """Largest circuit that is refined, as a fraction of all edges; larger ones stay as cut."""

    def __post_init__(self) -> None:
        counts = {"tries": MANY, "most_rounds": MANY, "n_pairs": MANY_OR_0}
        refuse(misfits(self, "refinement.", least_gain=SHARE, max_size=PART, **counts))
