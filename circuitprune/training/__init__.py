"""Gates that learn: learners, objectives, density and the `LightningModule`.

The module learns, validates and checkpoints; drawing is a callback of `views`. Imports `engine` and
what lies below it, but only when a class is asked for: `trainer`, options by name, needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitprune.training.gates import HardConcrete, Learner, TopK
    from circuitprune.training.module import MaskTraining

__all__ = ["HardConcrete", "Learner", "MaskTraining", "TopK"]

_HOMES = {"HardConcrete": "gates", "Learner": "gates", "MaskTraining": "module", "TopK": "gates"}


def __getattr__(name: str) -> object:
    """What `_HOMES` names, loaded when first asked for."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
