"""What training minimises and what a circuit is to reach, `kl<=0.1`; the smallest that does."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from circuitprune.errors import ConfigError

ObjectiveName = Literal[
    "kl",
    "logit_diff",
    "prob_diff",
    "faithfulness_gap",
    "cross_entropy",
    "acc",
    "cmd",
    "ld_match",
]
"""What training minimises: see `training/objectives.py`."""
FALLING, RISING = ("kl",), ("faithfulness", "accuracy", "exact_match", "metric")
"""What is to be at most, and what at least, a limit."""
_FORM = re.compile(r"\s*([a-z_]+)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Target:
    """A limit on one number of a circuit's evidence."""

    name: str
    """A field of `Evidence`."""
    limit: float
    """At most this KL, or at least this of the others."""

    @classmethod
    def read(cls, text: str) -> "Target":
        """The target that a text such as `kl<=0.1` or `accuracy>=0.95` names.

        Raises:
            ConfigError: another form, another name, or the sign that would ask for a bad circuit.
        """
        found = _FORM.fullmatch(text)
        name, sign, limit = found.groups() if found else ("", "", "")
        if sign != {**dict.fromkeys(FALLING, "<="), **dict.fromkeys(RISING, ">=")}.get(name, "?"):
            known = ", ".join([f"{n}<=X" for n in FALLING] + [f"{n}>=X" for n in RISING])
            raise ConfigError(f"gates.target must be one of {known}, got {text!r:.80}")
        try:
            value = float(limit)
        except ValueError:
            value = float("nan")
        if not isfinite(value):
            raise ConfigError(f"gates.target={text!r:.80}: {limit!r:.40} is no number")
        return cls(name, value)

    def holds(self, value: float | None) -> bool:
        """Whether what a circuit has of `name` keeps the limit. What is undefined keeps none."""
        if value is None:
            return False
        return value <= self.limit if self.name in FALLING else value >= self.limit

    def __str__(self) -> str:
        return f"{self.name}{'<=' if self.name in FALLING else '>='}{self.limit:g}"


def smallest(target: Target, n_edges: int, value_of: Callable[[int], float | None]) -> int | None:
    """A size whose circuit reaches the target where one of an edge less does not, by bisection.

    It is the smallest of all where circuits only improve with size; where they do not, a smaller
    one may reach it too. Costs `1 + log2(n_edges)` evaluations.

    Args:
        target: What to reach.
        n_edges: Of the whole model.
        value_of: What the circuit of a size, 1 to `n_edges`, has of `target.name`.

    Returns:
        None if not even all edges reach the target.

    Source: Gao et al. 2025, "Weight-sparse transformers have interpretable circuits", bisect the
    price of a node to a task loss in the same way.
    """
    if not target.holds(value_of(n_edges)):
        return None
    misses, reaches = 0, n_edges
    while reaches - misses > 1:
        middle = (misses + reaches) // 2
        if target.holds(value_of(middle)):
            reaches = middle
        else:
            misses = middle
    return reaches
