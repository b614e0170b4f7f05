"""Desiderata-based component masking: which heads of a group carry one thing from prompt to prompt.

Prakash et al. 2024 (arXiv 2402.14811) after Davies et al. 2023, "Discovering Variable Binding
Circuitry with Desiderata" (arXiv 2307.03637). A pair holds two prompts and the answer that the
clean one gets if position, object or label comes from the corrupt one (`Boxes.desiderata`). The
heads that carry it are those whose outputs, taken from the corrupt run at the group's place, bring
that answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.errors import DataError
from circuitprune.models.ports import Ports
from circuitprune.patching.head_groups import Place, places, where
from circuitprune.patching.head_runs import Head, Swap, Values, run_heads

WEIGHT, RATE, EPOCHS, EVERY = 0.01, 0.1, 2, 5
"""Price of a patched head in logits, Adam's rate, passes over the pairs, and steps between two
looks at the validation pairs."""


@dataclass(frozen=True)
class Carriers:
    """The heads of a group that carry one thing, and how often their patch brings its answer."""

    heads: tuple[Head, ...]
    accuracy: float
    """Share of validation pairs whose most likely token is the desired answer."""
    all_heads: float
    """The same with every head of the group patched."""


def learn_carriers(
    ports: Ports,
    heads: Sequence[Head],
    place: Place,
    train: Sequence[Batch],
    val: Sequence[Batch],
    epochs: int = EPOCHS,
    weight: float = WEIGHT,
    lr: float = RATE,
) -> Carriers:
    """The subset of a group's heads whose patch brings the desired answer most often.

    The output of head h at the group's place is `m_h * clean + (1 - m_h) * corrupt`, m starts at 1
    and is kept in [0, 1]. Minimised by Adam is::

        - mean logit of the desired answer + weight * sum over h of (1 - m_h)

    Every few steps m is rounded; kept is what is right most often on `val`, of equals the mask that
    patches more heads. Patching none is among the candidates.

    Args:
        ports: Of the model; its weights stay.
        heads: Of the group.
        place: Where it acts.
        train: Batches of `Boxes.desiderata`.
        val: Others of them.
        epochs, weight, lr: As of the constants above.

    Raises:
        DataError: no pairs to learn from or to choose by.
    """
    if not train or not val:
        raise DataError("carriers are learned on some pairs and chosen on others; there are none")
    mask = torch.ones(len(heads), dtype=ports.model.dtype, device=ports.model.device)
    mask.requires_grad_(True)
    optimizer = torch.optim.Adam([mask], lr=lr)
    known = [_Patch(ports, heads, place, batch) for batch in val]
    best, chosen = _right(known, torch.ones_like(mask)), torch.ones(len(heads), dtype=torch.bool)
    patches = [_Patch(ports, heads, place, batch) for batch in train]
    for step, patch in enumerate(patches * epochs, start=1):
        optimizer.zero_grad()
        target = patch.logits(mask).gather(1, patch.batch.answers).mean()
        loss = -target + weight * (1 - mask).sum()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
        if step % EVERY == 0 or step == len(patches) * epochs:
            rounded = mask.detach().round()
            right = _right(known, rounded)
            kept = rounded.bool()
            if right > best or (right == best and int(kept.sum()) < int(chosen.sum())):
                best, chosen = right, kept
    carriers = tuple(head for head, stays in zip(heads, chosen.tolist(), strict=True) if not stays)
    return Carriers(carriers, best, _right(known, torch.zeros_like(mask)))


class _Patch:
    """A clean run of one batch whose heads may take the corrupt run's outputs at a place."""

    def __init__(self, ports: Ports, heads: Sequence[Head], place: Place, batch: Batch) -> None:
        self.ports, self.batch = ports, batch.to(ports.model.device)
        with torch.no_grad():
            run = run_heads(ports, self.batch.corrupt_prompts, record=("output",))
        self.here = places(self.batch, place)
        there = where(self.batch.corrupt, self.batch.last, place)
        self.values = _moved(run.parts["output"], there, self.here)
        self.heads = heads

    def logits(self, mask: Float[Tensor, " head"]) -> Float[Tensor, "batch vocab"]:
        """With every head's output `mask * own + (1 - mask) * corrupt` at the place."""
        graph, dtype = self.ports.graph, self.ports.model.dtype
        share = torch.zeros(graph.n_layers, graph.n_heads, dtype=dtype, device=mask.device)
        layers, heads = (torch.tensor(part, dtype=torch.long) for part in _columns(self.heads))
        share = share.index_put((layers.to(mask.device), heads.to(mask.device)), 1 - mask)
        take = share[:, None, None, :] * self.here.to(dtype)[None, :, :, None]
        swap = Swap("output", self.values, take)
        return run_heads(self.ports, self.batch.clean_prompts, [swap]).logits


def _columns(heads: Sequence[Head]) -> tuple[list[int], list[int]]:
    return [layer for layer, _ in heads], [head for _, head in heads]


def _moved(
    values: Values, there: Bool[Tensor, "batch pos"], here: Bool[Tensor, "batch pos"]
) -> Values:
    """Values with those at `there` put at `here`, one position of each prompt."""
    rows = torch.arange(len(here), device=here.device)
    source, target = there.long().argmax(1), here.long().argmax(1)
    moved = []
    for of_layer in values:
        changed = of_layer.clone()
        changed[rows, target] = of_layer[rows, source]
        moved.append(changed)
    return tuple(moved)


@torch.no_grad()
def _right(patches: Sequence[_Patch], mask: Float[Tensor, " head"]) -> float:
    """Share of pairs whose most likely token is the desired answer."""
    right = []
    for patch in patches:
        top = patch.logits(mask).argmax(1, keepdim=True)
        right.append((patch.batch.answers == top).any(1).double())
    return float(torch.cat(right).mean())
