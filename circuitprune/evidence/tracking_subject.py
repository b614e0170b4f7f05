"""A model whose entity tracking is looked at, and the pairs that it is looked at on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from circuitprune.data.batches import Batch, collate
from circuitprune.data.encoding import Encoder, encode, pad_token
from circuitprune.data.tasks.boxes import DESIDERATA, Boxes
from circuitprune.data.tasks.pair import Pair, fitted
from circuitprune.errors import DataError
from circuitprune.files.text import counted
from circuitprune.models.ports import Ports

BATCH = 100
"""Prompts that run at once."""
MASK_BATCH = 32
"""Pairs in a step of mask learning, as published."""


@dataclass(frozen=True)
class Budget:
    """How many pairs, heads and draws."""

    n_paths: int = 300
    """Pairs of path patching."""
    n_measured: int = 500
    """Held-out prompts behind accuracies."""
    n_masks: int = 640
    """Pairs that masks are learned on, for each desideratum; half as many choose among them."""
    metric: str = "answer_prob"
    """What a path lowers: `answer_prob`, as published, or `logit_diff` where that is near 1."""
    least: float = 0.02
    """Least loss of it, as a fraction, by which a head is in a group."""
    most: int = 20
    """Heads of a group at most."""
    minimality: float = 0.01
    """Least minimality of a head of the minimal circuit."""
    n_random: int = 20
    """Random circuits, and random parts of the circuit."""


@dataclass(frozen=True)
class Subject:
    """A model that is looked at, with everything it is looked at on."""

    name: str
    ports: Ports
    paths: Sequence[Batch]
    """Pairs of corruption `random`."""
    measured: Sequence[Batch]
    """Others of them."""
    masks: Mapping[str, tuple[Sequence[Batch], Sequence[Batch]]]
    """By desideratum, pairs to learn on and pairs to choose by."""


def subject(
    name: str,
    ports: Ports,
    tokenizer: PreTrainedTokenizerBase,
    budget: Budget,
    seed: int,
    task: Boxes | None = None,
) -> Subject:
    """A model with pairs of the task for its tokenizer, drawn from a seed.

    Args:
        name: What the model is called.
        ports: Of it.
        tokenizer: Its own.
        budget: How many pairs.
        seed: Of drawing them.
        task: In place of `boxes`.

    Raises:
        DataError: too few pairs that the tokenizer can spell, or one whose objects are not one
            token.
    """
    found = fitted(task or Boxes(), Encoder(tokenizer, (), None).one_token)
    assert isinstance(found, Boxes)
    stories: Boxes = found

    def batches(what: str, n: int, draw: int, size: int) -> list[Batch]:
        rng = Random(1000 * seed + draw)
        desired = what in DESIDERATA
        pairs = stories.desiderata(rng, what) if desired else stories.pairs(rng, what)
        return _batches(pairs, tokenizer, n, size)

    masks = {
        what: (
            batches(what, budget.n_masks, 3, MASK_BATCH),
            batches(what, budget.n_masks // 2, 4, BATCH),
        )
        for what in DESIDERATA
    }
    paths = batches("random", budget.n_paths, 1, BATCH)
    measured = batches("random", budget.n_measured, 2, BATCH)
    return Subject(name, ports, paths, measured, masks)


def _batches(
    pairs: Iterable[Pair], tokenizer: PreTrainedTokenizerBase, n: int, size: int
) -> list[Batch]:
    examples, dropped = encode(pairs, tokenizer, n)
    if len(examples) < n or not n:
        raise DataError(
            f"{len(examples)} of {counted(n, 'pair')} of task boxes fit: {dict(dropped)}"
        )
    return [
        collate(examples[i : i + size], range(i, min(i + size, n)), pad_token(tokenizer))
        for i in range(0, n, size)
    ]
