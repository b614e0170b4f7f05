"""What a circuit's neurons and features are: where they are strongest, and what they promote."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.span_graph import base_of, grid_of
from circuitprune.data.batches import Batch
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.evidence.case import Case
from circuitprune.evidence.shown_pairs import short, speller
from circuitprune.lens.parts import FINE, activations, direct_effects

MOST_PARTS = 200
"""Neurons and features that are read; of more, those that rank highest."""
N_EXAMPLES = 6
"""Prompts at most on which each is shown."""
N_TOKENS = 8
"""Tokens that each promotes most, and as many that it demotes."""


@dataclass(frozen=True)
class Peak:
    """A token of a prompt at which a part is strong."""

    prompt: int
    """Position of the prompt in `PartReadings.prompts`."""
    at: int
    """Position of the token in it."""
    value: float
    """How strong it is there."""


@dataclass(frozen=True)
class PartReading:
    """One neuron or feature of the circuit, in the untouched model."""

    part: str
    """Its name, `m3.n17` or `m3.f17`."""
    on: float
    """Share of the prompts' tokens at which it is not 0."""
    examples: tuple[Peak, ...]
    """Where it is strongest by magnitude, one token of a prompt, the strongest first."""
    promotes: tuple[tuple[str, float], ...]
    """Tokens whose logits a unit of it raises most, directly, and by how much; see `lens.parts`."""
    demotes: tuple[tuple[str, float], ...]
    """Tokens whose logits it lowers most."""


@dataclass(frozen=True)
class PartReadings:
    """The neurons and features of a circuit."""

    n_parts: int
    """That the circuit keeps, of which at most `MOST_PARTS` are read."""
    n_pairs: int
    """Pairs on whose clean prompts they are read."""
    parts: tuple[PartReading, ...]
    """In the order of their rank."""
    prompts: tuple[tuple[str, ...], ...]
    """Tokens of the prompts that are shown."""


def part_readings(case: Case, batches: Sequence[Batch]) -> PartReadings | None:
    """The circuit's neurons and features on some pairs, at whatever span; None if it keeps none."""
    gated, graph = case.references.gated, base_of(case.graph)
    kept = grid_of(case.graph, case.mask.cpu(), False).any(dim=1).nonzero().flatten().tolist()
    fine = [part for part in kept if FINE.fullmatch(graph.edge_name(part))]
    if not isinstance(gated, GatedParts) or not fine:
        return None
    gated = gated.whole
    ranks = grid_of(case.graph, case.ranking, -torch.inf).amax(dim=1)
    chosen = sorted(fine, key=lambda part: -ranks[part].item())[:MOST_PARTS]
    peaks, on, prompts = _peaks(gated, chosen, batches)
    effects = direct_effects(gated, chosen, batches)
    spell, shown = speller(case), sorted({peak.prompt for of in peaks for peak in of})
    place = {prompt: at for at, prompt in enumerate(shown)}
    readings = tuple(
        PartReading(
            graph.edge_name(part),
            short(on[at]),
            tuple(Peak(place[one.prompt], one.at, short(one.value)) for one in peaks[at]),
            *(
                tuple((spell(t), short(sign * v)) for v, t in _top(sign * effects[at]))
                for sign in (1, -1)
            ),
        )
        for at, part in enumerate(chosen)
    )
    texts = tuple(tuple(map(spell, prompts[prompt])) for prompt in shown)
    return PartReadings(len(fine), sum(map(len, batches)), readings, texts)


def _peaks(
    gated: GatedParts, parts: Sequence[int], batches: Sequence[Batch]
) -> tuple[list[list[Peak]], list[float], list[list[int]]]:
    """Of each part the prompts on which it is strongest, how often it is on; and all prompts."""
    values, at, on, prompts = (
        [],
        [],
        torch.zeros(len(parts), dtype=torch.float64),
        list[list[int]](),
    )
    for batch in batches:
        found = activations(gated, parts, batch.clean, batch.mask).float().cpu()
        found = found.masked_fill(~batch.mask.cpu(), 0)
        on += (found != 0).sum((1, 2))
        place = found.abs().argmax(-1, keepdim=True)
        values.append(found.gather(-1, place).squeeze(-1))
        first = batch.mask.long().argmax(1).cpu()  # padding stands in front, or behind
        at.append(place.squeeze(-1) - first)
        rows = zip(batch.clean, batch.mask, strict=True)
        prompts += [tokens[real].tolist() for tokens, real in rows]
    strong, where = torch.cat(values, 1), torch.cat(at, 1)
    best = strong.abs().topk(min(N_EXAMPLES, strong.shape[1]), dim=1).indices
    peaks = [
        [Peak(p, int(where[part, p]), float(strong[part, p])) for p in row if strong[part, p] != 0]
        for part, row in enumerate(best.tolist())
    ]
    return peaks, (on / sum(map(len, prompts))).tolist(), prompts


def _top(effects: Float[Tensor, " vocab"]) -> list[tuple[float, int]]:
    found = effects.topk(min(N_TOKENS, len(effects)))
    return list(zip(found.values.tolist(), found.indices.tolist(), strict=True))
