"""What is found of entity tracking in a model, and in the model that it was tuned from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.progress import Watch, unwatched
from circuitprune.evidence.head_circuits import (
    HeadCircuit,
    HeadMinimality,
    Incompleteness,
    completeness,
    mean_outputs,
    minimal,
    minimality,
    spelled,
    top1,
)
from circuitprune.evidence.tracking_subject import Budget, Subject
from circuitprune.metrics import accuracy
from circuitprune.models.ports import Ports
from circuitprune.patching.across_heads import input_patched, output_patched
from circuitprune.patching.head_groups import PLACES, STAGES, Groups, find_groups
from circuitprune.patching.head_runs import Part, run_heads
from circuitprune.training.desiderata import learn_carriers


@dataclass(frozen=True)
class Right:
    """How often a model is right."""

    top1: float
    """Share of prompts whose most likely token is the thing in the box."""
    among: float
    """Share on which it is likelier than every thing in another box."""


@dataclass(frozen=True)
class FoundGroup:
    """A group of heads."""

    name: str
    place: str
    """Where it acts: `last`, `query` or `earlier`."""
    heads: tuple[str, ...]
    """Most important first."""
    scores: tuple[float, ...]
    """Relative change of the metric by the path of each."""
    minimal: tuple[str, ...]
    """Those that the circuit cannot do without."""


@dataclass(frozen=True)
class Carrier:
    """Which heads of a group carry one thing, by their masks."""

    group: str
    what: str
    """`position`, `object` or `label`."""
    heads: tuple[str, ...]
    accuracy: float
    """Share of pairs on which their patch brings the desired answer."""
    all_heads: float
    """The same by the patch of the whole group."""


@dataclass(frozen=True)
class HeadGroups:
    """The four groups in one model, and whether they are its circuit."""

    model: str
    n_pairs: int
    """Held-out prompts behind accuracies."""
    whole: Right
    groups: tuple[FoundGroup, ...]
    circuit: float
    """Accuracy of the circuit alone, all other heads at their means."""
    minimal_circuit: float
    """Of its minimal members."""
    nothing: float
    """Of no head at all."""
    random: float
    """Mean over circuits of as many heads drawn at random for each group."""
    n_random: int
    minimality: tuple[HeadMinimality, ...]
    completeness: tuple[Incompleteness, ...]
    carriers: tuple[Carrier, ...]

    @property
    def faithfulness(self) -> float | None:
        """Accuracy of the circuit over the model's; None where the model is never right."""
        return self.circuit / self.whole.top1 if self.whole.top1 else None


@dataclass(frozen=True)
class Patched:
    """A host with one thing of the donor's."""

    host: str
    donor: str
    groups: str
    """A group's name, or `all`."""
    what: str
    """`output`, or what the heads read: `q`, `k`, `v`, `qkv`."""
    right: Right


@dataclass(frozen=True)
class Shared:
    """A group of the tuned model's heads in the model that it was tuned from."""

    group: str
    tuned: tuple[str, ...]
    base: tuple[str, ...]
    both: tuple[str, ...]


@dataclass(frozen=True)
class EntityTracking:
    """The groups of a model, and of the one that it was tuned from, and what one does in the other.

    Source: Prakash et al. 2024 (arXiv 2402.14811).
    """

    tuned: HeadGroups
    base: HeadGroups | None
    shared: tuple[Shared, ...]
    patched: tuple[Patched, ...]


@torch.no_grad()
def right(logits: Sequence[Float[Tensor, "batch vocab"]], batches: Sequence[Batch]) -> Right:
    """How often logits of batches are right."""
    both = list(zip(logits, batches, strict=True))
    first = torch.cat([top1(found, batch.to(found.device)) for found, batch in both])
    among = torch.cat([accuracy(found, batch.to(found.device)) for found, batch in both])
    return Right(float(first.mean()), float(among.double().mean()))


def head_groups(
    of: Subject, budget: Budget, seed: int, watch: Watch = unwatched
) -> tuple[HeadGroups, dict[str, tuple[tuple[int, int], ...]]]:
    """The four groups of a model with all evidence, and the groups as heads.

    Args:
        of: The model and its pairs.
        budget: How much.
        seed: Of random circuits and parts.
        watch: Told how far it is.
    """
    ports = of.ports
    groups, scores = find_groups(ports, of.paths, budget.least, budget.most, watch, budget.metric)
    means = mean_outputs(ports, of.measured)
    circuit = HeadCircuit(ports, groups, of.measured, means)
    each = minimality(circuit)
    least = minimal(groups, each, budget.minimality)
    generator = torch.Generator().manual_seed(seed)
    drawn = [_drawn(ports, groups, generator) for _ in range(budget.n_random)]
    alone = [HeadCircuit(ports, one, of.measured, means).accuracy() for one in drawn]
    found = tuple(
        FoundGroup(
            stage.name,
            stage.place,
            tuple(map(spelled, groups[stage.name])),
            tuple(float(scores[stage.name][head]) for head in groups[stage.name]),
            tuple(map(spelled, least[stage.name])),
        )
        for stage in STAGES
    )
    with torch.no_grad():
        logits = [run_heads(ports, batch.clean_prompts).logits for batch in circuit.batches]
    return HeadGroups(
        model=of.name,
        n_pairs=sum(map(len, of.measured)),
        whole=right(logits, circuit.batches),
        groups=found,
        circuit=circuit.accuracy(),
        minimal_circuit=HeadCircuit(ports, least, of.measured, means).accuracy(),
        nothing=HeadCircuit(ports, {}, of.measured, means).accuracy(),
        random=sum(alone) / max(1, len(alone)),
        n_random=len(alone),
        minimality=each,
        completeness=completeness(circuit, budget.n_random, generator),
        carriers=tuple(_carriers(of, groups, watch)),
    ), groups


def _drawn(ports: Ports, groups: Groups, generator: torch.Generator) -> Groups:
    """As many heads in each group, drawn from all."""
    n_heads = ports.graph.n_heads
    everyone = [divmod(i, n_heads) for i in range(ports.graph.n_layers * n_heads)]
    return {
        name: tuple(
            everyone[i]
            for i in torch.randperm(len(everyone), generator=generator)[: len(heads)].tolist()
        )
        for name, heads in groups.items()
    }


def _carriers(of: Subject, groups: Groups, watch: Watch) -> list[Carrier]:
    rows, total = [], len(groups) * len(of.masks)
    progress = watch("masks", "masks")
    for name, heads in groups.items():
        for what, (train, val) in of.masks.items():
            if heads:
                found = learn_carriers(of.ports, heads, PLACES[name], train, val)
                names = tuple(map(spelled, found.heads))
                rows.append(Carrier(name, what, names, found.accuracy, found.all_heads))
            progress(len(rows), total)
    return rows


READ: tuple[tuple[Part, ...], ...] = (("q",), ("k",), ("v",), ("q", "k", "v"))
"""What of the heads' inputs is taken from the other model."""


def patched_rows(host: Subject, donor: Subject, groups: Groups) -> tuple[Patched, ...]:
    """The host with outputs, and with inputs, of groups' heads from the donor; groups, then all.

    Args:
        host, donor: Two models of one size.
        groups: Heads by group.

    Raises:
        GraphError: models of other sizes.
    """
    batches = [batch.to(host.ports.model.device) for batch in host.measured]
    some: dict[str, Groups] = {name: {name: heads} for name, heads in groups.items() if heads}
    if len(some) > 1:
        some["all"] = {name: heads for name, heads in groups.items() if heads}
    rows = []
    for name, chosen in some.items():
        logits = [output_patched(host.ports, donor.ports, batch, chosen) for batch in batches]
        rows.append(Patched(host.name, donor.name, name, "output", right(logits, batches)))
        for parts in READ:
            logits = [
                input_patched(host.ports, donor.ports, batch, chosen, parts) for batch in batches
            ]
            what = "".join(parts)
            rows.append(Patched(host.name, donor.name, name, what, right(logits, batches)))
    return tuple(rows)


def shared(tuned: HeadGroups, base: HeadGroups) -> tuple[Shared, ...]:
    """Which heads of each group are in the same group of the other model."""
    return tuple(
        Shared(
            ours.name, ours.heads, theirs.heads, tuple(h for h in ours.heads if h in theirs.heads)
        )
        for ours, theirs in zip(tuned.groups, base.groups, strict=True)
    )
