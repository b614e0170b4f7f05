"""The whole path from a task to batches: encode and check, split, pad, draw in order.

prepare(task, tokenizer) = collate . split . encode(task.pairs(...))
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from circuitprune.data.batches import NO_TOKEN, Batch, TrainOrder, collate, draw
from circuitprune.data.encoding import (
    Encoder,
    Example,
    bos_tokens,
    encode,
    encode_until,
    pad_token,
    refuse_beyond,
)
from circuitprune.data.splits import SPLITS, Size, counts, is_count, left_empty, sizes, split
from circuitprune.data.tasks.pair import Task, fitted, pairs_of
from circuitprune.errors import DataError
from circuitprune.files.text import counted

__all__ = [
    "NO_TOKEN",
    "SPLITS",
    "Batch",
    "Example",
    "PairData",
    "Report",
    "TrainOrder",
    "bos_tokens",
    "collate",
    "draw",
    "encode",
    "pad_token",
    "pairs_hash",
    "prepare",
    "split",
]


Sides = dict[str, list[Example]]


@dataclass(frozen=True)
class Report:
    """What became of the pairs: how many each side holds, and why others were dropped."""

    kept: dict[str, int]
    dropped: Counter[str]
    """Reason -> pairs dropped for it."""
    shown: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first pairs dropped for it, with the tokens of what does not fit."""

    def summary(self) -> str:
        """One line for the sides, one for each reason."""
        kept = ", ".join(f"{number} {name}" for name, number in self.kept.items())
        return "\n".join([f"kept {kept}", *_reasons(self.dropped)])


def _reasons(dropped: Counter[str]) -> list[str]:
    return [f"  dropped {number}: {reason}" for reason, number in dropped.most_common()]


def pairs_hash(splits: Mapping[str, Sequence[Example]]) -> str:
    """Hash of the pairs of each side in their order: prompts, answers, and spans if any."""
    parts = ("clean", "corrupt", "answers", "wrong")
    rows = {
        side: [[getattr(of, part) for of in (one.pair, one) for part in parts] for one in examples]
        for side, examples in splits.items()
    }
    spans = [one.spans for examples in splits.values() for one in examples if one.spans]
    return hashlib.sha256(f"{rows}{spans or ''}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Numbered(Dataset[tuple[int, Example]]):
    """One side; each example comes with its id in the whole data set."""

    examples: list[Example]
    first: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> tuple[int, Example]:
        return self.first + position, self.examples[position]


Loader = DataLoader[tuple[int, Example]]
"""Of examples, which come out as a `Batch`."""


class PairData(LightningDataModule):
    """The three sides as batches, for Lightning or for a plain loop.

    Args:
        splits: Side -> examples, as `split` returns them.
        batch_size: Examples in a batch (over all ranks together, in training).
        pad_id: Token that fills up short prompts; causal models never look at it.
        seed: Order of the training batches.
        report: What `prepare` kept and dropped.

    `start_step` is the first step that `train_dataloader` yields; set it to the global step of
    a checkpoint *before* the trainer asks for the loader, and the batches continue where they
    stopped. `together` is how many training examples that follow each other are drawn as one.
    The training loader never ends: bound it with `max_steps`. Under several ranks, give the
    Trainer `use_distributed_sampler=False`.
    """

    def __init__(
        self,
        splits: dict[str, list[Example]],
        batch_size: int,
        pad_id: int,
        seed: int,
        report: Report | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        self.splits = {name: splits.get(name, []) for name in SPLITS}
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.seed = seed
        self.start_step = 0
        self.together = 1
        kept = {name: len(examples) for name, examples in self.splits.items()}
        self.report = report or Report(kept, Counter())
        self._first_index = dict(
            zip(SPLITS, itertools.accumulate(kept.values(), initial=0), strict=False)
        )

    def train_dataloader(self) -> Loader:
        """Endless batches of steps `start_step`, `start_step + 1`, ...; see `draw`."""
        examples = self._numbered("train")
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if not examples:
            raise DataError("there is nothing to train on: n_train is 0")
        if self.batch_size % world_size:
            raise DataError(
                f"a batch of {self.batch_size} cannot be shared evenly by "
                f"{counted(world_size, 'rank')}"
            )
        which = (self.seed, self.start_step, rank, world_size, self.together)
        order = TrainOrder(len(examples), self.batch_size, *which)
        return DataLoader(examples, batch_sampler=order, collate_fn=self._collate)

    def val_dataloader(self) -> Loader | list[Batch]:
        """The validation side in order, the last batch short; `[]` when there is none."""
        return self._ordered("val", self.batch_size)

    def test_dataloader(self) -> Loader | list[Batch]:
        """The test side in order, the last batch short; `[]` when there is none."""
        return self._ordered("test", self.batch_size)

    def batches(self, name: str, batch_size: int | None = None) -> list[Batch]:
        """All batches of one side, in order, the last one short; empty for an empty side."""
        if name not in self.splits:
            raise DataError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        return list(self._ordered(name, batch_size or self.batch_size))

    def _ordered(self, name: str, batch_size: int) -> Loader | list[Batch]:
        examples = self._numbered(name)
        if not examples:
            return []
        return DataLoader(examples, batch_size=batch_size, collate_fn=self._collate)

    def _numbered(self, name: str) -> "_Numbered":
        return _Numbered(self.splits[name], self._first_index[name])

    def _collate(self, numbered: list[tuple[int, Example]]) -> Batch:
        indices, examples = zip(*numbered, strict=True)
        return collate(examples, indices, self.pad_id)


def prepare(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_train: Size,
    n_val: Size,
    n_test: Size,
    seed: int,
    corruption: str = "",
    split_by: str = "pair",
    batch_size: int = 32,
    bos: str = "auto",
    max_length: int | None = None,
    n_tokens: int | None = None,
) -> PairData:
    """Pairs of a task, checked, split and ready in batches.

    Args:
        task: One of `TASKS`, a `JsonlTask`, or any object of that shape.
        tokenizer: The model's own.
        n_train, n_val, n_test: Size of each side: a whole number of pairs; a decimal in (0, 1], the
            fraction of those that fit, so that 1.0 is all of them and 1 is one; or `auto`, a share
            of what the others leave. Each may be 0, not all.
        seed: Which pairs are drawn, which side they go to, and the order of training batches.
        corruption: One of `task.corruptions`; `""` is the first.
        split_by: `pair`, or `group` to keep each template or entity on one side.
        batch_size: Pairs in a batch.
        bos: See `bos_tokens`.
        max_length: Longest prompt in tokens, BOS included; the model's number of positions.
        n_tokens: Tokens that the model has embeddings for; None asks nothing.

    Raises:
        ModelError: a pair has a token that the model has no embedding for.
        DataError: too few pairs are left after the checks, with the table of reasons and the first
            pair that was dropped; or they cannot be split as asked.
    """
    wanted = [n_train, n_val, n_test]
    task = fitted(task, Encoder(tokenizer, (), None).one_token)

    def encoded(needed: int) -> Encoder:
        return encode_until(pairs_of(task, seed, corruption), tokenizer, needed, bos, max_length)

    if all(map(is_count, wanted)):
        encoder, splits = _drawn(task.name, encoded, counts(wanted, 0), seed, split_by)
    else:
        encoder = encoded(_length(task))
        splits = _shared_out(encoder.examples, wanted, seed, split_by)
    report = Report(
        {name: len(side) for name, side in splits.items()}, encoder.dropped, encoder.shown
    )
    if n_tokens is not None:
        refuse_beyond(itertools.chain(*splits.values()), tokenizer, n_tokens)
    return PairData(splits, batch_size, pad_token(tokenizer, n_tokens), seed, report)


def _drawn(
    name: str, encoded: Callable[[int], Encoder], wanted: Sequence[int], seed: int, by: str
) -> tuple[Encoder, Sides]:
    """As many pairs as asked for, from a file or an endless stream."""
    total = sum(sizes(*wanted).values())
    needed = total if by == "pair" else 2 * total
    while True:  # inseparable sets may not fill the sides exactly: then draw more of them
        encoder = encoded(needed)
        if len(encoder.examples) < total:
            raise DataError(_too_few(name, total, encoder))
        try:
            return encoder, split(encoder.examples, *_three(wanted), seed, by)
        except DataError:
            if len(encoder.examples) < needed or needed >= 8 * total:
                raise
            needed *= 2


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Sizes of `train`, `val` and `test`, as many as there are."""
    n_train, n_val, n_test = sizes
    return n_train, n_val, n_test


def _shared_out(examples: list[Example], wanted: Sequence[Size], seed: int, by: str) -> Sides:
    """All pairs, or a few less where inseparable sets do not fill the sides exactly.

    Raises:
        DataError: the sides together want more than there is, or one that is wanted gets nothing.
    """
    asked = counts(wanted, len(examples))
    if empty := left_empty(wanted, asked):
        raise DataError(
            f"too few pairs: {len(examples)} fit, which leaves none for {' and '.join(empty)}; add "
            "some, or set to 0 what may be empty"
        )
    if sum(asked) > len(examples):
        raise DataError(
            f"n_train, n_val and n_test want {' + '.join(map(str, asked))} pairs, but "
            f"{len(examples)} fit; 1.0 is all of them, and `auto` what the others leave"
        )
    spare = [0, *(2**power for power in range(len(examples).bit_length()))]
    for left_out in spare:
        fewer = counts(wanted, len(examples) - left_out)
        if left_empty(wanted, fewer):
            break
        try:
            return split(examples, *_three(fewer), seed, by)
        except DataError as error:
            problem = error
    raise problem


def _length(task: Task) -> int:
    """Pairs that a task holds.

    Raises:
        DataError: an endless one, which has no fractions.
    """
    if not isinstance(task, Sized):
        raise DataError(
            f"task {task.name!r} makes pairs without end, so a fraction of them or `auto` says "
            "nothing; give numbers for n_train, n_val and n_test"
        )
    return len(task)


def _too_few(name: str, total: int, encoder: Encoder) -> str:
    found = len(encoder.examples)
    tried = found + sum(encoder.dropped.values())
    lines = [
        f"task {name!r} gave too few usable pairs: asked for {total}, found {found} among {tried}",
        *_reasons(encoder.dropped),
    ]
    lines += [f"  for example, {encoder.shown[of][0]}" for of, _ in encoder.dropped.most_common(1)]
    lines.append("  ask for fewer pairs, or use names and words that this tokenizer keeps whole")
    if name == "jsonl":
        lines.append("  `circuitprune check FILE MODEL` shows more of the pairs that do not fit")
    return "\n".join(lines)
