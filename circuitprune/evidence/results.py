"""The sections of one verification, as `verify` writes and readers read them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import get_args, get_type_hints

from circuitprune.evidence.adversarial import Adversarial
from circuitprune.evidence.clusters import Clusters
from circuitprune.evidence.completeness import Completeness
from circuitprune.evidence.cross_ablation import CrossAblation
from circuitprune.evidence.faithfulness import FaithfulnessCurve
from circuitprune.evidence.function import Function
from circuitprune.evidence.hypotheses import Hypotheses
from circuitprune.evidence.mib import Mib
from circuitprune.evidence.minimality import Minimality
from circuitprune.evidence.minimise import MinimisedCircuit
from circuitprune.evidence.necessity import Necessity
from circuitprune.evidence.random_circuits import RandomCircuits
from circuitprune.evidence.rivals import Rivals
from circuitprune.evidence.statistics import Verdict


@dataclass(frozen=True)
class NotComputed:
    """In the place of a section that is undefined for this circuit."""

    error: str
    """Why."""
    sentence: str
    """The same as a sentence."""


Section = (
    FaithfulnessCurve
    | CrossAblation
    | Mib
    | Function
    | Minimality
    | Completeness
    | RandomCircuits
    | Necessity
    | Adversarial
    | Rivals
    | Clusters
    | Hypotheses
    | MinimisedCircuit
)
"""What one kind of evidence found."""


@dataclass(frozen=True)
class Sections:
    """What was found, by the names of the kinds; those not asked for are left out."""

    faithfulness: FaithfulnessCurve | NotComputed | None = None
    """Does the circuit alone do what the model does?"""
    cross_ablation: CrossAblation | NotComputed | None = None
    """Also where cut edges carry something else?"""
    mib: Mib | NotComputed | None = None
    """CPR and CMD as the MIB benchmark computes them."""
    function: Function | NotComputed | None = None
    """What the circuit's nodes do."""
    minimality: Minimality | NotComputed | None = None
    """Does every kept edge earn its place?"""
    completeness: Completeness | NotComputed | None = None
    """Is anything that the model uses missing?"""
    random_circuits: RandomCircuits | NotComputed | None = None
    """Is it better than chance?"""
    necessity: Necessity | NotComputed | None = None
    """Does the model fail without it?"""
    adversarial: Adversarial | NotComputed | None = None
    """Does it hold however the other edges are set?"""
    rivals: Rivals | NotComputed | None = None
    """Can other edges do the same?"""
    clusters: Clusters | NotComputed | None = None
    """Does one circuit describe all of the data?"""
    hypotheses: Hypotheses | NotComputed | None = None
    """Would it pass for an ideal circuit?"""
    minimise: MinimisedCircuit | NotComputed | None = None
    """What is left when the edges that can go are gone?"""

    def items(self) -> Iterator[tuple[str, Section | NotComputed]]:
        """Name and section of those that there are, in order."""
        for field in fields(self):
            section = getattr(self, field.name)
            if section is not None:
                yield field.name, section


def kind_of(name: str) -> type:
    """The class of a section by its name."""
    kind: type = next(iter(get_args(get_type_hints(Sections)[name])))
    return kind


def verdict_in(section: Section | NotComputed) -> Verdict | None:
    """What a section's test decided; None for one that describes or was not computed."""
    return getattr(section, "verdict", None)
