"""Records to JSON and back; what does not fit is refused by its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from circuitprune.errors import RunError
from circuitprune.files.records import from_json, to_json


@dataclass(frozen=True)
class Leaf:
    name: str
    size: float
    share: float | None
    note: str | None = None


@dataclass(frozen=True)
class Missing:
    error: str


@dataclass(frozen=True, kw_only=True)
class Tree:
    kind: Literal["oak", "ash"]
    leaves: tuple[Leaf, ...]
    pair: tuple[str, float]
    by_name: Mapping[str, Leaf | Missing]
    skipped: int | None = None
    raw: Annotated[object, Leaf]


LEAF = Leaf("a", 1.5, None)
TREE = Tree(
    kind="oak",
    leaves=(LEAF, Leaf("b", 2.0, 0.5, "green")),
    pair=("x", 0.25),
    by_name={"a": LEAF, "c": Missing("fallen")},
    raw={"anything": [1]},
)
WRITTEN = {
    "kind": "oak",
    "leaves": [
        {"name": "a", "size": 1.5, "share": None},
        {"name": "b", "size": 2.0, "share": 0.5, "note": "green"},
    ],
    "pair": ["x", 0.25],
    "by_name": {"a": {"name": "a", "size": 1.5, "share": None}, "c": {"error": "fallen"}},
    "raw": {"anything": [1]},
}


def test_keys_come_in_order_and_what_may_be_absent_is():
    assert to_json(TREE) == WRITTEN
    assert list(to_json(TREE)) == list(WRITTEN)


def test_what_is_read_back_is_what_was_written():
    assert from_json(Tree, WRITTEN) == TREE
    assert to_json(from_json(Tree, WRITTEN)) == WRITTEN


def changed(path, value):
    """`WRITTEN` with another value at a place, or without it."""

    def copy(item, keys):
        if not keys:
            return value
        key, *rest = keys
        if isinstance(item, list):
            return [copy(one, rest) if i == key else one for i, one in enumerate(item)]
        found = {**item, key: copy(item.get(key), rest)}
        return {k: v for k, v in found.items() if v is not ...}

    return copy(WRITTEN, path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["kind"], "elm", r"tree\.kind .*one of \('oak', 'ash'\), got 'elm'"),
        (["kind"], ..., r"tree .*it has no 'kind'"),
        (["kinds"], "oak", r"tree .*an unknown key 'kinds'"),
        (["leaves", 1, "size"], "2", r"tree\.leaves\[1\]\.size .*a number, got '2'"),
        (["leaves", 1, "size"], True, r"tree\.leaves\[1\]\.size .*a number, got True"),
        (["leaves", 0, "share"], ..., r"tree\.leaves\[0\] .*no 'share'"),
        (["leaves"], {}, r"tree\.leaves .*a list"),
        (["pair"], ["x"], r"tree\.pair .*2 values"),
        (["by_name", "a", "size"], None, r"tree\.by_name\.a\.size .*a number, got None"),
        (["by_name", "c"], 3, r"tree\.by_name\.c .*an object \(Leaf\), got 3"),
        (["by_name"], [], r"tree\.by_name .*an object"),
    ],
)
def test_what_does_not_fit_is_named(path, value, message):
    with pytest.raises(RunError, match=message):
        from_json(Tree, changed(path, value), "tree")


def test_null_stands_only_where_it_may():
    assert from_json(Leaf, {"name": "a", "size": 1, "share": None, "note": None}).note is None
    with pytest.raises(RunError, match=r"leaf\.name .*text, got None"):
        from_json(Leaf, {"name": None, "size": 1, "share": None}, "leaf")
