"""Circuits in Hugging Face causal language models, by a learned mask over residual-stream edges."""

from importlib import import_module
from typing import TYPE_CHECKING

from circuitprune.pipelines.moved import keep_old_paths

if TYPE_CHECKING:
    from circuitprune.circuits.circuit import Circuit
    from circuitprune.circuits.graph import Graph
    from circuitprune.config import RunConfig
    from circuitprune.data.pairs import prepare
    from circuitprune.data.tasks import get_task
    from circuitprune.engine.gated import GatedModel
    from circuitprune.engine.references import References
    from circuitprune.errors import CircuitPruneError
    from circuitprune.models.loading import load_model
    from circuitprune.pipelines.learned_together import learn_together
    from circuitprune.pipelines.study import Study
    from circuitprune.pipelines.train import discover
    from circuitprune.runs.settings import load_config

__version__ = "0.2.0"
__all__ = [
    "Circuit",
    "CircuitPruneError",
    "GatedModel",
    "Graph",
    "References",
    "RunConfig",
    "Study",
    "discover",
    "get_task",
    "learn_together",
    "load_config",
    "load_model",
    "prepare",
]

_HOMES = {
    "Circuit": "circuits.circuit",
    "CircuitPruneError": "errors",
    "GatedModel": "engine.gated",
    "Graph": "circuits.graph",
    "References": "engine.references",
    "RunConfig": "config",
    "Study": "pipelines.study",
    "discover": "pipelines.train",
    "get_task": "data.tasks",
    "learn_together": "pipelines.learned_together",
    "load_config": "runs.settings",
    "load_model": "models.loading",
    "prepare": "data.pairs",
}


def __getattr__(name: str) -> object:
    """A public name, loaded when first asked for, so that a command answers at once."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


keep_old_paths()
