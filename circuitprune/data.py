"""From pairs of prompts to batches of tokens: encode and check, split, pad, draw in order.

    prepare(task, tokenizer) = collate . split . encode(task.pairs(...))

Nothing is repaired on the way: a pair that does not fit is dropped and counted with its reason.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from random import Random

import torch
from jaxtyping import Bool, Int
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from circuitprune.errors import DataError
from circuitprune.tasks.pair import Pair, Task

SPLITS: tuple[str, ...] = ("train", "val", "test")

NO_TOKEN = -1
"""Fills the short rows of `Batch.answers` and `Batch.wrong`; no token has this id."""


# -------------------------------------------------------------------- one pair


@dataclass(frozen=True)
class Example:
    """One aligned pair in tokens: `clean` and `corrupt` have the same length."""

    pair: Pair
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answers: tuple[int, ...]
    """Tokens of which any one is right after `clean`; at least one."""
    wrong: tuple[int, ...]
    """Tokens of which any one is wrong; at least one, none of them in `answers`."""


def bos_tokens(tokenizer: PreTrainedTokenizerBase, bos: str = "auto") -> tuple[int, ...]:
    """The tokens to put in front of every prompt.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        bos: `auto` takes what the tokenizer itself puts in front of a text (`<s>` for Llama,
            nothing for GPT-2); `always` insists on the BOS token, `never` leaves it out.

    Raises:
        DataError: another word, or `always` for a tokenizer without a BOS token.
    """
    if bos not in ("auto", "always", "never"):
        raise DataError(f"bos must be 'auto', 'always' or 'never', got {bos!r}")
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    own = next(
        (tuple(full[:i]) for i in range(len(full)) if full[i : i + len(bare)] == bare), ()
    )  # whatever follows the text, such as an EOS, is left out: the answer comes next
    token = _special(tokenizer, "bos")
    if bos == "always" and token is None:
        raise DataError("bos is 'always', but this tokenizer has no BOS token; use 'auto'")
    if bos == "always" and token is not None and token not in own:
        return (token,)
    return () if bos == "never" else own


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token to pad with: the tokenizer's own, else its EOS, else 0."""
    candidates = (_special(tokenizer, "pad"), _special(tokenizer, "eos"), 0)
    return next(token for token in candidates if token is not None)


def _special(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    return getattr(tokenizer, f"{name}_token_id")


@dataclass
class _Encoder:
    """Turns pairs into examples and keeps the account of those it had to drop."""

    tokenizer: PreTrainedTokenizerBase
    prefix: tuple[int, ...]
    max_length: int | None
    examples: list[Example] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Reason -> the first pair dropped for it, with its tokens."""
    _seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)

    def add(self, pair: Pair) -> None:
        clean, corrupt = self._tokens([pair.clean, pair.corrupt])
        outcome = self._prompt_problem(clean, corrupt) or self._example(pair, clean, corrupt)
        if isinstance(outcome, Example):
            self.examples.append(outcome)
            self._seen.add((outcome.clean, outcome.corrupt))
            return
        self.dropped[outcome] += 1
        if outcome not in self.first:
            self.first[outcome] = (
                f"{pair.id}\n    clean    {pair.clean!r} -> {self._words(clean)}"
                f"\n    corrupt  {pair.corrupt!r} -> {self._words(corrupt)}"
                f"\n    answers  {list(pair.answers)[:5]}, wrong {list(pair.wrong)[:5]}"
            )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _words(self, ids: list[int]) -> list[str]:
        return list(self.tokenizer.convert_ids_to_tokens(ids))

    def _prompt_problem(self, clean: list[int], corrupt: list[int]) -> str | None:
        both = {*clean, *corrupt}
        if not clean or not corrupt:
            return "a prompt is empty"
        if _special(self.tokenizer, "unk") in both:
            return "a prompt has a word that the tokenizer does not know"
        if both & set(self.tokenizer.all_special_ids):
            return "a prompt has a special token inside"
        if len(clean) != len(corrupt):
            return "clean and corrupt have different numbers of tokens"
        if clean == corrupt:
            return "clean and corrupt are the same"
        length = len(self.prefix) + len(clean)
        if self.max_length is not None and length > self.max_length:
            return f"a prompt is longer than {self.max_length} tokens"
        return None

    def _example(self, pair: Pair, clean: list[int], corrupt: list[int]) -> Example | str:
        prompts = (*self.prefix, *clean), (*self.prefix, *corrupt)
        if prompts in self._seen:
            return "the pair repeats an earlier one"
        answers = self._continuations(pair.clean, clean, pair.answers)
        wrong = self._continuations(pair.clean, clean, pair.wrong)
        if not answers:
            return "no answer is a single known token after its prompt"
        if not wrong:
            return "no wrong answer is a single known token after its prompt"
        if set(answers) & set(wrong):
            return "answer and wrong answer share a token"
        return Example(pair, *prompts, answers, wrong)

    def _continuations(
        self, prompt: str, tokens: list[int], answers: Sequence[str]
    ) -> tuple[int, ...]:
        """Ids of the answers that add exactly one token to the prompt and change none of it."""
        special = {*self.tokenizer.all_special_ids, _special(self.tokenizer, "unk")}
        whole = self._tokens([prompt + answer for answer in answers])
        ids = [ids[-1] for ids in whole if ids[:-1] == tokens and ids[-1] not in special]
        return tuple(dict.fromkeys(ids))


def _encode(
    pairs: Iterable[Pair],
    tokenizer: PreTrainedTokenizerBase,
    needed: int,
    bos: str,
    max_length: int | None,
) -> _Encoder:
    encoder = _Encoder(tokenizer, bos_tokens(tokenizer, bos), max_length)
    tries = 20 * needed + 1000
    for pair in itertools.islice(pairs, tries if needed else 0):
        encoder.add(pair)
        if len(encoder.examples) == needed:
            break
    return encoder


def encode(
    pairs: Iterable[Pair],
    tokenizer: PreTrainedTokenizerBase,
    needed: int,
    bos: str = "auto",
    max_length: int | None = None,
) -> tuple[list[Example], Counter[str]]:
    """The first `needed` pairs that fit, in tokens, and why others were dropped.

    A pair fits when both prompts have the same number of tokens, none of them unknown or special,
    and at least one answer and one wrong answer is *one token in context*:
    `tok(prompt + answer) == tok(prompt) + [id]`. Members of an answer set that are not are left
    out of the set. The rest of the rules are in `docs/data.md`.

    Args:
        pairs: Any number of pairs, endless streams included.
        tokenizer: Any Hugging Face tokenizer.
        needed: Stop after this many; fewer come back when the stream ends, or after
            `20 * needed + 1000` tries.
        bos: See `bos_tokens`.
        max_length: Longest prompt in tokens, BOS included.

    Returns:
        The examples, and a counter from reason to number of pairs dropped for it.
    """
    encoder = _encode(pairs, tokenizer, needed, bos, max_length)
    return encoder.examples, encoder.dropped


# -------------------------------------------------------------------- splits


def split(
    examples: Sequence[Example],
    n_train: int,
    n_val: int,
    n_test: int,
    seed: int,
    by: str = "pair",
) -> dict[str, list[Example]]:
    """Sides `train`, `val`, `test` of exactly the sizes asked for, drawn by the seed.

    Pairs that share a clean prompt, and a pair and its mirror image (clean and corrupt swapped),
    stay on one side; with `by="group"`, so do all pairs of a group.

    Raises:
        DataError: a negative count, no pair asked for at all, or too few examples or groups.
    """
    wanted = _wanted(n_train, n_val, n_test)
    if by not in ("pair", "group"):
        raise DataError(f"split by 'pair' or by 'group', got {by!r}")
    units = _units(examples, by)
    sides: dict[str, list[Example]] = {}
    for attempt in range(20):  # units of uneven size may need another order to fill every side
        rng = Random(f"{seed}-{attempt}")
        sides = _deal(units, wanted, rng)
        if all(len(sides[name]) >= wanted[name] for name in SPLITS):
            return {name: rng.sample(sides[name], wanted[name]) for name in SPLITS}
    found = ", ".join(f"{len(sides[n])} of {wanted[n]} for {n}" for n in SPLITS if wanted[n])
    raise DataError(
        f"{len(examples)} examples in {len(units)} inseparable sets cannot be split by {by} as "
        f"asked: found {found}. A set holds the pairs that share a clean prompt, a mirror image"
        f"{' or a group' if by == 'group' else ''}; ask for fewer, or supply more pairs"
    )


def _wanted(n_train: int, n_val: int, n_test: int) -> dict[str, int]:
    wanted = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))
    for name, number in wanted.items():
        if number < 0:
            raise DataError(f"n_{name} must be 0 or more, got {number}")
    if not any(wanted.values()):
        raise DataError("n_train, n_val and n_test are all 0: ask for at least one pair")
    return wanted


def _units(examples: Sequence[Example], by: str) -> list[list[Example]]:
    """Smallest sets of examples that must not be separated: components of shared keys."""
    parent: dict[object, object] = {}

    def root(key: object) -> object:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    def keys(example: Example) -> list[object]:
        shared = [example.clean, frozenset((example.clean, example.corrupt))]
        return [*shared, example.pair.group] if by == "group" else shared

    for example in examples:
        first, *rest = keys(example)
        for key in rest:
            parent[root(key)] = root(first)
    units = defaultdict(list)
    for example in examples:
        units[root(example.clean)].append(example)
    return list(units.values())


def _deal(
    units: list[list[Example]], wanted: dict[str, int], rng: Random
) -> dict[str, list[Example]]:
    """Give each unit, the largest first, to the side that lacks the largest share of its size."""
    sides: dict[str, list[Example]] = {name: [] for name in SPLITS}
    open_sides = [name for name in SPLITS if wanted[name]]
    for unit in sorted(rng.sample(units, len(units)), key=len, reverse=True):
        needs = {name: _need(wanted[name], len(sides[name]), len(unit)) for name in open_sides}
        sides[max(needs, key=needs.__getitem__)] += unit
    return sides


def _need(wanted: int, have: int, size: int) -> tuple[bool, float, float]:
    """Order of preference for a unit: it fits, the side lacks much of it, the side is large."""
    lacking = max(0, wanted - have)
    return lacking >= size, lacking / wanted, wanted / (have + size)


# -------------------------------------------------------------------- batches


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

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __len__(self) -> int:
        return len(self.index)


def collate(examples: Sequence[Example], indices: Sequence[int], pad_id: int) -> Batch:
    """One batch of the examples; `indices` are their ids in the data set."""
    lengths = torch.tensor([len(example.clean) for example in examples])
    clean = _rows([example.clean for example in examples], pad_id)
    return Batch(
        index=torch.tensor(list(indices)),
        clean=clean,
        corrupt=_rows([example.corrupt for example in examples], pad_id),
        mask=torch.arange(clean.shape[1]) < lengths[:, None],
        last=lengths - 1,
        answers=_rows([example.answers for example in examples], NO_TOKEN),
        wrong=_rows([example.wrong for example in examples], NO_TOKEN),
    )


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
    batches as one rank would.
    """

    n_examples: int
    batch_size: int
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self.start):
            batch = draw(self.n_examples, self.batch_size, self.seed, step)
            yield batch[self.rank :: self.world_size]


@dataclass(frozen=True)
class Report:
    """What became of the pairs: how many each side holds, and why others were dropped."""

    kept: dict[str, int]
    dropped: Counter[str]
    """Reason -> pairs dropped for it."""
    first: dict[str, str] = field(default_factory=dict)
    """Reason -> the first pair dropped for it, with its tokens."""

    def summary(self) -> str:
        """One line for the sides, one for each reason."""
        kept = ", ".join(f"{number} {name}" for name, number in self.kept.items())
        return "\n".join([f"kept {kept}", *_reasons(self.dropped)])


def _reasons(dropped: Counter[str]) -> list[str]:
    return [f"  dropped {number}: {reason}" for reason, number in dropped.most_common()]


@dataclass(frozen=True)
class _Numbered(Dataset[tuple[int, Example]]):
    """One side; each example comes with its id in the whole data set."""

    examples: list[Example]
    first: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> tuple[int, Example]:
        return self.first + position, self.examples[position]


class PairData(LightningDataModule):
    """The three sides as batches, for Lightning or for a plain loop.

    Args:
        splits: Side -> examples, as `split` returns them.
        batch_size: Examples in a batch (over all ranks together, in training).
        pad_id: Token that fills up short prompts; causal models never look at it.
        seed: Order of the training batches.
        report: What `prepare` kept and dropped.

    `start_step` is the first step that `train_dataloader` yields; set it to the global step of a
    checkpoint *before* the trainer asks for the loader, and the batches continue where they
    stopped. The training loader never ends: bound it with `max_steps`. Under several ranks, give
    the Trainer `use_distributed_sampler=False`.
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
        kept = {name: len(examples) for name, examples in self.splits.items()}
        self.report = report or Report(kept, Counter())
        self._first_index = dict(
            zip(SPLITS, itertools.accumulate(kept.values(), initial=0), strict=False)
        )

    def train_dataloader(self) -> DataLoader:
        """Endless batches of steps `start_step`, `start_step + 1`, ...; see `draw`."""
        examples = self._numbered("train")
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if not examples:
            raise DataError("there is nothing to train on: n_train is 0")
        if self.batch_size % world_size:
            raise DataError(
                f"a batch of {self.batch_size} cannot be shared evenly by {world_size} ranks"
            )
        order = TrainOrder(
            len(examples), self.batch_size, self.seed, self.start_step, rank, world_size
        )
        return DataLoader(examples, batch_sampler=order, collate_fn=self._collate)

    def val_dataloader(self) -> DataLoader | list:
        """The validation side in order, the last batch short; `[]` when there is none."""
        return self._ordered("val", self.batch_size)

    def test_dataloader(self) -> DataLoader | list:
        """The test side in order, the last batch short; `[]` when there is none."""
        return self._ordered("test", self.batch_size)

    def batches(self, name: str, batch_size: int | None = None) -> list[Batch]:
        """All batches of one side, in order, the last one short; empty for an empty side."""
        if name not in self.splits:
            raise DataError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        return list(self._ordered(name, batch_size or self.batch_size))

    def _ordered(self, name: str, batch_size: int) -> DataLoader | list:
        examples = self._numbered(name)
        if not examples:
            return []
        return DataLoader(examples, batch_size=batch_size, collate_fn=self._collate)

    def _numbered(self, name: str) -> "_Numbered":
        return _Numbered(self.splits[name], self._first_index[name])

    def _collate(self, numbered: list[tuple[int, Example]]) -> Batch:
        indices, examples = zip(*numbered, strict=True)
        return collate(examples, indices, self.pad_id)


# -------------------------------------------------------------------- the whole path


def prepare(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_train: int,
    n_val: int,
    n_test: int,
    seed: int,
    corruption: str = "",
    split_by: str = "pair",
    batch_size: int = 32,
    bos: str = "auto",
    max_length: int | None = None,
) -> PairData:
    """Pairs of a task, checked, split and ready in batches.

    Args:
        task: One of `TASKS`, a `JsonlTask`, or any object of that shape.
        tokenizer: The model's own.
        n_train, n_val, n_test: Size of each side, in pairs; any may be 0, not all.
        seed: Which pairs are drawn, which side they go to, and the order of training batches.
        corruption: One of `task.corruptions`; `""` is the first.
        split_by: `pair`, or `group` to keep each template or entity on one side.
        batch_size: Pairs in a batch.
        bos: See `bos_tokens`.
        max_length: Longest prompt in tokens, BOS included; the model's number of positions.

    Raises:
        DataError: too few pairs are left after the checks, with the table of reasons and the first
            pair that was dropped; or they cannot be split as asked.
    """
    total = sum(_wanted(n_train, n_val, n_test).values())
    needed = total if split_by == "pair" else 2 * total
    while True:  # inseparable sets may not fill the sides exactly: then draw more of them
        stream = task.pairs(Random(seed), corruption)
        encoder = _encode(stream, tokenizer, needed, bos, max_length)
        if len(encoder.examples) < total:
            raise DataError(_too_few(task.name, total, encoder))
        try:
            splits = split(encoder.examples, n_train, n_val, n_test, seed, split_by)
            break
        except DataError:
            if len(encoder.examples) < needed or needed >= 8 * total:
                raise
            needed *= 2
    report = Report(
        {name: len(side) for name, side in splits.items()}, encoder.dropped, encoder.first
    )
    return PairData(splits, batch_size, pad_token(tokenizer), seed, report)


def _too_few(name: str, total: int, encoder: _Encoder) -> str:
    found = len(encoder.examples)
    tried = found + sum(encoder.dropped.values())
    lines = [
        f"task {name!r} gave too few usable pairs: asked for {total}, found {found} among {tried}",
        *_reasons(encoder.dropped),
    ]
    for reason, _ in encoder.dropped.most_common(1):
        lines.append(f"  for example, {encoder.first[reason]}")
    lines.append("  ask for fewer pairs, or use names and words that this tokenizer keeps whole")
    return "\n".join(lines)
