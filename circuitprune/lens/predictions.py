"""What the model and a circuit would say next on a few pairs: their most likely tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.references import References

N_TOP = 5
"""Tokens of each prediction."""
Prediction = tuple[tuple[str, float], ...]
"""Tokens with their probabilities, rounded to four digits after the point; the likeliest first."""


@dataclass(frozen=True)
class NextTokens:
    """What would follow on one pair."""

    model: Prediction
    """By the untouched model on the clean prompt."""
    model_corrupt: Prediction
    """By the untouched model on the corrupt prompt."""
    circuit: Prediction
    """By the circuit on the clean prompt: its edges live, all others ablated."""


@dataclass(frozen=True)
class TokenPair:
    """One pair as the tokenizer names its tokens."""

    clean: tuple[str, ...]
    """The prompt."""
    corrupt: tuple[str, ...]
    """Its corruption, as long."""
    answers: tuple[str, ...]
    """Right tokens."""
    wrong: tuple[str, ...]
    """Wrong tokens."""
    next: NextTokens
    """What would follow."""
    spans: tuple[str, ...] | None = None
    """The span of each token of the prompts; absent where they are not told apart."""


@dataclass(frozen=True)
class ExamplePairs:
    """`pairs.json`: pairs that a report shows."""

    split: str
    """Which side they are from: `test`, `val` or `train`."""
    n: int
    """Pairs that this side has."""
    n_edges: int
    """Edges of the circuit whose predictions these are."""
    pairs: tuple[TokenPair, ...]
    """The first of them."""


@torch.no_grad()
def predictions(
    references: References,
    circuit: Bool[Tensor, " edge"],
    batches: Sequence[Batch],
    spell: Callable[[int], str],
) -> list[NextTokens]:
    """For each pair what follows.

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
        batch = run.batch.whole
        logits = {
            "model": run.full,
            "model_corrupt": run.gated.plain(batch.corrupt, batch.mask, batch.last),
            "circuit": run(circuit),
        }
        tops = {name: _top(values, spell) for name, values in logits.items()}
        found += [
            NextTokens(**{name: top[row] for name, top in tops.items()})
            for row in range(len(batch))
        ]
    return found


def _top(logits: Float[Tensor, "batch vocab"], spell: Callable[[int], str]) -> list[Prediction]:
    """The best tokens of each row."""
    best = logits.double().softmax(-1).topk(min(N_TOP, logits.shape[-1]))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [tuple((spell(t), round(p, 4)) for t, p in zip(*row, strict=True)) for row in rows]
