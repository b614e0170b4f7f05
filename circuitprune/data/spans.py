"""Tokens dealt to named spans of positions: by what a task tags, by difference, or one by one."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from circuitprune.data.encoding import Example
from circuitprune.errors import DataError

REST, END = "rest", "end"
"""Spans of tokens without a tag, and of the last token, whose logits are the answer."""
BY_DIFFERENCE = ("before", "difference", "after", END)
"""Spans of every pair alike: in front of the first token that differs; it, and those right behind
it that differ too; what follows; the last token."""

Sides = dict[str, list[Example]]


def span_names(spans: str, splits: Mapping[str, Iterable[Example]]) -> tuple[str, ...]:
    """Names of the spans that the tokens of these pairs are dealt to.

    Args:
        spans: `difference`; `positions`: numbers from 0; or `tags`: those of the pairs in the order
            of the alphabet, then `rest` and `end`.
        splits: All pairs.

    Raises:
        DataError: tags are asked for, and no pair has one; or positions, and prompts differ in
            length.
    """
    if spans == "difference":
        return BY_DIFFERENCE
    if spans == "positions":
        return _numbers({len(example.clean) for side in splits.values() for example in side})
    tags = {tag for side in splits.values() for example in side for tag in example.tagged} - {""}
    if not tags:
        raise DataError(
            "spans=tags deals tokens by the tags of the task's pairs, and these have none; take "
            "spans=difference, or pairs with tags (docs/positions.md)"
        )
    if taken := sorted(tags & {REST, END}):
        raise DataError(
            f"a tag cannot be called {taken[0]!r}: {REST!r} are the tokens without a tag, {END!r} "
            "is the last one; give it another name"
        )
    return (*sorted(tags), REST, END)


def _numbers(lengths: set[int]) -> tuple[str, ...]:
    """Names of the positions of prompts that are all of one length."""
    if len(lengths) > 1:
        raise DataError(
            "spans=positions tells tokens apart by their place, so it takes prompts of one length, "
            f"and the tokens of these are {min(lengths)} to {max(lengths)}; take spans=tags or "
            "spans=difference, or pairs of one template"
        )
    return tuple(map(str, range(max(lengths))))


def deal(splits: Sides, spans: str) -> Sides:
    """The same pairs, each token dealt to a span.

    Raises:
        DataError: as `span_names`.
    """
    names = span_names(spans, splits)
    return {
        side: [replace(one, spans=tuple(map(names.index, _DEALT[spans](one)))) for one in examples]
        for side, examples in splits.items()
    }


def _by_position(example: Example) -> list[str]:
    return [str(place) for place in range(len(example.clean))]


def _by_tags(example: Example) -> list[str]:
    tagged = example.tagged or ("",) * len(example.clean)
    return [*(tag or REST for tag in tagged[:-1]), END]


def _by_difference(example: Example) -> list[str]:
    named, now = [], "before"
    for clean, corrupt in zip(example.clean[:-1], example.corrupt[:-1], strict=True):
        if now == "before" and clean != corrupt:
            now = "difference"
        elif now == "difference" and clean == corrupt:
            now = "after"
        named.append(now)
    return [*named, END]


_DEALT = {"positions": _by_position, "tags": _by_tags, "difference": _by_difference}
"""The span of each token of an example, by its name."""
