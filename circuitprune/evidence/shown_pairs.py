"""A few pairs shown whole: their tokens, what the lens reads in them, where kept heads look."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.data.batches import Batch
from circuitprune.evidence.case import Case
from circuitprune.lens.heads import attention_patterns
from circuitprune.lens.logits import logit_lens, residual_streams

MOST_WEIGHTS = 30_000
"""Attention weights of one pair that are kept whole; beyond, only those of the answer position."""
N_TOP = 3
"""Tokens that the lens shows at each place."""
MOST_ANSWERS = 10
"""Right tokens, and wrong ones, that are shown."""


@dataclass(frozen=True)
class ShownPair:
    """One pair of the section `function`, on the untouched model; tokens as texts."""

    index: int
    """Of the pair, in the order of the task's pairs."""
    clean: tuple[str, ...]
    """Tokens of the clean prompt, up to the answer position."""
    corrupt: tuple[str, ...]
    """Tokens of the corrupt prompt, as many."""
    answers: tuple[str, ...]
    """Right tokens."""
    wrong: tuple[str, ...]
    """Wrong tokens."""
    lens: Mapping[str, tuple[str, ...]]
    """By the reader's place (`a3`, `m3`, `logits`): the lens's best tokens, the best first."""
    attention: Mapping[str, tuple[tuple[float, ...], ...]]
    """By kept head: weights in [0, 1] of each position on those up to it, the answer position last;
    of that alone where they are many. To three digits after the point."""


def shown_pairs(case: Case, batches: Sequence[Batch]) -> tuple[ShownPair, ...]:
    """Tokens, lens and attention of each pair."""
    gated, spell = case.references.gated, speller(case)
    shown = []
    for batch in batches:
        streams = residual_streams(gated, batch)
        patterns = attention_patterns(gated, batch.clean, batch.mask)
        for row in range(len(batch)):
            last = int(batch.last[row])
            tops = {
                place: _texts(logit_lens(gated, s[row]).topk(N_TOP).indices, spell)
                for place, s in streams.items()
            }
            seen = patterns[:, row, :, : last + 1, : last + 1].cpu()
            pair = ShownPair(
                index=int(batch.index[row]),
                clean=_texts(batch.clean[row, : last + 1], spell),
                corrupt=_texts(batch.corrupt[row, : last + 1], spell),
                answers=_texts(batch.answers[row], spell)[:MOST_ANSWERS],
                wrong=_texts(batch.wrong[row], spell)[:MOST_ANSWERS],
                lens=tops,
                attention=_attention(seen, kept_heads(case)),
            )
            shown.append(pair)
    return tuple(shown)


def _texts(tokens: Tensor, spell: Callable[[int], str]) -> tuple[str, ...]:
    """Of all but padding, which is -1."""
    return tuple(spell(token) for token in tokens.tolist() if token >= 0)


def _attention(
    patterns: Float[Tensor, "layer head query key"], heads: Sequence[tuple[int, int]]
) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Of each head what all positions see, or, if that is too much, the answer position alone."""
    n = patterns.shape[-1]
    first = 0 if len(heads) * n * (n + 1) // 2 <= MOST_WEIGHTS else n - 1
    return {f"a{layer}.h{head}": _rows(patterns[layer, head], first) for layer, head in heads}


def _rows(pattern: Float[Tensor, "query key"], first: int) -> tuple[tuple[float, ...], ...]:
    """For each position from the first on the weights of those up to it."""
    rows = pattern.double().tolist()
    return tuple(tuple(round(x, 3) for x in rows[at][: at + 1]) for at in range(first, len(rows)))


def speller(case: Case) -> Callable[[int], str]:
    """Text of a token id; the id itself without a tokenizer."""
    tokenizer = case.tokenizer
    return str if tokenizer is None else lambda token: str(tokenizer.decode([token]))


def kept_nodes_of(case: Case) -> tuple[str, ...]:
    """Names of the circuit's nodes, in forward order."""
    return Circuit(case.graph, case.mask).nodes


def kept_heads(case: Case) -> list[tuple[int, int]]:
    """Layer and index of the heads that the circuit keeps, in forward order."""
    names = [node for node in kept_nodes_of(case) if node.startswith("a")]
    pairs = [name.removeprefix("a").split(".h") for name in names]
    return [(int(layer), int(head)) for layer, head in pairs]


def short(value: float) -> float:
    """Six digits, so that the file stays small."""
    return float(f"{value:.6g}")
