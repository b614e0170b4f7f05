"""Results as frozen dataclasses, and what they are as JSON.

A field without a default is always in the file, `null` where it is None. A field whose default is
None may be absent: it is left out where it is None.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from typing import is_typeddict as is_open

from circuitprune.errors import RunError
from circuitprune.files.text import counted

T = TypeVar("T")
JsonObject = dict[str, Any]
"""An object of JSON, of any keys."""
PLAIN = {str: "text", bool: "true or false", int: "an integer", float: "a number", NoneType: "null"}
"""Kinds of values that are what they are in JSON, and what they are called."""


def to_json(value: object) -> object:
    """Plain values of records, mappings and sequences of any depth; all else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        found = [(field, getattr(value, field.name)) for field in fields(value)]
        return {f.name: to_json(v) for f, v in found if v is not None or not may_be_absent(f)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def may_be_absent(field: Field[object]) -> bool:
    """Whether a file may lack the field."""
    return field.default is not MISSING


def from_json(kind: type[T], value: object, at: str = "") -> T:
    """The record of this class that `to_json` made `value` of.

    Args:
        kind: A frozen dataclass, or a `TypedDict`, which may hold other keys besides.
        value: What a JSON file held.
        at: What to call the value in a message.

    Raises:
        RunError: a key that is missing or unknown, or a value of another type; says which, where.
    """
    found = _read(kind, value, at)
    assert isinstance(found, dict if is_open(kind) else kind)
    return found  # type: ignore[return-value]  # an open record is a dict


def _read(kind: object, value: object, at: str) -> object:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, value, at)
    if origin in (Union, UnionType):
        return _one_of(arguments, value, at)
    if origin is tuple:
        return _sequence(arguments, value, at)
    if origin is Literal:
        return value if value in arguments else _refuse(f"one of {arguments}", value, at)
    if origin is not None and origin is not Annotated and issubclass(origin, Mapping):
        items = value if isinstance(value, dict) else _refuse("an object", value, at)
        return {key: _read(arguments[1], item, f"{at}.{key}") for key, item in items.items()}
    if isinstance(kind, type) and kind in PLAIN:
        return value if _fits(kind, value) else _refuse(PLAIN[kind], value, at)
    if is_open(kind):
        return _open_record(kind, value, at)
    if isinstance(kind, type) and not isinstance(value, kind):
        return _refuse(kind.__name__, value, at)
    return value


def _open_record(kind: object, value: object, at: str) -> JsonObject:
    """Its own keys as they are declared, all others as they stand."""
    items = value if isinstance(value, dict) else _refuse("an object", value, at)
    kinds = get_type_hints(kind)
    needed: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
    missing = [repr(name) for name in sorted(needed - items.keys())]
    if missing:
        raise _damaged(at, f"it has no {', '.join(missing)}")
    return {
        key: _read(kinds[key], item, f"{at}.{key}") if key in kinds else item
        for key, item in items.items()
    }


def _record(kind: type, value: object, at: str) -> object:
    if not isinstance(value, dict):
        return _refuse(f"an object ({kind.__name__})", value, at)
    kinds = get_type_hints(kind, include_extras=True)
    missing = [f.name for f in fields(kind) if f.name not in value and not may_be_absent(f)]
    unknown = [key for key in value if key not in {f.name for f in fields(kind)}]
    wrong = [f"no {name!r}" for name in missing]
    wrong += [f"an unknown key {key!r:.60}" for key in unknown[:3]]
    if wrong:
        raise _damaged(at or kind.__name__, f"it has {', '.join(wrong)}")
    return kind(**{key: _read(kinds[key], item, f"{at}.{key}") for key, item in value.items()})


def _one_of(kinds: tuple[object, ...], value: object, at: str) -> object:
    """By the first that it fits; what is wrong with it is said of the first that is no `null`."""
    wrong: RunError | None = None
    for kind in kinds:
        try:
            return _read(kind, value, at)
        except RunError as error:
            wrong = wrong or (None if kind is NoneType else error)
    assert wrong is not None
    raise wrong


def _sequence(kinds: tuple[object, ...], value: object, at: str) -> object:
    if not isinstance(value, list):
        return _refuse("a list", value, at)
    each = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
    if len(each) != len(value):
        return _refuse(counted(len(each), "value"), value, at)
    return tuple(_read(each[i], item, f"{at}[{i}]") for i, item in enumerate(value))


def _fits(kind: type, value: object) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _refuse(expected: str, value: object, at: str) -> JsonObject:
    raise _damaged(at, f"expected {expected}, got {value!r:.60}")


def _damaged(at: str, what: str) -> RunError:
    return RunError(f"{at} is damaged or of another version: {what}")
