"""Random circuits beside each circuit of a comparison, and where it lies among them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.errors import old_names
from circuitprune.evidence.bootstrap import Interval
from circuitprune.evidence.draws import DRAWS

FAMILIES = ("uniform", "relabelled")
"""Random circuits to compare with, of those in `DRAWS`: the easiest and the hardest to beat."""

Masks = dict[str, Bool[Tensor, " edge"]]
Baselines = dict[str, dict[str, Masks]]
"""Random circuits by the circuit that they are to match, and by family."""


@dataclass(frozen=True)
class AmongRandom:
    """Where a circuit lies among random ones of one family."""

    n: int
    """Random circuits other than this one for which the number is known."""
    mean: float | None
    """Their mean, in the number's unit; None if there are none."""
    beaten: float | None
    """Share of them that do worse, in [0, 1]; None if there are none, or this one has no number."""


def draw_baselines(
    graph: Graph, masks: Mapping[str, Bool[Tensor, " edge"]], n_random: int
) -> Baselines:
    """For each circuit and family, `n_random` random circuits of its size; the same every time.

    Draws that are the circuit itself are left out: nothing beats itself.
    """
    generator = torch.Generator().manual_seed(0)
    baselines: Baselines = {name: {} for name in masks}
    for name, mask in masks.items():
        for family in FAMILIES:
            drawn = [DRAWS[family](graph, mask, generator) for _ in range(n_random)]
            baselines[name][family] = {
                f"{family} {i} for {name}": other
                for i, other in enumerate(drawn)
                if not torch.equal(other, mask)
            }
    return baselines


def flat(baselines: Baselines) -> Masks:
    """All random circuits by name."""
    return {
        name: mask
        for families in baselines.values()
        for drawn in families.values()
        for name, mask in drawn.items()
    }


def among_random(
    share: Callable[[str], Interval], circuit: str, random: Baselines
) -> dict[str, AmongRandom]:
    """Where a circuit lies among its random ones, by family."""
    value, places = share(circuit).value, {}
    for family, drawn in random[circuit].items():
        known = [v for v in (share(name).value for name in drawn) if v is not None]
        mean = sum(known) / len(known) if known else None
        beaten = None
        if value is not None and known:
            beaten = sum(v < value for v in known) / len(known)
        places[family] = AmongRandom(len(known), mean, beaten)
    return places


__getattr__ = old_names(
    __name__,
    {
        "Controls": "evidence.baselines.Baselines",
        "against": "evidence.baselines.among_random",
        "draw_controls": "evidence.baselines.draw_baselines",
    },
)
