"""Pairs from the user's own file: one JSON object per line; the schema is in `docs/data.md`."""

import json
from pathlib import Path

from circuitprune.data.tasks.given import GivenPairs
from circuitprune.data.tasks.pair import Pair
from circuitprune.errors import DataError

REQUIRED = ("clean", "corrupt", "answers", "wrong")
OPTIONAL = ("id", "kind", "group", "meta")


class JsonlTask(GivenPairs):
    """The pairs of one JSONL file; it is read at once, and only once.

    Raises:
        DataError: a file that is missing, empty, not UTF-8, or has a bad line; the message names
            the file and the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        super().__init__(read_pairs(self.path), "jsonl")


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a JSONL file, in order; blank lines are skipped, CRLF and a BOM are accepted.

    Raises:
        DataError: as for `JsonlTask`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read pairs from {path}: {error.strerror}") from error
    pairs: list[Pair] = []
    first_line: dict[str, int] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            pair = _pair(_parse(raw), number)
            if first_line.setdefault(pair.id, number) != number:
                raise DataError(f"id {pair.id!r} was already used on line {first_line[pair.id]}")
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{path} holds no pairs; write one JSON object per line (docs/data.md)")
    return pairs


def _parse(raw: bytes) -> dict:
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise DataError("not valid JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object, got {_describe(value)}")
    return value


def _pair(row: dict, number: int) -> Pair:
    missing = [name for name in REQUIRED if name not in row]
    unknown = [name for name in row if name not in REQUIRED + OPTIONAL]
    if missing:
        raise DataError(f"missing {', '.join(missing)}; each line needs {', '.join(REQUIRED)}")
    if unknown:
        raise DataError(
            f"unknown field {', '.join(map(repr, unknown))}; "
            f"known are {', '.join(REQUIRED + OPTIONAL)}, and anything else belongs under 'meta'"
        )
    return Pair(
        id=_text(row, "id", f"line-{number:06d}"),
        clean=_text(row, "clean"),
        corrupt=_text(row, "corrupt"),
        answers=_texts(row, "answers"),
        wrong=_texts(row, "wrong"),
        kind=_text(row, "kind", ""),
        group=_text(row, "group", ""),
        meta=_meta(row),
    )


def _text(row: dict, name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise DataError(f"{name!r} must be a string, got {_describe(value)}")
    if not value and default is None:
        raise DataError(f"{name!r} is empty")
    return value


def _texts(row: dict, name: str) -> tuple[str, ...]:
    value = row[name]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{name!r} must be a list of strings, got {_describe(value)}")
    if not value or "" in value:
        raise DataError(f"{name!r} must hold at least one string and no empty ones, got {value}")
    return tuple(dict.fromkeys(value))


def _meta(row: dict) -> dict[str, str]:
    value = row.get("meta", {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise DataError(f"'meta' must map names to strings, got {_describe(value)}")
    return value


def _describe(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
