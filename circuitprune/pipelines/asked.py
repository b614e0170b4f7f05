"""What a study answers beside scores and gates: ACDC's circuit, evidence; nothing is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.reachability import live_edges
from circuitprune.errors import ConfigError
from circuitprune.evidence import EVIDENCE
from circuitprune.evidence.results import Sections
from circuitprune.patching.acdc import Worsening, acdc, require_threshold
from circuitprune.pipelines.cases import case_of
from circuitprune.pipelines.frontier import cut
from circuitprune.pipelines.gathering import section_of
from circuitprune.pipelines.given import Edges, mask_given, own_settings
from circuitprune.pipelines.setup import Setup, training_batches
from circuitprune.pipelines.verify_config import EvidenceConfig, in_order
from circuitprune.runs.shards import threads
from circuitprune.views.progress import shown


def searched(setup: Setup, threshold: float, worsening: str) -> Bool[Tensor, " edge"]:
    """What `Study.acdc` gives: the live edges that one search leaves, nothing kept."""
    if worsening not in ("kl", "task"):
        raise ConfigError(f"worsening must be kl or task, got {worsening!r}")
    require_threshold(threshold)
    metric: Worsening = "kl" if worsening == "kl" else setup.task_metric
    with shown(setup.config.train.progress) as watch:
        progress = watch(f"ACDC at {threshold:g}", "readers")
        found = acdc(
            setup.references, training_batches(setup), threshold, metric, progress=progress
        )
    return live_edges(setup.gated.graph, found.mask)


def evidence_of(
    setup: Setup, circuit: Edges, kinds: Sequence[str], budget: Mapping[str, object]
) -> Sections:
    """What `Study.evidence` gives: kinds of evidence about a circuit, nothing kept.

    Edges that lead nowhere are dropped. Smaller circuits, where a kind looks at some, are cut from
    the circuit's own ranking, or without one from its own edges in the graph's order.

    Raises:
        ConfigError: an unknown kind, or no such budget.
    """
    if "sections" in budget:
        raise ConfigError("kinds of evidence are named behind the circuit, not in sections")
    options = own_settings(EvidenceConfig, setup, {"sections": [*kinds], **budget})
    options = replace(options, sections=in_order(options.sections))
    mask = live_edges(setup.gated.graph, mask_given(setup.gated.graph, circuit))
    ranking, scores = torch.where(mask, 1.0, torch.nan), None
    if isinstance(circuit, Circuit):
        ranking = ranking if circuit.ranking is None else circuit.ranking
        scores = circuit.scores
    known = ranking.where(~ranking.isnan(), -torch.inf)
    case = case_of(setup, mask, options, ranking=known, sizes=cut(setup, ranking), scores=scores)
    own = options.threads if "threads" in budget else None
    with threads(own), shown(options.progress) as watch:
        found = {name: section_of(name, EVIDENCE[name], case, watch) for name in options.sections}
    return Sections(**found)  # type: ignore[arg-type]  # by names, which are its fields
