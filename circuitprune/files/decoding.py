"""JSON read strictly: what a file says has one meaning, and it is no larger than it may be."""

import json
import math

from circuitprune.files.limits import DEPTH, VALUES
from circuitprune.files.text import counted


def decode(text: bytes | str, nan: bool = False) -> object:
    r"""The value of a JSON text.

    Args:
        text: Bytes are UTF-8, with or without a byte-order mark.
        nan: Read Python's `NaN`, as EAP-IG writes it for "not scored".

    Raises:
        ValueError: not JSON (a `json.JSONDecodeError`), a key that stands twice in one object, NaN
            or an infinity, a whole number beyond 64 bits, more values than `VALUES`, or brackets
            nested deeper than `DEPTH`; in one sentence without the file's name.

    Example:
        >>> decode('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: the key 'a' stands twice in one object
    """
    _refuse_many(text)
    whole = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = (_WITH_NAN if nan else _STRICT).decode(whole)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _refuse_deep(value)
    return value


_TOO_DEEP = f"brackets are nested deeper than {DEPTH}"


def _refuse_many(text: bytes | str) -> None:
    """Count what stands before each value: one of these, but in texts, which counts too much."""
    if isinstance(text, bytes):
        n_values = text.count(b",") + text.count(b"[") + text.count(b"{")
    else:
        n_values = text.count(",") + text.count("[") + text.count("{")
    if n_values > VALUES:
        raise ValueError(f"{counted(n_values, 'value')}, expected at most {VALUES:,}")


def _refuse_deep(value: object) -> None:
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        if (depth := depth + 1) > DEPTH:
            raise ValueError(_TOO_DEEP)
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [item for items in inside for item in items if isinstance(item, dict | list)]


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} stands twice in one object")
    return found


def _whole(digits: str) -> int:
    value = int(digits) if len(digits) < 25 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError(
            f"{digits:.25} has {counted(len(digits), 'digit')}, expected a number of 64 bits"
        )
    return value


def _decimal(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits:.25} is infinite, expected a finite number")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON, expected a finite number")


def _not_scored(name: str) -> float:
    return math.nan if name == "NaN" else _constant(name)


_STRICT, _WITH_NAN = (
    json.JSONDecoder(
        object_pairs_hook=_object,
        parse_int=_whole,
        parse_float=_decimal,
        parse_constant=constant,
    )
    for constant in (_constant, _not_scored)
)
