"""Pairs in the files of other tools, as rows of our own: EAP-IG, MIB, Edge-Pruning."""

from circuitprune.data.foreign.converting import Converted, convert_pairs
from circuitprune.data.foreign.formats import FORMATS, Format, Wanted

__all__ = ["FORMATS", "Converted", "Format", "Wanted", "convert_pairs"]
