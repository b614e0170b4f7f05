"""Attribution: scores for every edge, one file per method.

A score is a flat signed float per edge in the metric's unit: the predicted change of the mean
metric when that one edge is ablated in the full model. Negative: the edge helps. Methods whose
record in `METHODS` says `signed=False` give magnitudes instead: larger is more important.
docs/attribution.md lists them all. Imports `engine`, `patching`, `lens` and what lies below them,
but only when a function is asked for: names alone cost nothing of torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from circuitprune.attribution.methods import METHODS, Method

if TYPE_CHECKING:
    from circuitprune.attribution.base import Attribution, convergence, per_example
    from circuitprune.attribution.eap import eap
    from circuitprune.attribution.eap_ig_inputs import eap_ig_inputs
    from circuitprune.attribution.gate_ig import gate_ig
    from circuitprune.attribution.scores import Scores

__all__ = [
    "METHODS",
    "Attribution",
    "Method",
    "Scores",
    "convergence",
    "eap",
    "eap_ig_inputs",
    "gate_ig",
    "per_example",
]

_HOMES = {"Attribution": "base", "convergence": "base", "per_example": "base", "Scores": "scores"}


def __getattr__(name: str) -> object:
    """A method's function, or what `_HOMES` names, loaded when first asked for."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in METHODS:
        return METHODS[name].score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    # `eap` is a file here and the function in it. Importing the file would bind the name to the
    # module, so that `from circuitprune.attribution import eap` gave one or the other, whichever
    # was imported first. Refused, the name always falls through to `__getattr__`: the function.
    def __setattr__(self, name: str, value: object) -> None:
        if not (name in METHODS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
