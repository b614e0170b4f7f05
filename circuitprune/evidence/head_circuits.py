"""Is a circuit of head groups true: its faithfulness, minimality and completeness as published.

A head outside the circuit, and one of it away from its group's place, carries its mean over
reference prompts, position by position; MLPs and embeddings are live. What is measured is accuracy:
the share of prompts on which the most likely token is the right one (Prakash et al. 2024, arXiv
2402.14811).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.errors import DataError
from circuitprune.models.ports import Ports
from circuitprune.patching.head_groups import PLACES, Groups, places
from circuitprune.patching.head_runs import Head, Swap, Take, Values, run_heads, taking

Member = tuple[str, Head]
"""A head as a member of its group; the same head may be in two."""
SHARE = 0.3
"""Of a group, knocked out together with a head; of the circuit, for completeness."""


def top1(logits: Float[Tensor, "batch vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """1 where the most likely token is a right one, else 0."""
    return (batch.answers == logits.argmax(1, keepdim=True)).any(1).double()


@torch.no_grad()
def mean_outputs(ports: Ports, batches: Sequence[Batch]) -> Values:
    """Every head's mean output at each position over the corrupt prompts.

    Raises:
        DataError: no pairs, or prompts of several lengths, which have no common positions.
    """
    if len({batch.corrupt.shape[1] for batch in batches}) != 1 or not all(
        bool(batch.mask.all()) for batch in batches
    ):
        raise DataError("means by position need pairs, all prompts of one length")
    sums: list[Tensor] = []
    for batch in (one.to(ports.model.device) for one in batches):
        found = run_heads(ports, batch.corrupt_prompts, record=("output",)).parts["output"]
        parts = [values.double().sum(dim=0, keepdim=True) for values in found]
        sums = parts if not sums else [a + b for a, b in zip(sums, parts, strict=True)]
    n = sum(map(len, batches))
    return tuple((total / n).to(ports.model.dtype) for total in sums)


class HeadCircuit:
    """The model with all but some heads, at their places, at their means.

    Args:
        ports: Of the model.
        groups: The circuit.
        batches: Prompts to measure on.
        means: Of `mean_outputs`.
    """

    def __init__(
        self, ports: Ports, groups: Groups, batches: Sequence[Batch], means: Values
    ) -> None:
        self.ports, self.means = ports, means
        self.batches = [batch.to(ports.model.device) for batch in batches]
        self.members: tuple[Member, ...] = tuple(
            (name, head) for name, heads in groups.items() for head in heads
        )
        self._known: dict[tuple[bool, frozenset[Member]], float] = {}

    def accuracy(self, without: Iterable[Member] = ()) -> float:
        """Of the circuit, with some of its members at their means too."""
        return self._accuracy(True, frozenset(without))

    def model_accuracy(self, without: Iterable[Member] = ()) -> float:
        """Of the whole model, with some of the circuit's members at their means."""
        return self._accuracy(False, frozenset(without))

    @torch.no_grad()
    def _accuracy(self, alone: bool, without: frozenset[Member]) -> float:
        key = (alone, without)
        if key not in self._known:
            kept = [one for one in self.members if one not in without]
            right = [self._right(batch, alone, kept, sorted(without)) for batch in self.batches]
            self._known[key] = float(torch.cat(right).mean())
        return self._known[key]

    def _right(
        self, batch: Batch, alone: bool, kept: Sequence[Member], cut: Sequence[Member]
    ) -> Float[Tensor, " batch"]:
        """Which prompts are right: members that are kept in nothing else, or cut out of all."""
        chosen = kept if alone else cut
        take = torch.zeros_like(self._taking(batch, []))
        for name in dict.fromkeys(group for group, _ in chosen):
            at = [head for group, head in chosen if group == name]
            take = torch.maximum(take, self._taking(batch, at, name))
        means = tuple(values.expand(len(batch), -1, -1, -1) for values in self.means)
        swap = Swap("output", means, 1 - take if alone else take)
        return top1(run_heads(self.ports, batch.clean_prompts, [swap]).logits, batch)

    def _taking(self, batch: Batch, heads: Sequence[Head], name: str = "value fetcher") -> Take:
        return taking(self.ports, heads, places(batch, PLACES[name]))


@dataclass(frozen=True)
class HeadMinimality:
    """What the circuit loses with one head, when what can stand in for it is gone already."""

    group: str
    head: str
    """Its name, `a3.h1`."""
    without_others: float
    """Accuracy of the circuit without K, the share of its group that matters most beside it."""
    without_it_too: float
    """Accuracy without K and the head."""
    minimality: float
    """`without_others / without_it_too - 1`, the latter at least one pair."""


@dataclass(frozen=True)
class Incompleteness:
    """Circuit and model without the same random part of the circuit."""

    cut: tuple[str, ...]
    circuit: float
    """Accuracy of the circuit without them."""
    model: float
    """Accuracy of the model without them."""


def minimality(circuit: HeadCircuit, share: float = SHARE) -> tuple[HeadMinimality, ...]:
    """Of each member, in the circuit's order.

    K of head h is the `ceil(share * group)` others v of its group whose loss shows most beside h:
    `acc(C without v) - acc(C without h and v)`, largest first.

    Args:
        circuit: On pairs.
        share: Of a group, in [0, 1).
    """
    n_pairs = sum(map(len, circuit.batches))
    rows = []
    for name, head in circuit.members:
        me: Member = (name, head)
        others = [one for one in circuit.members if one[0] == name and one != me]
        gap = {o: circuit.accuracy([o]) - circuit.accuracy([o, me]) for o in others}
        n_cut = min(len(others), math.ceil(share * (len(others) + 1)))
        cut = sorted(others, key=lambda one: -gap[one])[:n_cut]
        first, second = circuit.accuracy(cut), circuit.accuracy([*cut, me])
        value = first / max(second, 1 / n_pairs) - 1
        rows.append(HeadMinimality(name, spelled(head), first, second, value))
    return tuple(rows)


def completeness(
    circuit: HeadCircuit, n: int, generator: torch.Generator, share: float = SHARE
) -> tuple[Incompleteness, ...]:
    """Circuit and model without `n` random parts of the circuit, each `ceil(share * members)`.

    Args:
        circuit: On pairs.
        n: Parts.
        generator: Draws them.
        share: In (0, 1].
    """
    members, rows = circuit.members, []
    n_cut = math.ceil(share * len(members))
    for _ in range(n if members else 0):
        drawn = torch.randperm(len(members), generator=generator)[:n_cut].tolist()
        cut = [members[place] for place in sorted(drawn)]
        names = tuple(f"{spelled(head)} ({name})" for name, head in cut)
        rows.append(Incompleteness(names, circuit.accuracy(cut), circuit.model_accuracy(cut)))
    return tuple(rows)


def minimal(
    groups: Groups, found: Sequence[HeadMinimality], least: float
) -> dict[str, tuple[Head, ...]]:
    """The groups without the members whose minimality is below `least`."""
    enough: Mapping[tuple[str, str], bool] = {
        (one.group, one.head): one.minimality >= least for one in found
    }
    return {
        name: tuple(head for head in heads if enough[name, spelled(head)])
        for name, heads in groups.items()
    }


def spelled(head: Head) -> str:
    """`a3.h1`, as the graph names it."""
    return f"a{head[0]}.h{head[1]}"
