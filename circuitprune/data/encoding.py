"""From a pair of prompts to an example in tokens, or to the reason why not.

Nothing is repaired on the way: a pair that does not fit is dropped and counted.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from circuitprune.data.tasks.pair import Pair
from circuitprune.errors import DataError, ModelError
from circuitprune.files.text import counted


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
    tagged: tuple[str, ...] = ()
    """The tag of each token of the prompts, empty without one; nothing if the pair has no tags."""
    spans: tuple[int, ...] = ()
    """The span that each token is dealt to; nothing if they are not told apart."""


def bos_tokens(tokenizer: PreTrainedTokenizerBase, bos: str = "auto") -> tuple[int, ...]:
    """The tokens to put in front of every prompt.

    Args:
        tokenizer: A Hugging Face tokenizer.
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


def pad_token(tokenizer: PreTrainedTokenizerBase, n_tokens: int | None = None) -> int:
    """The token to pad with: the tokenizer's own, else its EOS, else 0.

    One that the model has no embedding for, of `n_tokens`, is passed over: nothing looks at it.
    """
    candidates = (_special(tokenizer, "pad"), _special(tokenizer, "eos"), 0)
    known = (token for token in candidates if token is not None)
    return next(token for token in known if n_tokens is None or token < n_tokens)


def refuse_beyond(
    examples: Iterable["Example"], tokenizer: PreTrainedTokenizerBase, n_tokens: int
) -> None:
    """Nothing, if the model has an embedding for every token of the examples.

    Raises:
        ModelError: the first that it has none for.
    """
    for example in examples:
        used = {*example.clean, *example.corrupt, *example.answers, *example.wrong}
        if max(used) >= n_tokens:
            token = max(used)
            raise ModelError(
                f"the tokenizer calls {tokenizer.convert_ids_to_tokens([token])[0]!r} token "
                f"{token}, but the model has embeddings for 0 to {n_tokens - 1} alone, and pair "
                f"{example.pair.id!r} has that token. Use the tokenizer that the model was trained "
                "with; where tokens were added, the model's embeddings must be resized and trained"
            )


def _special(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    token: int | None = getattr(tokenizer, f"{name}_token_id")
    return token


NO_ANSWER = "no answer is a single known token after its prompt"
NO_WRONG = "no wrong answer is a single known token after its prompt"
SHARED = "answer and wrong answer share a token"
OF_ANSWERS = {NO_ANSWER: ("answers",), NO_WRONG: ("wrong",), SHARED: ("answers", "wrong")}
"""Reasons that lie in the answers, and in which; all others lie in the prompts."""
SHOWN = 3
"""Pairs dropped for one reason that are kept to be shown."""


@dataclass
class Encoder:
    """Turns pairs into examples and keeps the account of those it had to drop."""

    tokenizer: PreTrainedTokenizerBase
    prefix: tuple[int, ...]
    max_length: int | None
    examples: list[Example] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first pairs dropped for it, with the tokens of what does not fit."""
    left_out: int = 0
    """Answers of the examples that are not among their tokens."""
    _seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)

    def add(self, pair: Pair) -> None:
        """Keep the pair as an example, or count it with the reason why not."""
        clean, corrupt = self._tokens([pair.clean, pair.corrupt])
        outcome = self._prompt_problem(clean, corrupt) or self._example(pair, clean, corrupt)
        if isinstance(outcome, Example):
            self.examples.append(outcome)
            self._seen.add((outcome.clean, outcome.corrupt))
            self.left_out += len({*pair.answers}) + len({*pair.wrong})
            self.left_out -= len(outcome.answers) + len(outcome.wrong)
            return
        self.dropped[outcome] += 1
        shown = self.shown.setdefault(outcome, [])
        if len(shown) < SHOWN:
            shown.append(self._explained(pair, outcome, clean, corrupt))

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

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
            return f"a prompt is longer than {counted(self.max_length, 'token')}"
        return None

    def _example(self, pair: Pair, clean: list[int], corrupt: list[int]) -> Example | str:
        prompts = (*self.prefix, *clean), (*self.prefix, *corrupt)
        if prompts in self._seen:
            return "the pair repeats an earlier one"
        answers, wrong = (
            tuple(dict.fromkeys(self._continuations(pair.clean, clean, texts).values()))
            for texts in (pair.answers, pair.wrong)
        )
        if not answers:
            return NO_ANSWER
        if not wrong:
            return NO_WRONG
        if set(answers) & set(wrong):
            return SHARED
        tagged = ("",) * len(self.prefix) + self._tags(pair) if pair.tags else ()
        return Example(pair, *prompts, answers, wrong, tagged)

    def _tags(self, pair: Pair) -> tuple[str, ...]:
        """The tag of each token of the clean prompt: of the place that it shares a character with.

        Raises:
            DataError: the tokenizer does not say which characters a token is of.
        """
        if not self.tokenizer.is_fast:
            raise DataError(
                f"pair {pair.id!r} has tags, and this tokenizer does not say which characters a "
                "token is of: take its fast version, or leave out the tags"
            )
        found = self.tokenizer(pair.clean, add_special_tokens=False, return_offsets_mapping=True)
        return tuple(
            next((tag for tag, (a, b) in pair.tags.items() if a < end and first < b), "")
            for first, end in found["offset_mapping"]
        )

    def one_token(self, prompt: str, texts: Sequence[str]) -> list[str]:
        """Those of the texts that add exactly one known token to the prompt and change none."""
        return list(self.next_tokens(prompt, texts))

    def next_tokens(self, prompt: str, texts: Sequence[str]) -> dict[str, int]:
        """The same, each with its token."""
        (tokens,) = self._tokens([prompt])
        return self._continuations(prompt, tokens, texts)

    def _continuations(
        self, prompt: str, tokens: list[int], texts: Sequence[str]
    ) -> dict[str, int]:
        """Ids of the texts that add exactly one token to the prompt and change none of it."""
        whole = zip(texts, self._tokens([prompt + text for text in texts]), strict=True)
        return {
            text: ids[-1]
            for text, ids in whole
            if ids[:-1] == tokens and ids[-1] not in self._special_ids
        }

    @cached_property
    def _special_ids(self) -> set[int | None]:
        return {*self.tokenizer.all_special_ids, _special(self.tokenizer, "unk")}

    def _explained(self, pair: Pair, reason: str, clean: list[int], corrupt: list[int]) -> str:
        """A dropped pair with the tokens of what does not fit: its prompts, or its answers."""
        if reason not in OF_ANSWERS:
            return (
                f"{pair.id}\n    clean    {pair.clean!r} -> {self._words(clean)}"
                f"\n    corrupt  {pair.corrupt!r} -> {self._words(corrupt)}"
            )
        lines = [
            f"    {part:8} {self._continued(pair.clean, clean, answer)}"
            for part in OF_ANSWERS[reason]
            for answer in getattr(pair, part)[:5]
        ]
        return "\n".join([f"{pair.id}, after {pair.clean!r}", *lines])

    def _continued(self, prompt: str, tokens: list[int], answer: str) -> str:
        """An answer, the tokens that it adds to its prompt, and what is wrong with them."""
        (whole,) = self._tokens([prompt + answer])
        same = _n_same(whole, tokens)
        added, text = whole[same:], f"{answer!r} -> {self._words(whole[same:])}"
        if same < len(tokens):
            return f"{text} in place of {self._words(tokens[same:])} at the end of the prompt"
        if len(added) != 1:
            return f"{text}, {counted(len(added), 'token')}"
        return f"{text}, a special or unknown token" if added[0] in self._special_ids else text


def _n_same(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens at the start that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def encode_until(
    pairs: Iterable[Pair],
    tokenizer: PreTrainedTokenizerBase,
    needed: int,
    bos: str,
    max_length: int | None,
) -> Encoder:
    """`encode`, with the whole account."""
    encoder = Encoder(tokenizer, bos_tokens(tokenizer, bos), max_length)
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
        pairs: However many pairs, endless streams included.
        tokenizer: A Hugging Face tokenizer.
        needed: Stop after this many; fewer come back when the stream ends, or after
            `20 * needed + 1000` tries.
        bos: See `bos_tokens`.
        max_length: Longest prompt in tokens, BOS included.

    Returns:
        The examples, and a counter from reason to number of pairs dropped for it.
    """
    encoder = encode_until(pairs, tokenizer, needed, bos, max_length)
    return encoder.examples, encoder.dropped
