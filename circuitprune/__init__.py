"""Circuits in Hugging Face causal language models, by a learned mask over residual-stream edges."""

from circuitprune.circuit import Circuit
from circuitprune.config import RunConfig, load_config
from circuitprune.data import prepare
from circuitprune.engine import GatedModel
from circuitprune.errors import CircuitPruneError
from circuitprune.graph import Graph
from circuitprune.models import load_model
from circuitprune.references import References
from circuitprune.run import discover
from circuitprune.tasks import get_task

__all__ = [
    "Circuit",
    "CircuitPruneError",
    "GatedModel",
    "Graph",
    "References",
    "RunConfig",
    "discover",
    "get_task",
    "load_config",
    "load_model",
    "prepare",
]
