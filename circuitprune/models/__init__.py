"""Hugging Face families as declarations, the ports they share, norms, loading; the shipped zoo.

A family is a dozen names, not a fork of a modelling file. Imports `circuits`, `data` and what lies
below them.
"""

from circuitprune.models.families import FAMILIES
from circuitprune.models.family import Family
from circuitprune.models.loading import load_model
from circuitprune.models.ports import KV_READERS, Ports

__all__ = ["FAMILIES", "KV_READERS", "Family", "Ports", "load_model"]
