"""The graph of a model's residual stream, and masks over it.

A `Graph` names writers, readers and edges in one flat order; a `Circuit` is a mask over it. Here
circuits are selected, combined, compared, drawn, read and written. Knows no model: imports only
`errors` and `files`.
"""

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph

__all__ = ["Circuit", "Graph"]
