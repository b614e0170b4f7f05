"""Exact patching: one edge, node or path at a time, and ACDC, which cuts edges one by one.

Keeps a run of the model and computes again only what a change reaches. Imports `engine` and what
lies below it.
"""

from circuitprune.patching.effects import edge_effects, node_effects
from circuitprune.patching.paths import path_effects, set_effect

__all__ = ["edge_effects", "node_effects", "path_effects", "set_effect"]
