"""Attribution: scores for every edge, one file per method.

A score is a flat signed float per edge in the metric's unit: the predicted change of the mean
metric when that one edge is ablated in the full model. Negative: the edge helps. The methods in
`UNSIGNED` give magnitudes instead: larger is more important. docs/attribution.md lists them all.
Imports `engine`, `patching`, `lens` and what lies below them.
"""

from circuitprune.attribution.base import Attribution, convergence, per_example
from circuitprune.attribution.clean_corrupted import clean_corrupted
from circuitprune.attribution.eap import eap
from circuitprune.attribution.eap_ig_activations import eap_ig_activations
from circuitprune.attribution.eap_ig_inputs import (
    eap_ig_inputs,
    eap_ig_inputs_midpoint,
    eap_ig_inputs_right,
)
from circuitprune.attribution.exact import effects_of_nodes, exact, exact_denoising, exact_nodes
from circuitprune.attribution.gate_ig import gate_ig
from circuitprune.attribution.ifr import ifr
from circuitprune.attribution.magnitude import magnitude
from circuitprune.attribution.nodes import (
    NodeAttribution,
    atp,
    atp_ig,
    atp_ig_nodes,
    atp_nodes,
)
from circuitprune.attribution.per_writer_ig import per_writer_ig
from circuitprune.attribution.random import random
from circuitprune.attribution.relp import relp, relp_ah
from circuitprune.attribution.ugs import ugs

__all__ = [
    "ADDITIVE",
    "DIRECTED",
    "METHODS",
    "METRIC_FREE",
    "NODE_METHODS",
    "STEPPED",
    "UNSIGNED",
    "Attribution",
    "convergence",
    "eap",
    "eap_ig_inputs",
    "gate_ig",
    "per_example",
]

METHODS: dict[str, Attribution] = {
    "eap": eap,
    "eap_ig_inputs": eap_ig_inputs,
    "eap_ig_inputs_right": eap_ig_inputs_right,
    "eap_ig_inputs_midpoint": eap_ig_inputs_midpoint,
    "eap_ig_activations": eap_ig_activations,
    "gate_ig": gate_ig,
    "clean_corrupted": clean_corrupted,
    "per_writer_ig": per_writer_ig,
    "relp": relp,
    "relp_ah": relp_ah,
    "atp": atp,
    "atp_ig": atp_ig,
    "ugs": ugs,
    "ifr": ifr,
    "magnitude": magnitude,
    "random": random,
    "exact": exact,
    "exact_denoising": exact_denoising,
    "exact_nodes": exact_nodes,
}
"""Methods by the name that `attribution.method` takes."""

UNSIGNED = frozenset({"ifr", "magnitude", "ugs"})
"""Methods whose scores are magnitudes: larger is more important, helpful or harmful alike."""

STEPPED = frozenset(
    {
        "eap_ig_inputs",
        "eap_ig_inputs_right",
        "eap_ig_inputs_midpoint",
        "eap_ig_activations",
        "gate_ig",
        "per_writer_ig",
        "atp_ig",
        "ugs",
    }
)
"""Methods to which `steps` means something."""

METRIC_FREE = frozenset({"ifr", "magnitude", "random"})
"""Methods that never ask what the metric is."""

DIRECTED = ("exact", "exact_nodes", "exact_denoising")
"""Methods that patch exactly: by noising, by denoising, or by either."""

NODE_METHODS: dict[str, NodeAttribution] = {
    "atp": atp_nodes,
    "atp_ig": atp_ig_nodes,
    "exact_nodes": effects_of_nodes,
}
"""Scores of writers, by the name of the method in `METHODS` that lifts them to edges."""

ADDITIVE = frozenset(
    {
        "eap",
        "eap_ig_inputs",
        "eap_ig_inputs_right",
        "eap_ig_inputs_midpoint",
        "eap_ig_activations",
        "gate_ig",
        "clean_corrupted",
        "per_writer_ig",
        "relp",
        "relp_ah",
    }
)
"""Methods linear in a gradient: the scores of a writer's out-edges add up to the writer's own, that
of one gate for all of them."""
