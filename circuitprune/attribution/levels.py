"""What gates stand on, and which settings go with that; nothing of torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from circuitprune.attribution.methods import names_with
from circuitprune.data.checks import misfits, refuse
from circuitprune.data.own import is_own

Level = Literal["edge", "node", "neuron", "feature"]
"""Edges of the residual stream, or parts of what is written to it."""


Spans = Literal["none", "difference", "tags", "positions"]
"""What gates may differ by from token to token."""


@dataclass(frozen=True)
class FeaturesConfig:
    """What level=feature cuts into features."""

    dictionaries: list[str] = field(default_factory=list)
    """Files or folders with dictionaries; PLACE=FILE, such as m3=FILE, where a file says none."""
    errors: Literal["node", "clean", "corrupt"] = "node"
    """What dictionaries leave out: it has a gate, stays as it is, or is always ablated."""

    def __post_init__(self) -> None:
        refuse(misfits(self, "features."))


def level_rules(
    level: str,
    features: FeaturesConfig,
    starts: Sequence[str],
    method: str,
    selection: str,
    ablation: str,
    refine: bool,
) -> list[tuple[bool, str]]:
    """Whether other settings go with a level, and what to say if not.

    Args:
        level: Of `Level`.
        features, ablation, refine: The settings of those names.
        starts: `gates.starts`.
        method: `attribution.method`.
        selection: `verify.selection`.
    """
    edges, able = level == "edge", names_with("parts")
    unable = _unable((method, *starts), able)
    return [
        (
            edges or not unable,
            f"attribution.method={', '.join(unable)} scores edges; level={level} takes "
            f"{', '.join(able)}",
        ),
        (
            edges or not refine,
            f"refine=true exchanges edges along paths, which level={level} has none of",
        ),
        (
            (level == "feature") == bool(features.dictionaries),
            "features.dictionaries goes with level=feature, and only with it",
        ),
        (
            edges or ablation != "optimal",
            f"ablation=optimal learns a constant for each writer's edges, not for level={level}",
        ),
        (
            edges or selection != "greedy",
            f"verify.selection=greedy grows along edges, which level={level} has none of",
        ),
    ]


def span_rules(
    spans: str,
    tasks: Sequence[str],
    starts: Sequence[str],
    method: str,
    selection: str,
    refine: bool,
) -> list[tuple[bool, str]]:
    """Whether other settings go with gates at spans of positions, and what to say if not.

    Args:
        spans: Of `Spans`.
        tasks, refine: The settings of those names.
        starts: `gates.starts`.
        method: `attribution.method`.
        selection: `verify.selection`.
    """
    whole, able = spans == "none", names_with("spans")
    unable = _unable((method, *starts), able)
    return [
        (
            whole or not unable,
            f"attribution.method={', '.join(unable)} scores edges without spans; spans={spans} "
            f"takes {', '.join(able)}",
        ),
        (
            whole or selection != "greedy",
            f"verify.selection=greedy grows along edges without spans, not with spans={spans}",
        ),
        (whole or not tasks, f"tasks share whole edges, not edges at spans: spans={spans}"),
        (whole or not refine, f"refine=true exchanges edges without spans, not spans={spans}"),
    ]


def _unable(methods: Sequence[str], able: Sequence[str]) -> list[str]:
    """Those of some methods that are not able, a user's own left out."""
    return [one for one in methods if one not in ("none", *able) and not is_own(one)]
