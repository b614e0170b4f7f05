"""Attribution: scores for every edge from gradients, one file per method.

A score is a flat signed float per edge in the metric's unit: the predicted change of the mean
metric when that one edge is ablated in the full model. Negative: the edge helps.
"""

from circuitprune.attribution.base import Attribution
from circuitprune.attribution.eap import eap
from circuitprune.attribution.eap_ig_inputs import (
    eap_ig_inputs,
    eap_ig_inputs_midpoint,
    eap_ig_inputs_right,
)
from circuitprune.attribution.gate_ig import gate_ig

__all__ = ["METHODS", "Attribution", "eap", "eap_ig_inputs", "gate_ig"]

METHODS: dict[str, Attribution] = {
    "eap": eap,
    "eap_ig_inputs": eap_ig_inputs,
    "eap_ig_inputs_right": eap_ig_inputs_right,
    "eap_ig_inputs_midpoint": eap_ig_inputs_midpoint,
    "gate_ig": gate_ig,
}
"""Methods by the name that `init.method` takes."""
