"""Values of a row of somebody else's file, once they are what they must be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from circuitprune.data.tasks.rows import described, listed
from circuitprune.errors import DataError

Row = Mapping[str, object]
OwnRow = dict[str, object]
"""With the fields of a line of our own, `rows.REQUIRED` and `rows.OPTIONAL`."""

DEFAULT, ALL = "default", "all"
"""What `counterfactual` may say besides a name."""


Words = Callable[[int], str]
"""The text of a token; raises DataError where there is none."""


@dataclass(frozen=True)
class Wanted:
    """What is taken from each row."""

    counterfactual: str = DEFAULT
    """A corrupt prompt by its name, `all` of them, or the tool's own default."""
    words: Words | None = None
    """Of a model's tokenizer; needed where a file holds token ids."""

    def kinds(self, offered: list[str], default: str) -> list[str]:
        """Which of the corrupt prompts that a row offers.

        Raises:
            DataError: it does not offer what was asked for.
        """
        if self.counterfactual == ALL:
            return offered
        kind = default if self.counterfactual == DEFAULT else self.counterfactual
        if kind not in offered:
            raise DataError(f"no counterfactual {kind!r:.60}; there are {listed(offered)}")
        return [kind]

    def word(self, token: int) -> str:
        """The text of a token.

        Raises:
            DataError: no tokenizer was named, or it has no such token.
        """
        if self.words is None:
            raise DataError(
                f"the answer is token {token} of some tokenizer; name the model that the file was "
                "made for, with --model"
            )
        return self.words(token)


def text_in(row: Row, name: str) -> str:
    """A text that is not empty.

    Raises:
        DataError: something else, or nothing.
    """
    value = _there(row, name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{name!r} must be a text, got {described(value)}")
    return value


def number_in(row: Row, name: str) -> int:
    """A whole number from 0, also one that is spelled, as in CSV.

    Raises:
        DataError: something else, or nothing.
    """
    value = _there(row, name)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    said = value.strip().removesuffix(".0") if isinstance(value, str) else ""
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise DataError(f"{name!r} must be a whole number from 0, got {described(value)}")
    return int(said)


def object_in(row: Row, name: str) -> Row:
    """Fields inside a field.

    Raises:
        DataError: something else, or nothing.
    """
    value = _there(row, name)
    if not isinstance(value, dict):
        raise DataError(f"{name!r} must be an object, got {described(value)}")
    return value


def label_in(row: Row, name: str) -> str:
    """A text or a whole number, as a text.

    Raises:
        DataError: something else, or nothing.
    """
    value = _there(row, name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{name!r} must be a text or a whole number, got {described(value)}")
    return str(value)


def labels_in(row: Row, name: str) -> list[str]:
    """A list of them.

    Raises:
        DataError: something else, or nothing.
    """
    value = _there(row, name)
    if not isinstance(value, list) or not value:
        raise DataError(f"{name!r} must be a list, got {described(value)}")
    return [label_in({name: one}, name) for one in value]


def _there(row: Row, name: str) -> object:
    if row.get(name) is None:
        raise DataError(f"missing {name!r}; there are {listed([str(key) for key in row])}")
    return row[name]
