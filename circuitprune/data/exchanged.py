"""Training pairs with their words exchanged: more of them where there are few."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random

from transformers import PreTrainedTokenizerBase

from circuitprune.data.encoding import encode, refuse_beyond
from circuitprune.data.pairs import PairData
from circuitprune.data.tasks.pair import Pair
from circuitprune.errors import DataError
from circuitprune.files.limits import PAIRS
from circuitprune.files.text import counted

WORD = re.compile(r"\w+")


def exchangeable(pairs: Sequence[Pair]) -> list[str]:
    """The words that tell prompts apart, in alphabetical order.

    Those in which a clean prompt and its corrupt one differ, where both have as many words; the
    answers, right and wrong, join them where the two have a word in common: names that are asked
    for are exchanged, `is` and `are` after a subject are not.

    Raises:
        DataError: fewer than two.
    """
    differing, asked = set[str](), set[str]()
    for pair in pairs:
        clean, corrupt = WORD.findall(pair.clean), WORD.findall(pair.corrupt)
        if len(clean) == len(corrupt):  # else words would be set beside others than their own
            both = zip(clean, corrupt, strict=True)
            differing |= {word for one, other in both if one != other for word in (one, other)}
        asked |= {text.strip() for text in (*pair.answers, *pair.wrong)}
    found = sorted(differing | asked if differing & asked else differing)
    if len(found) < 2:
        raise DataError(
            f"task.exchanges: {counted(len(pairs), 'training pair')} differ in "
            f"{found or 'no words'}, so there is nothing to exchange; leave it at 0"
        )
    return found


def exchanged(pairs: Sequence[Pair], copies: int, seed: int) -> Iterator[Pair]:
    """Each pair so many times more, each time under a new one-to-one exchange of all such words.

    A word is exchanged wherever it stands: in both prompts, in the answers and in what a pair's
    `meta` says. What is asked stays the same for tasks that hold for any words, such as indirect
    objects; where a word decides its own answer, as a number or a gender does, it does not.

    Args:
        pairs: Those of the training side.
        copies: Of each pair.
        seed: Of the exchanges.
    """
    words = exchangeable(pairs)
    for copy in range(copies):
        rng = Random(f"exchange-{seed}-{copy}")
        for pair in pairs:
            yield _told(pair, dict(zip(words, rng.sample(words, len(words)), strict=True)), copy)


def _told(pair: Pair, instead: Mapping[str, str], copy: int) -> Pair:
    """A pair in other words."""

    def of(text: str) -> str:
        return WORD.sub(lambda found: instead.get(found[0], found[0]), text)

    return replace(
        pair,
        id=f"{pair.id}~{copy + 1}",
        clean=of(pair.clean),
        corrupt=of(pair.corrupt),
        answers=tuple(map(of, pair.answers)),
        wrong=tuple(map(of, pair.wrong)),
        meta={key: of(value) for key, value in pair.meta.items()},
        tags={
            tag: (len(of(pair.clean[:first])), len(of(pair.clean[:end])))
            for tag, (first, end) in pair.tags.items()
        },
    )


def with_exchanges(
    data: PairData,
    tokenizer: PreTrainedTokenizerBase,
    copies: int,
    seed: int,
    bos: str = "auto",
    max_length: int | None = None,
    n_tokens: int | None = None,
) -> PairData:
    """The same pairs, with so many copies of each on the training side.

    Copies that do not fit (see `encode`), that a pair is already, or that are held out are left
    away.

    Args:
        data: Pairs without copies.
        tokenizer: The model's own.
        copies: Of each training pair.
        seed: Of the exchanges.
        bos, max_length, n_tokens: As `prepare` takes them.

    Raises:
        DataError: nothing to exchange, or more pairs than a run may have.
        ModelError: a token that the model has no embedding for.
    """
    train = data.splits["train"]
    most = len(train) * copies
    if most > PAIRS:
        raise DataError(
            f"task.exchanges={copies} of {counted(len(train), 'pair')} makes more than {PAIRS:,}"
        )
    told = exchanged([example.pair for example in train], copies, seed)
    found, _ = encode(told, tokenizer, most, bos, max_length)
    held_out = {
        prompt
        for side in ("val", "test")
        for example in data.splits[side]
        for prompt in (example.clean, example.corrupt)
    }
    there = {(example.clean, example.corrupt) for example in train}
    new = [
        one
        for one in found
        if (one.clean, one.corrupt) not in there and not {one.clean, one.corrupt} & held_out
    ]
    if n_tokens is not None:
        refuse_beyond(new, tokenizer, n_tokens)
    splits = {**data.splits, "train": [*train, *new]}
    data.report.kept["train"] = len(splits["train"])
    return PairData(splits, data.batch_size, data.pad_id, data.seed, data.report)
