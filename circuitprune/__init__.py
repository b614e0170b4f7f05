"""Circuits in Hugging Face causal language models, by a learned mask over residual-stream edges."""

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.config import RunConfig, load_config
from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import get_task
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import CircuitPruneError
from circuitprune.models import load_model
from circuitprune.pipelines.train import discover

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
