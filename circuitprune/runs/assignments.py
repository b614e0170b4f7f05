"""Settings read from one source after another, each value as its field is declared.

A field declared as text takes the letters that were typed, whatever yaml would make of them.
Nothing is carried out on the way: no tag makes an object, no anchor and no `${...}` is followed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from circuitprune.data.checks import fits, misfit, nearest
from circuitprune.errors import ConfigError
from circuitprune.files.text import show

Section = TypeVar("Section")

_YAML = "tag:yaml.org,2002:"
_PLAIN = ("str", "int", "float", "bool", "null", "timestamp", "value", "seq", "map")
_TAGS = {_YAML + name for name in _PLAIN}
"""What yaml says of plain values; any other tag asks for something to be made."""
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER = re.compile(r"[-+]?\d+(_\d+)*")
_ENDLESS = re.compile(r"([-+]?)\.(inf|nan)", re.IGNORECASE)


DEEPEST = 10
"""Lists and sections in one another."""
MANY = 20
"""Problems that are told at once."""
UNREADABLE = (yaml.YAMLError, RecursionError, ValueError, OverflowError)
"""What comes of text that is no yaml: the last two of an escape such as `"\\Uffffffff"`."""


class Assignments(Generic[Section]):
    """What sources say of the settings of a dataclass, and what is wrong with it.

    Args:
        root: The dataclass; fields that are dataclasses are its sections.
        renamed: Old names of sections by today's; they are read, with a note on stderr.
        instead: By keys that are not taken, what to say of them.
    """

    def __init__(
        self,
        root: type[Section],
        renamed: Mapping[str, str] | None = None,
        instead: Mapping[str, str] | None = None,
    ) -> None:
        self._root, self._renamed, self._instead = root, renamed or {}, instead or {}
        self._names: dict[str, dict[str, Any]] = {}
        self._index(root, "")
        self.values: dict[str, object] = {}
        """By key, such as `train.steps`."""
        self._sources: dict[str, str] = {}
        self._said: dict[str, object] = {}
        """What the text that is being read has said so far."""
        self._problems: list[str] = []

    def read_yaml(self, text: str, where: str) -> None:
        """Every setting of a yaml text, which says each once, however its key is spelt.

        Raises:
            ConfigError: it is not yaml, or no mapping.
        """
        try:
            node = yaml.compose(text, yaml.SafeLoader)
        except UNREADABLE as error:
            raise ConfigError(f"{where} is not readable as yaml: {_said(error)}") from None
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{where}: expected `key: value` lines at the top")
        odd = next(_odd(node, set()), None)
        if odd is not None:
            raise ConfigError(f"{where}, line {odd[0].start_mark.line + 1}: {odd[1]}")
        self._said = {}
        self._section(node, "", where)

    def read_typed(self, item: str, where: str) -> None:
        """One `key=value`, which takes the place of what was said before.

        Raises:
            ConfigError: it is not written so.
        """
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"{where}: a setting is written key=value, got {item!r:.80}")
        key, self._said = self._today(key, where), {}
        if key not in self._names and self._kind(key) is None:
            self._problems.append(f"{where}: {self._unknown(key)}")
            return
        if str in _options(self._kind(key)):
            null = NoneType in _options(self._kind(key)) and text in ("null", "~", "")
            self._assign(key, _scalar(None if null else _unquoted(text)), where)
            return
        try:
            node = yaml.compose(text, yaml.SafeLoader) or _scalar(None)
            odd = next(_odd(node, set()), None)
        except UNREADABLE as error:
            self._problems.append(f"{where}: {key}: {_said(error)}")
            return
        if odd is not None:
            self._problems.append(f"{where}: {key}: {odd[1]}")
            return
        self._assign(key, node, where)

    def fill(self, tree: Mapping[str, Any], prefix: str = "") -> None:
        """Values for what no source has set."""
        for name, value in tree.items():
            if isinstance(value, Mapping):
                self.fill(value, f"{prefix}{name}.")
            else:
                self.values.setdefault(f"{prefix}{name}", value)

    def build(self, otherwise: str) -> Section:
        """The dataclass, with its defaults for what nobody has set.

        Args:
            otherwise: The source to blame for what no source names.

        Raises:
            ConfigError: everything that is wrong, a line for each, with the source and the key.
        """
        made = self._build(self._root, "", otherwise)
        if self._problems:
            more = len(self._problems) - MANY
            rest = [f"and {more:,} more"] if more > 0 else []
            raise ConfigError("\n".join([*self._problems[:MANY], *rest]))
        return cast(Section, made)

    # ---------------------------------------------------------------- keys

    def _index(self, section: type, key: str) -> None:
        """The fields of a section and of those in it, by the section's key."""
        self._names[key] = get_type_hints(section)
        for name, kind in self._names[key].items():
            if is_dataclass(kind):
                self._index(cast(type, kind), _join(key, name))

    def _kind(self, key: str) -> Any:
        """The declared type of a setting; None for what is not one."""
        section, _, name = key.rpartition(".")
        return None if key in self._names else self._names.get(section, {}).get(name)

    def _today(self, key: str, where: str) -> str:
        """A key under the name that its section has now."""
        first, dot, rest = key.partition(".")
        if first not in self._renamed:
            return key
        now = self._renamed[first]
        show(f"note: {where}: `{first}` is called `{now}` now", error=True)
        return f"{now}{dot}{rest}"

    def _unknown(self, key: str) -> str:
        """What to say of a key that is no setting: where it leaves the tree, and what is near."""
        if key in self._instead:
            return f"{key} is not taken: {self._instead[key]}"
        at = ""
        for name in key.split("."):
            if at not in self._names:
                return f"{at} is one value, so it has no {name!r:.60} (in {key:.80})"
            if name not in self._names[at]:
                of = f" in {at!r}" if at else ""
                return f"no setting {name!r:.60}{of}; {nearest(name, list(self._names[at]))}"
            at = _join(at, name)
        return f"{key} holds settings: write {key}.{next(iter(self._names[key]))}=... or its like"

    # ---------------------------------------------------------------- values

    def _section(self, node: yaml.MappingNode, key: str, where: str) -> None:
        for name, value in node.value:
            inside = _join(key, name.value)
            self._assign(inside if key else self._today(inside, where), value, where)

    def _assign(self, key: str, node: yaml.Node, where: str) -> None:
        if key in self._names and isinstance(node, yaml.MappingNode):
            self._section(node, key, where)
            return
        kind = self._kind(key)
        if kind is None:
            self._problems.append(f"{where}: {self._unknown(key)}")
            return
        value = _value(node, kind)
        if key in self._said:
            twice = f"{key} stands twice, as {self._said[key]!r:.60} and as {value!r:.60}; keep one"
            self._problems.append(f"{where}: {twice}")
            return
        self._said[key] = value
        if "${" in str(value):
            problem = f"{key}: interpolations '${{...}}' are not read; write the value"
            self._problems.append(f"{where}: {problem}")
        elif fits(value, kind):
            self.values[key], self._sources[key] = value, where
        else:
            self._problems.append(f"{where}: {misfit(key, value, kind)}")

    def _build(self, section: type, key: str, otherwise: str) -> object:
        """A section; None if it is refused."""
        made: dict[str, object] = {}
        for name, kind in self._names[key].items():
            inside = _join(key, name)
            if inside in self._names:
                part = self._build(kind, inside, otherwise)
                made |= {} if part is None else {name: part}
            elif inside in self.values:
                made[name] = self.values[inside]
        try:
            return section(**made)
        except ConfigError as error:
            blamed = (f"{self._blamed(line, otherwise)}: {line}" for line in str(error).split("\n"))
            self._problems += blamed
            return None

    def _blamed(self, problem: str, otherwise: str) -> str:
        """The strongest source of the settings that a sentence names."""
        named = re.findall(r"[a-z_]+(?:\.[a-z_]+)*", problem)
        sources = {self._sources[key] for key in named if key in self._sources}
        return next((one for one in sources if one != otherwise), otherwise)


# -------------------------------------------------------------------- values of nodes


def _value(node: yaml.Node, kind: Any) -> object:
    """What a node says where a type is declared; its plain text where it says no such thing."""
    options = _options(kind)
    if isinstance(node, yaml.SequenceNode):
        inner = next((get_args(one)[0] for one in options if get_origin(one) is list), str)
        return [_value(one, inner) for one in node.value]
    if not isinstance(node, yaml.ScalarNode):
        return {name.value: _value(value, str) for name, value in node.value}
    if NoneType in options and node.tag == f"{_YAML}null":
        return None
    if str in options:
        return node.value
    readings = (_reading(node.value, option) for option in options)
    return next((one for one in readings if one is not None), node.value)


def _reading(text: str, kind: Any) -> object:
    """The value of a declared type that is written so; None if there is none."""
    if get_origin(kind) is Literal:
        return text if text in get_args(kind) else None
    if kind is bool:
        return _TRUTH.get(text.lower())
    if kind is int:
        return int(text) if _INTEGER.fullmatch(text) and len(text) < 100 else None
    if kind is float:
        try:
            return float(_ENDLESS.sub(r"\1\2", text))
        except ValueError:
            return None
    return None


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _scalar(text: str | None) -> yaml.ScalarNode:
    return yaml.ScalarNode(f"{_YAML}null" if text is None else f"{_YAML}str", text or "")


def _unquoted(text: str) -> str:
    """Text between quotes that the shell has left, as in `model.revision='"null"'`."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted and text[0] not in text[1:-1] else text


def _odd(node: yaml.Node, seen: set[int], depth: int = 0) -> Iterator[tuple[yaml.Node, str]]:
    """Parts of a tree that are more than plain values, with what to say of them."""
    if depth > DEEPEST:
        yield node, f"brackets are nested deeper than {DEEPEST}, which no setting is"
        return
    if id(node) in seen:
        yield node, "anchors (`&name`, `*name`) are not read; write the value twice"
        return
    seen.add(id(node))
    if node.tag not in _TAGS:
        yield node, f"the tag {node.tag!r:.80} is not read; write a plain value"
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _odd(one, seen, depth + 1)
    if isinstance(node, yaml.MappingNode):
        names = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                yield name, "a key is a name"
            elif name.value in names:
                yield name, f"the key {name.value!r:.60} stands here for the second time"
            names.add(name.value if isinstance(name, yaml.ScalarNode) else None)
            yield from _odd(value, seen, depth + 1)


def _said(error: Exception) -> str:
    """An error of yaml on one line."""
    return f"{' '.join(str(error).split()):.300}"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
