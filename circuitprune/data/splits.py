"""Sides of a data set, so that what is tested was never trained on."""

from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Literal

from circuitprune.data.encoding import Example
from circuitprune.errors import DataError
from circuitprune.files.text import counted

SPLITS: tuple[str, ...] = ("train", "val", "test")


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
        DataError: a negative count, no pair asked for at all, too few examples or groups, or a
            pair without a group.
    """
    wanted = sizes(n_train, n_val, n_test)
    if by not in ("pair", "group"):
        raise DataError(f"split by 'pair' or by 'group', got {by!r}")
    nameless = [example.pair.id for example in examples if not example.pair.group]
    if by == "group" and nameless:
        raise DataError(
            f"{len(nameless)} of {counted(len(examples), 'pair')} have no group, such as "
            f"{nameless[0]!r}; give each pair a group, or split by pair"
        )
    units = _units(examples, by)
    sides: dict[str, list[Example]] = {}
    for attempt in range(20):  # units of uneven size may need another order to fill every side
        rng = Random(f"{seed}-{attempt}")
        sides = _deal(units, wanted, rng)
        if all(len(sides[name]) >= wanted[name] for name in SPLITS):
            return {name: rng.sample(sides[name], wanted[name]) for name in SPLITS}
    found = ", ".join(f"{len(sides[n])} of {wanted[n]} for {n}" for n in SPLITS if wanted[n])
    raise DataError(
        f"{counted(len(examples), 'example')} in {counted(len(units), 'inseparable set')} cannot "
        f"be split by {by} as asked: found {found}. A set holds the pairs that share a clean "
        f"prompt, a mirror image{' or a group' if by == 'group' else ''}; ask for fewer, or "
        "supply more pairs"
    )


def resampled(examples: Sequence[Example], seed: int) -> list[Example]:
    """As many examples, drawn with replacement: a bootstrap resample, a function of the seed."""
    return Random(f"resample-{seed}").choices(examples, k=len(examples))


def sizes(n_train: int, n_val: int, n_test: int) -> dict[str, int]:
    """Side -> number of pairs; a negative number, or nothing but zeros, is a DataError."""
    wanted = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))
    for name, number in wanted.items():
        if number < 0:
            raise DataError(f"n_{name} must be 0 or more, got {number}")
    if not any(wanted.values()):
        raise DataError("n_train, n_val and n_test are all 0: ask for at least one pair")
    return wanted


Size = int | float | Literal["auto"]
"""Of a side: pairs, `100`; a fraction of all, `0.5` or `1.0`; `auto`, a share of what is left."""


def counts(wanted: Sequence[Size], n_pairs: int) -> list[int]:
    """Pairs of each side, where `wanted` may be fractions of `n_pairs` and `auto`.

    A decimal up to 1 is a fraction, so 1.0 is all pairs; 1 is one. Several `auto` sides share
    equally what numbers and fractions leave, the first ones one more.

    Example:
        >>> counts(["auto", 0.2, "auto"], 61)
        [25, 12, 24]
    """
    fixed = [_fixed(size, n_pairs) for size in wanted]
    rest = max(0, n_pairs - sum(number for number in fixed if number is not None))
    shares, extra = divmod(rest, max(1, fixed.count(None)))
    left = iter([shares + 1] * extra + [shares] * len(fixed))
    return [next(left) if number is None else number for number in fixed]


def left_empty(wanted: Sequence[Size], numbers: Sequence[int]) -> list[str]:
    """Sides that are wanted and get no pair.

    Example:
        >>> left_empty(["auto", 0, "auto"], [1, 0, 0])
        ['n_test=auto']
    """
    sides = zip(SPLITS, wanted, numbers, strict=True)
    return [f"n_{side}={size}" for side, size, number in sides if size != 0 and number == 0]


def is_count(size: Size) -> bool:
    """Whether a size is a number of pairs, whatever the task holds; 1.0 is a fraction."""
    return size != "auto" and (isinstance(size, int) or size == 0 or size > 1)


def _fixed(size: Size, n_pairs: int) -> int | None:
    if size == "auto":
        return None
    return int(size) if is_count(size) else int(size * n_pairs + 1e-9)


def _units(examples: Sequence[Example], by: str) -> list[list[Example]]:
    """Smallest sets of examples that must not be separated: components of shared keys."""
    parent: dict[object, object] = {}

    def root(key: object) -> object:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    def keys(example: Example) -> list[object]:
        shared: list[object] = [example.clean, frozenset((example.clean, example.corrupt))]
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
