"""Is there any setting of the edges outside a circuit that breaks it?

Faithfulness closes all of them. A circuit that is all of the mechanism should not care how far each
is open; one that lives on their being closed together does. So the outside gates are set by an
adversary, anywhere in [0, 1], to make the KL as large as it can.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch, few_pairs
from circuitprune.engine.progress import Nested, Progress, silent
from circuitprune.engine.references import References
from circuitprune.errors import MetricError
from circuitprune.evidence.case import Case
from circuitprune.evidence.draws import matched
from circuitprune.files.text import counted, nats
from circuitprune.metrics import kl_divergence

START = 0.5
"""Where the outside gates begin: closed, most of them would have no slope."""
RATE = 0.25
"""Length of the first step of every gate; it falls linearly to 0."""
N_RANDOM = 3
"""Random circuits of the size that the same adversary is set on."""


@dataclass(frozen=True)
class Attacked:
    """One circuit and its adversary."""

    closed_kl: float
    """KL with every outside edge closed, in nats."""
    worst_kl: float
    """The largest KL that was found, in nats."""
    n_open: int
    """Outside edges that are more than half open there."""


@dataclass(frozen=True)
class Adversarial:
    """The section `adversarial`."""

    n_pairs: int
    """Held-out pairs, few of them."""
    n_steps: int
    """Steps of the adversary."""
    n_edges: int
    """Edges of the circuit."""
    n_outside: int
    """Edges that the adversary sets."""
    circuit: Attacked
    """The circuit under test."""
    random: tuple[Attacked, ...]
    """Random circuits with as many edges between the same layers and kinds of nodes."""
    empty_kl: float
    """KL of the model with every edge closed, in nats: what is lost without any circuit."""
    path: tuple[float, ...]
    """KL of the circuit at each step of the adversary, in nats."""
    sentence: str
    """The same in words."""


def adversarial(case: Case) -> Adversarial:
    """The worst case over the gates outside the circuit, beside all of them closed.

    Gates of the circuit are 1. Those outside, one number for all pairs, start at `START` and take
    `n_adversarial` steps of the sign of the KL's gradient, clamped to [0, 1]: projected gradient
    ascent. The largest KL on the way counts, the one with all closed among them. It is a lower
    bound of the worst. The same is done to `N_RANDOM` random circuits of `draws.matched`.

    Raises:
        MetricError: the circuit keeps every edge.

    Source: the adversarial ablation of Goodfire's parameter decomposition ("Interpreting Language
    Model Parameters", 2026), there of components of weights.
    """
    if case.mask.all():
        raise MetricError("the circuit keeps every edge, so an adversary has none to set")
    batches, generator = few_pairs(case.batches), case.generator("adversarial")
    masks = [case.mask, *(matched(case.graph, case.mask, generator) for _ in range(N_RANDOM))]
    total = len(masks) * case.n_adversarial
    progress = Nested(case.watch("", "steps"))
    found: list[Attack] = []
    for i, mask in enumerate(masks):
        progress(i * case.n_adversarial, total)
        part = progress.part(case.n_adversarial)
        found.append(attack(case.references, mask, batches, case.n_adversarial, part))
    progress(total, total)
    empty = _kl(case.references, case.empty_mask.double(), batches)
    first, *others = [one.record(~mask) for one, mask in zip(found, masks, strict=True)]
    return Adversarial(
        n_pairs=sum(map(len, batches)),
        n_steps=case.n_adversarial,
        n_edges=int(case.mask.sum()),
        n_outside=int((~case.mask).sum()),
        circuit=first,
        random=tuple(others),
        empty_kl=empty,
        path=found[0].path,
        sentence=_sentence(case, first, others, empty, sum(map(len, batches))),
    )


@dataclass(frozen=True)
class Attack:
    """What an adversary found."""

    closed_kl: float
    worst_kl: float
    gates: Float[Tensor, " edge"]
    """Those of the largest KL; 1 in the circuit."""
    path: tuple[float, ...]
    """KL at each step."""

    def record(self, outside: Bool[Tensor, " edge"]) -> Attacked:
        """The numbers of it."""
        return Attacked(self.closed_kl, self.worst_kl, int((self.gates[outside] > 0.5).sum()))


def attack(
    references: References,
    mask: Bool[Tensor, " edge"],
    batches: Sequence[Batch],
    n_steps: int,
    progress: Progress = silent,
) -> Attack:
    """Projected gradient ascent of the mean KL in the gates outside a circuit."""
    inside = mask.double()
    worst_kl, gates = _kl(references, inside, batches), inside
    closed_kl, path = worst_kl, list[float]()
    now = inside + START * (1 - inside)
    for step in range(n_steps):
        kl, slopes = _slopes(references, now, batches)
        path.append(kl)
        if kl > worst_kl:
            worst_kl, gates = kl, now
        moved = now + RATE * (1 - step / n_steps) * slopes.sign()
        now = torch.where(mask, inside, moved.clamp(0, 1))
        progress(step + 1, n_steps)
    return Attack(closed_kl, worst_kl, gates, tuple(path))


def _slopes(
    references: References, gates: Float[Tensor, " edge"], batches: Sequence[Batch]
) -> tuple[float, Float[Tensor, " edge"]]:
    """Mean KL under gates, and its gradient in them."""
    total, slopes, n = 0.0, torch.zeros_like(gates), sum(map(len, batches))
    precise = torch.promote_types(references.gated.dtype, torch.float32)
    for run in references.runs(batches):
        free = gates.to(references.gated.device, precise).requires_grad_()
        with torch.enable_grad():
            kl = kl_divergence(run.full, run(free)).sum()
            (slope,) = torch.autograd.grad(kl, free)
        total, slopes = total + kl.item(), slopes + slope.double().cpu()
    return total / n, slopes / n


@torch.no_grad()
def _kl(references: References, gates: Float[Tensor, " edge"], batches: Sequence[Batch]) -> float:
    """Mean KL under gates, as the adversary's own is measured."""
    total, gated = 0.0, references.gated
    for run in references.runs(batches):
        total += kl_divergence(run.full, run(gates.to(gated.device, gated.dtype))).sum().item()
    return total / sum(map(len, batches))


def _sentence(
    case: Case, found: Attacked, others: Sequence[Attacked], empty: float, n_pairs: int
) -> str:
    told = ", ".join(f"{nats(one.closed_kl)} to {nats(one.worst_kl)}" for one in others)
    return (
        f"With the {counted(int((~case.mask).sum()), 'edge')} outside the circuit set by an "
        f"adversary in {counted(case.n_adversarial, 'step')} on {counted(n_pairs, 'pair')}, the "
        f"circuit's KL rises from {nats(found.closed_kl)} nats, all closed, to "
        f"{nats(found.worst_kl)}; without any edge it is {nats(empty)}. Random circuits between "
        f"the same layers and kinds of nodes: {told}. The worst that was found is a lower bound "
        "of the worst that there is."
    )
