"""Examples side by side, and the order in which training draws them."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.data.encoding import Example
from circuitprune.errors import DataError

NO_TOKEN = -1
"""Fills the short rows of `Batch.answers` and `Batch.wrong`; no token has this id."""


class Prompts(NamedTuple):
    """What a run of the model is given."""

    tokens: Int[Tensor, "batch pos"]
    """Padded on the right."""
    mask: Bool[Tensor, "batch pos"]
    """True on real tokens."""
    last: Int[Tensor, " batch"]
    """Answer position of each."""
    prefix: "Prefix | None" = None
    """What stands in front of the tokens and has been run already."""

    def repeat(self, n: int) -> "Prompts":
        """Copies, one after the other; they share the prefix."""
        tokens, mask, last, prefix = self
        return Prompts(tokens.repeat(n, 1), mask.repeat(n, 1), last.repeat(n), prefix)


@dataclass(frozen=True)
class Prefix:
    """What the prompts of a batch begin with, as the attention of whatever follows sees it."""

    lengths: Int[Tensor, " batch"]
    """Tokens of each."""
    keys_values: Float[Tensor, "two_per_layer batch kv_head prefix d_head"]
    """Keys and values of each layer in turn, padded on the left: all end where the rest begins."""

    def to(self, device: torch.device | str) -> "Prefix":
        """The same on a device."""
        return Prefix(self.lengths.to(device), self.keys_values.to(device))


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right to the longest of them."""

    index: Int[Tensor, " batch"]
    """Unique id of each example over all splits of the data set: the key of caches."""
    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    """True on real tokens (BOS included), False on padding; the same for both prompts."""
    last: Int[Tensor, " batch"]
    """Position whose logits predict the answer: the last real token."""
    answers: Int[Tensor, "batch n_answer"]
    """Right tokens; short rows end in -1 (`NO_TOKEN`)."""
    wrong: Int[Tensor, "batch n_wrong"]
    """Wrong tokens; short rows end in -1."""

    @property
    def clean_prompts(self) -> Prompts:
        """The clean ones, as a run takes them."""
        return Prompts(self.clean, self.mask, self.last)

    @property
    def corrupt_prompts(self) -> Prompts:
        """The corrupt ones."""
        return Prompts(self.corrupt, self.mask, self.last)

    @property
    def whole(self) -> "Batch":
        """The batch with whatever its prompts begin with."""
        return self

    @property
    def spans(self) -> Int[Tensor, "batch pos"] | None:
        """The span that each token is dealt to; None if they are not told apart."""
        return None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __len__(self) -> int:
        return len(self.index)

    def shared(self) -> Int[Tensor, " batch"]:
        """How many tokens the clean and the corrupt prompt of each begin with alike.

        The answer position is never among them.
        """
        same = (self.clean == self.corrupt).long().cumprod(dim=1).sum(dim=1)
        return torch.minimum(same, self.last)

    def behind(self, prefix: Prefix) -> "Rest":
        """What follows the prefix, padded on the right to the longest rest."""
        lengths = prefix.lengths
        last = self.last - lengths
        here = torch.arange(int(last.max()) + 1, device=last.device)
        at = (lengths[:, None] + here).clamp(max=self.clean.shape[1] - 1)
        clean, corrupt = self.clean.gather(1, at), self.corrupt.gather(1, at)
        mask = here <= last[:, None]
        return Rest(self.index, clean, corrupt, mask, last, self.answers, self.wrong, prefix, self)


@dataclass(frozen=True)
class Dealt(Batch):
    """Examples whose tokens are dealt to spans of positions."""

    dealt: Int[Tensor, "batch pos"]
    """The span of each token; any on padding."""

    @property
    def spans(self) -> Int[Tensor, "batch pos"] | None:
        """The span that each token is dealt to."""
        return self.dealt


@dataclass(frozen=True)
class Rest(Batch):
    """Examples without the tokens that their two prompts begin with alike.

    Everything at those positions is the same in the clean and the corrupt run, whatever the gates,
    so under `patch` no edge carries anything there, and no gradient.
    """

    prefix: Prefix
    of: Batch
    """The same examples whole."""

    @property
    def clean_prompts(self) -> Prompts:
        """The clean ones behind the prefix."""
        return super().clean_prompts._replace(prefix=self.prefix)

    @property
    def corrupt_prompts(self) -> Prompts:
        """The corrupt ones behind the prefix."""
        return super().corrupt_prompts._replace(prefix=self.prefix)

    @property
    def whole(self) -> Batch:
        """The same examples whole."""
        return self.of

    @property
    def spans(self) -> Int[Tensor, "batch pos"] | None:
        """The span of each token behind the prefix."""
        spans = self.of.spans
        return None if spans is None else self._of_rest(spans)

    def _of_rest(self, values: Int[Tensor, "batch whole"]) -> Int[Tensor, "batch pos"]:
        """What stands behind the prefix; whatever comes last goes on over the padding."""
        here = torch.arange(self.clean.shape[1], device=values.device)
        at = self.prefix.lengths[:, None] + here
        return values.gather(1, at.clamp(max=values.shape[1] - 1))


def collate(examples: Sequence[Example], indices: Sequence[int], pad_id: int) -> Batch:
    """One batch of the examples; `indices` are their ids in the data set."""
    lengths = torch.tensor([len(example.clean) for example in examples])
    clean = _rows([example.clean for example in examples], pad_id)
    whole = Batch(
        index=torch.tensor(list(indices)),
        clean=clean,
        corrupt=_rows([example.corrupt for example in examples], pad_id),
        mask=torch.arange(clean.shape[1]) < lengths[:, None],
        last=lengths - 1,
        answers=_rows([example.answers for example in examples], NO_TOKEN),
        wrong=_rows([example.wrong for example in examples], NO_TOKEN),
    )
    if not examples[0].spans:
        return whole
    return Dealt(**vars(whole), dealt=_rows([example.spans for example in examples], 0))


def _rows(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "row column"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def draw(n_examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Positions of the training examples of one step: a pure function of seed and step.

    The examples are drawn in an endless sequence of epochs, each a permutation that depends on
    `(seed, epoch)` alone; step `s` takes places `s * batch_size` to `(s + 1) * batch_size - 1`,
    so a batch may cross the border of two epochs, or of many.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    epochs = {place // n_examples for place in places}
    order = {epoch: _permutation(n_examples, seed, epoch) for epoch in epochs}
    return [order[place // n_examples][place % n_examples] for place in places]


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    return Random(f"{seed}-{epoch}").sample(range(n), n)


@dataclass(frozen=True)
class TrainOrder:
    """Endless batch sampler: the draws of steps `start`, `start + 1`, ...

    With several ranks, each takes its share of every step's draw, so together they see the same
    batches as one rank would. Examples may be drawn by groups of `together` that follow each other:
    what is left over of examples and of the batch is passed over.
    """

    n_examples: int
    batch_size: int
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1
    together: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        n, size = self.n_examples // self.together, self.batch_size // self.together
        for step in itertools.count(self.start):
            groups = draw(n, size, self.seed, step)
            batch = [first * self.together + i for first in groups for i in range(self.together)]
            yield batch[self.rank :: self.world_size]


def by_group(examples: Sequence[Example], batch_size: int) -> tuple[list[Example], int]:
    """The examples with those of a group behind each other, and how many a group has.

    Groups that are smaller than the largest are left out: others of them are on another side.

    Raises:
        DataError: a batch that is not a number of groups.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.pair.group, []).append(example)
    size = max(map(len, groups.values()))
    if batch_size % size:
        raise DataError(f"a batch of {batch_size} is no whole number of groups of {size}")
    return [one for group in groups.values() if len(group) == size for one in group], size


FEW_PAIRS = 32
"""Pairs that hundreds of circuits are compared on."""


def few_pairs(batches: Sequence[Batch], n: int = FEW_PAIRS) -> list[Batch]:
    """The first `n` pairs: for evidence that runs the model hundreds of times.

    Splits are drawn at random, so the first pairs are a random sample of them.
    """
    few, missing = [], n
    for batch in batches:
        if missing <= 0:
            break
        parts = {f.name: getattr(batch, f.name)[:missing] for f in fields(batch)}
        few.append(type(batch)(**parts))
        missing -= len(few[-1])
    return few
