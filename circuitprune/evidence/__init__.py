"""Evidence about a circuit, one file per kind: what a reviewer would ask of a claimed circuit.

Each kind is a function of a `Case`: it returns a frozen dataclass, every float in it finite or
None, with a `sentence` in words; `results.py` puts them together. docs/evidence.md says what each
means and when it misleads. Imports `attribution`, `lens`, `patching` and what lies below them.
"""

from collections.abc import Callable

from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.evidence.adversarial import adversarial
from circuitprune.evidence.case import Case
from circuitprune.evidence.clusters import clusters
from circuitprune.evidence.completeness import completeness
from circuitprune.evidence.cross_ablation import cross_ablation
from circuitprune.evidence.faithfulness import faithfulness_curve
from circuitprune.evidence.function import function
from circuitprune.evidence.hypotheses import hypotheses
from circuitprune.evidence.mib import mib
from circuitprune.evidence.minimality import minimality
from circuitprune.evidence.necessity import necessity
from circuitprune.evidence.random_circuits import random_circuits
from circuitprune.evidence.results import Section
from circuitprune.evidence.rivals import rivals

__all__ = ["EVIDENCE", "Case", "Examples", "evaluate_each", "evaluate_full_each"]

EVIDENCE: dict[str, Callable[[Case], Section]] = {
    "faithfulness": faithfulness_curve,
    "cross_ablation": cross_ablation,
    "mib": mib,
    "function": function,
    "minimality": minimality,
    "completeness": completeness,
    "random_circuits": random_circuits,
    "necessity": necessity,
    "adversarial": adversarial,
    "rivals": rivals,
    "clusters": clusters,
    "hypotheses": hypotheses,
}
"""Kinds of evidence by name, the cheap ones first."""
