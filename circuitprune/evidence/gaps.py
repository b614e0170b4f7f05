"""How far circuit and model are apart under each knock-out, and under those of a family."""

from collections.abc import Sequence
from dataclasses import dataclass

from circuitprune.evidence.bootstrap import Estimate
from circuitprune.evidence.knockouts import Family

TOLERANCE = 0.1
"""Gap, as a share of what the model has over the empty circuit, up to which both lose alike."""


@dataclass(frozen=True)
class KnockOutGap:
    """Circuit and model under one knock-out, as means over pairs."""

    family: Family
    """Why these nodes."""
    name: str
    """What they are, in words."""
    nodes: tuple[str, ...]
    """Their names, in the graph's order."""
    circuit: float
    """Task metric of the circuit without them."""
    model: float
    """Task metric of the model without them."""
    gap: Estimate
    """Circuit minus model, in the metric's unit."""
    relative_gap: float | None
    """The gap as a share of the span; None if there is no span."""
    telling: bool
    """Whether circuit or model still did something."""
    kl: float
    """From the model without them to the circuit without them, in nats."""


@dataclass(frozen=True)
class FamilyGaps:
    """The knock-outs of one family."""

    n: int
    """How many."""
    n_telling: int
    """Of these, after how many circuit or model still did something."""
    n_within: int
    """Of those, how many gaps are within the tolerance."""
    mean_gap: float
    """Mean of `|gap|` over all, in the metric's unit."""
    mean_kl: float
    """Mean KL over all, in nats."""
    worst_gap: float
    """The largest gap, with its sign."""
    worst_relative_gap: float | None
    """The same as a share of the span."""
    worst_nodes: tuple[str, ...]
    """Nodes of that knock-out."""


def family_gaps(points: Sequence[KnockOutGap]) -> dict[str, FamilyGaps]:
    """Each family of knock-outs that has any."""
    families: tuple[Family, ...] = ("class", "random", "greedy")
    of = {family: [p for p in points if p.family == family] for family in families}
    return {family: _summary(found) for family, found in of.items() if found}


def _summary(points: Sequence[KnockOutGap]) -> FamilyGaps:
    gaps = [abs(point.gap.value) for point in points]
    worst = points[gaps.index(max(gaps))]
    telling = [point.relative_gap for point in points if point.telling]
    return FamilyGaps(
        n=len(gaps),
        n_telling=len(telling),
        n_within=sum(share is not None and abs(share) <= TOLERANCE for share in telling),
        mean_gap=sum(gaps) / len(gaps),
        mean_kl=sum(point.kl for point in points) / len(points),
        worst_gap=worst.gap.value,
        worst_relative_gap=worst.relative_gap,
        worst_nodes=worst.nodes,
    )
