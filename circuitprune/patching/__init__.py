"""Exact patching: one edge, node or path at a time; searches that cut or exchange edges by it.

Keeps a run of the model and computes again only what a change reaches. Imports `engine` and what
lies below it, but only when a function is asked for: `budget`, settings by name, needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitprune.patching.effects import edge_effects, node_effects
    from circuitprune.patching.paths import path_effects, set_effect

__all__ = ["edge_effects", "node_effects", "path_effects", "set_effect"]

_HOMES = {
    "edge_effects": "effects",
    "node_effects": "effects",
    "path_effects": "paths",
    "set_effect": "paths",
}


def __getattr__(name: str) -> object:
    """What `_HOMES` names, loaded when first asked for."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
