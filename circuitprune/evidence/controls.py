"""Random circuits beside each circuit of a comparison, and where it lies among them."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.evidence.bootstrap import Interval
from circuitprune.evidence.random_circuits import DRAWS

FAMILIES = ("uniform", "relabelled")
"""Random circuits to compare with, of those in `DRAWS`: the easiest and the hardest to beat."""

Masks = dict[str, Bool[Tensor, " edge"]]
Controls = dict[str, dict[str, Masks]]
"""Random circuits by the circuit that they are to match, and by family."""


def draw_controls(
    graph: Graph, masks: Mapping[str, Bool[Tensor, " edge"]], n_random: int
) -> Controls:
    """For each circuit and family, `n_random` random circuits of its size; the same every time.

    Draws that are the circuit itself are left out: nothing beats itself.
    """
    generator = torch.Generator().manual_seed(0)
    controls: Controls = {name: {} for name in masks}
    for name, mask in masks.items():
        for family in FAMILIES:
            drawn = [DRAWS[family](graph, mask, generator) for _ in range(n_random)]
            controls[name][family] = {
                f"{family} {i} for {name}": other
                for i, other in enumerate(drawn)
                if not torch.equal(other, mask)
            }
    return controls


def flat(controls: Controls) -> Masks:
    """All random circuits by name."""
    return {
        name: mask
        for families in controls.values()
        for drawn in families.values()
        for name, mask in drawn.items()
    }


def against(share: Callable[[str], Interval], circuit: str, random: Controls) -> dict:
    """Where a circuit lies among its `n` random ones: their mean, and which share it beats."""
    value, places = share(circuit)["value"], {}
    for family, drawn in random[circuit].items():
        known = [v for v in (share(name)["value"] for name in drawn) if v is not None]
        mean = sum(known) / len(known) if known else None
        beaten = None
        if value is not None and known:
            beaten = sum(v < value for v in known) / len(known)
        places[family] = {"n": len(known), "mean": mean, "beaten": beaten}
    return places
