"""What the model and a circuit would say next on a few pairs: their most likely tokens."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.references import References

N_TOP = 5
"""Tokens of each prediction."""
Prediction = list[tuple[str, float]]
"""Tokens with their probabilities, the most likely first."""


@torch.no_grad()
def predictions(
    references: References,
    circuit: Bool[Tensor, " edge"],
    batches: Sequence[Batch],
    spell: Callable[[int], str],
) -> list[dict[str, Prediction]]:
    """For each pair what follows, with probabilities rounded to four digits after the point.

    `model` and `model_corrupt` are the untouched model on the clean and on the corrupt prompt,
    `circuit` the circuit on the clean one: hard gates, cut edges ablated, as it was verified.

    Args:
        references: The model and what cut edges carry.
        circuit: The kept edges.
        batches: The pairs.
        spell: Text of a token id.
    """
    found = []
    for run in references.runs(batches):
        batch = run.batch
        logits = {
            "model": run.full,
            "model_corrupt": run.gated.plain(batch.corrupt, batch.mask, batch.last),
            "circuit": run(circuit),
        }
        tops = {name: _top(values, spell) for name, values in logits.items()}
        found += [{name: top[row] for name, top in tops.items()} for row in range(len(batch))]
    return found


def _top(logits: Float[Tensor, "batch vocab"], spell: Callable[[int], str]) -> list[Prediction]:
    """The best tokens of each row."""
    best = logits.double().softmax(-1).topk(min(N_TOP, logits.shape[-1]))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [[(spell(t), round(p, 4)) for t, p in zip(*row, strict=True)] for row in rows]
