"""Settings that check themselves: the declared type and the range of every field of a dataclass."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from math import isfinite
from numbers import Integral
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from circuitprune.data.own import is_own
from circuitprune.errors import ConfigError


class Range(NamedTuple):
    """Where a number must lie, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("be > 0 and at most a billion", lambda number: 0 < number <= 1e9)
NOT_NEGATIVE = Range("be >= 0 and at most a billion", lambda number: 0 <= number <= 1e9)
COUNT = Range("lie in 1 to a billion", lambda number: 1 <= number <= 1e9)
FEW = Range("lie in 1 to 1,000", lambda number: 1 <= number <= 1e3)
MANY = Range("lie in 1 to a million", lambda number: 1 <= number <= 1e6)
MANY_OR_0 = Range("lie in 0 to a million", lambda number: 0 <= number <= 1e6)
"""Where each one takes time, so that a slip of the finger does not start days of work."""
PAIRS = Range(
    "be a whole number up to a million, a fraction up to 1.0 or auto",
    lambda number: (
        isinstance(number, str) or 0 <= number < 1 or (1 <= number <= 1e6 and number % 1 == 0)
    ),
)
SEED = Range("lie in 0 to 10^15", lambda number: 0 <= number <= 1e15)
SHARE = Range("lie in [0, 1]", lambda number: 0 <= number <= 1)
PART = Range("lie in (0, 1]", lambda number: 0 < number <= 1)
INSIDE = Range("lie in (0, 1)", lambda number: 0 < number < 1)


def whole_number(value: object, name: str, low: int, high: int) -> int:
    """A number that a function was given, if it is one; true and false are none.

    Args:
        value: What was given.
        name: Of the argument, for the message.
        low, high: Where it must lie.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ConfigError(
            f"{name} must be a whole number in {low:,} to {high:,}, got {value!r:.80}"
        )
    return int(value)


def refuse(problems: Sequence[str]) -> None:
    """Nothing where nothing is wrong.

    Raises:
        ConfigError: all problems, a line for each.
    """
    if problems:
        raise ConfigError("\n".join(problems))


def misfits(section: object, prefix: str = "", **ranges: Range) -> list[str]:
    """A sentence for every setting of the wrong type, of no known choice, or out of its range.

    Args:
        section: A dataclass.
        prefix: What stands before the names of its fields in a config, such as `train.`.
        ranges: Where the numbers of a field, or each of a list, must lie.
    """
    problems, declared = [], get_type_hints(type(section))
    for name in (one.name for one in fields(section)):  # type: ignore[arg-type]
        value, key = getattr(section, name), f"{prefix}{name}"
        if not fits(value, declared[name]):
            problems.append(misfit(key, value, declared[name]))
        elif name in ranges and not _holds(value, ranges[name]):
            problems.append(f"{key} must {ranges[name].words}, got {value}")
    return problems


def misfit(key: str, value: object, kind: Any) -> str:
    """The sentence for a value that is not of its declared type."""
    return f"{key}={value!r:.80} is not {_asked(value, kind)}"


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of a declared type; NaN and the infinities are no numbers."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if kind in (int, float):
        number = isinstance(value, int | kind) and not isinstance(value, bool)
        return number and (kind is int or _is_finite(value))
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if kind is str:
        return isinstance(value, str) and _is_text(value)
    return isinstance(value, origin or kind)


def _is_finite(value: Any) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number that no float can be
        return False


def _is_text(value: str) -> bool:
    """Whether it can stand in a file and name one: no NUL, no half of a character, not too long."""
    try:
        data = value.encode()
    except UnicodeEncodeError:
        return False
    return b"\0" not in data and len(data) <= 2000 and max(map(len, data.split(b"/"))) <= 255


def _holds(value: Any, allowed: Range) -> bool:
    """Whether a number, or each of a list, lies where it must; None is no number, so it does."""
    numbers = value if isinstance(value, list) else [value]
    return all(number is None or allowed.holds(number) for number in numbers)


def _asked(value: object, kind: Any) -> str:
    """What a declared type allows, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"known; {nearest(value, inner)}"
    if origin in (Union, UnionType):
        return " or ".join(_asked(value, one) for one in inner)
    if origin is list:
        return f"a list; each must be {_asked(value, inner[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false"}
    names |= {str: "text that a file can hold and have for a name", type(None): "null"}
    return names.get(kind, f"a value of type {str(kind).replace('typing.', '')}")


def is_known(name: str, known: Sequence[str]) -> bool:
    """Whether a name is known, or says where the user's own object stands: `FILE.py:NAME`."""
    return name in known or is_own(name)


def unknown(name: str, known: Sequence[str]) -> str:
    """What to say of a name that is not known."""
    return f"{name!r:.80} is unknown; {nearest(name, known)}"


def nearest(value: object, known: Sequence[object]) -> str:
    """`did you mean ...?`, if one of the known names is near, and all of them."""
    names = [str(name) for name in known]
    near = get_close_matches(str(value), names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names)}"


def broken(*rules: tuple[bool, str]) -> list[str]:
    """What to say of each rule between settings that does not hold."""
    return [words for holds, words in rules if not holds]
