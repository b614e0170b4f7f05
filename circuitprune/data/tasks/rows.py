"""One row of a file of pairs, whatever the file's form, as a `Pair`."""

import json
from collections.abc import Mapping, Sequence

from circuitprune.data.tasks.pair import Pair
from circuitprune.errors import DataError

REQUIRED = ("clean", "corrupt", "answers", "wrong")
OPTIONAL = ("id", "kind", "group", "meta", "tags")


def pair_of(row: Mapping[str, object], line: int) -> Pair:
    """The pair of a row.

    Args:
        row: Values by the names of `REQUIRED` and `OPTIONAL`.
        line: Where it stands; names a pair that has no `id`.

    Raises:
        DataError: a value that is missing, unknown, empty or of the wrong type.
    """
    missing = [name for name in REQUIRED if name not in row]
    unknown = [name for name in row if name not in REQUIRED + OPTIONAL]
    if missing:
        raise DataError(f"missing {', '.join(missing)}; each line needs {', '.join(REQUIRED)}")
    if unknown:
        raise DataError(
            f"unknown field {listed(unknown)}; "
            f"known are {', '.join(REQUIRED + OPTIONAL)}, and anything else belongs under 'meta'"
        )
    return Pair(
        id=_text(row, "id", f"line-{line:06d}"),
        clean=_text(row, "clean"),
        corrupt=_text(row, "corrupt"),
        answers=_texts(row, "answers"),
        wrong=_texts(row, "wrong"),
        kind=_text(row, "kind", ""),
        group=_text(row, "group", ""),
        meta=_meta(row),
        tags=_tags(row),
    )


def listed(names: Sequence[str]) -> str:
    """The first names, cut short."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(f"{name!r:.60}" for name in names[:5]) + more


def described(value: object) -> str:
    """A value as JSON spells it, cut short."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(row: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise DataError(f"{name!r} must be a string, got {described(value)}")
    if not value and default is None:
        raise DataError(f"{name!r} is empty")
    return _whole(name, value)


def _texts(row: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = row[name]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{name!r} must be a list of strings, got {described(value)}")
    if not value or "" in value:
        found = described(value)
        raise DataError(f"{name!r} must hold at least one string and no empty ones, got {found}")
    return tuple(dict.fromkeys(_whole(name, text) for text in value))


def _whole(name: str, text: str) -> str:
    """The text, which a tokenizer can read: JSON can spell half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise DataError(f"{name!r} holds {half!r}, half of a character; write all of it") from None
    return text


def _meta(row: Mapping[str, object]) -> dict[str, str]:
    value = row.get("meta", {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise DataError(f"'meta' must map names to strings, got {described(value)}")
    return value


def _tags(row: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """Places of the clean prompt by their names."""
    value, end = row.get("tags", {}), len(_text(row, "clean"))
    if not isinstance(value, dict):
        raise DataError(f"'tags' must map names to places, got {described(value)}")
    for name, place in value.items():
        if not name.isascii() or not name.replace("_", "").replace("-", "").isalnum():
            raise DataError(f"a tag is called by letters, digits, '_' and '-', got {name!r:.60}")
        ends = place if isinstance(place, list) else []
        if len(ends) != 2 or not all(type(x) is int for x in ends) or not 0 <= ends[0] < ends[1]:
            raise DataError(
                f"tag {name!r:.60} must be [first character, behind the last], counted from 0 in "
                f"'clean', got {described(place)}"
            )
        if ends[1] > end:
            raise DataError(f"tag {name!r:.60} ends at {ends[1]}, and 'clean' at {end}")
    return {name: (first, behind) for name, (first, behind) in value.items()}
