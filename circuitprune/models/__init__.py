"""Model families and how to load them."""

from circuitprune.models.families import FAMILIES, Family
from circuitprune.models.loading import load_model
from circuitprune.models.ports import KV_READERS, Ports

__all__ = ["FAMILIES", "KV_READERS", "Family", "Ports", "load_model"]
