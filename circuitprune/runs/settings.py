"""Settings as text: a config read from yaml and `key=value`, saved, flattened and listed.

Precedence: the defaults of `config.py`, then the preset, then the file, then the command line.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError

_HERE = Path(__file__).parent
SHIPPED = next(
    (one for one in (_HERE / "configs", _HERE.parents[1] / "configs") if one.is_dir()), _HERE
)
"""Folder of the configs known by name, `ioi` for `ioi.yaml`: a wheel's, or the checkout's."""

RENAMED = {"init": "attribution"}
"""Old keys of a config, still read, by today's."""

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # arXiv 2406.16778 for GPT-2: 3,000 steps of batch 32, targets over 2,500 steps, rates 0.8,
    # all gates open at the start. Left out: weight decay on the gates, a penalty on sampled gates
    # instead of their expectation, and rounding per tensor.
    "edge_pruning": {
        "attribution": {"method": "none"},
        "gates": {
            "learner": "hard_concrete",
            "init_density": 0.99,
            "target_density": 0.02,
            "warmup": 0.833,
            "penalty": "lagrangian",
            "penalty_lr": 0.8,
        },
        "train": {"steps": 3000, "lr": 0.8, "lr_warmup": 200, "lr_end": 0.0, "batch_size": 32},
    },
}

TYPED = "the command line"


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a file and `key=value` overrides into a checked config.

    Args:
        path: A yaml file, the name of a shipped config such as `ioi`, or None for the defaults.
        overrides: Assignments such as `train.steps=500`, stronger than the file.

    Raises:
        ConfigError: missing or broken file, unknown key (with the nearest known one), wrong type
            or a value out of range; the message names the file or the command line, and the key.
    """
    where = TYPED if path is None else str(path)
    chosen = OmegaConf.create() if path is None else _read(_found(path))
    typed = _typed(overrides)
    preset = typed.get("preset", chosen.get("preset", "none"))
    merged: Any = OmegaConf.merge(OmegaConf.structured(RunConfig), PRESETS.get(preset, {}))
    for source, part in ((where, chosen), (TYPED, typed)):
        try:
            merged = OmegaConf.merge(merged, part)
        except (OmegaConfBaseException, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{source}: {_message(error)}") from None
    return _built(merged, where, {key for key, _ in _leaves(OmegaConf.to_container(typed))})


def to_yaml(config: RunConfig) -> str:
    """The resolved config as yaml that `load_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flatten(config: RunConfig) -> dict[str, str | int | float | bool]:
    """`section.key` to plain values, for TensorBoard's hparams."""
    plain = _leaves(OmegaConf.to_container(OmegaConf.structured(config)))
    return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in plain}


@dataclass(frozen=True)
class Setting:
    """One line of what can be set."""

    key: str
    default: str
    """As yaml spells it."""
    meaning: str
    choices: tuple[str, ...] = ()
    """All that it takes, where these are few."""


def settings() -> list[Setting]:
    """Every setting with its default and meaning, as the dataclasses of `config.py` state them."""
    return list(_settings(RunConfig, ""))


def _settings(section: Any, prefix: str) -> Iterator[Setting]:
    kinds, meanings = get_type_hints(section), _meanings(section)
    for one in fields(section):
        kind, key = kinds[one.name], f"{prefix}{one.name}"
        if is_dataclass(kind):
            yield from _settings(kind, f"{key}.")
            continue
        default = one.default if one.default_factory is MISSING else one.default_factory()
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        yield Setting(key, _spelled(default), meanings[one.name], choices)


def _meanings(section: type) -> dict[str, str]:
    """Field -> the string that stands below it in the source, on one line."""
    defined = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(defined, ast.ClassDef)
    body = defined.body
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _spelled(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _built(merged: DictConfig, where: str, typed: Set[str]) -> RunConfig:
    """The dataclasses of a tree; all their problems are told at once, each with its source."""
    values: Any = OmegaConf.to_container(merged)
    problems: list[str] = []
    kinds: dict[str, Any] = get_type_hints(RunConfig)
    for one, kind in kinds.items():
        if is_dataclass(kind):
            section: Any = kind
            try:
                values[one] = section(**values[one])
            except ConfigError as error:
                problems += str(error).splitlines()
    if problems:
        keys = [re.split(r"[^\w.]", problem, maxsplit=1)[0] for problem in problems]
        told = [f"{TYPED if key in typed else where}: " for key in keys]
        raise ConfigError("\n".join(map(add, told, problems)))
    return RunConfig(**values)


def _found(path: str | Path) -> Path:
    """The file itself, or the shipped config of that name."""
    shipped = SHIPPED / f"{path}.yaml"
    if not Path(path).exists() and shipped.is_file():
        return shipped
    if not Path(path).is_file():
        names = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.yaml")))
        raise ConfigError(f"no config file {str(path)!r}; by name there are {names}")
    return Path(path)


def _read(path: Path) -> DictConfig:
    """A yaml file as a tree, without any of it being carried out."""
    if path.stat().st_size > 1_000_000:
        raise ConfigError(f"{path} has {path.stat().st_size:,} bytes; a config is a few lines")
    try:
        text = path.read_text(encoding="utf-8-sig")
        config = OmegaConf.create(text)
        spelled = dict(_scalars(yaml.compose(text, yaml.SafeLoader)))
    except AssertionError:  # OmegaConf's own, on a file that holds one number
        config, spelled = None, {}
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not readable as yaml: {error}") from None
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: expected `key: value` lines at the top")
    return _cleaned(config, spelled, str(path))


def _typed(overrides: Sequence[str]) -> DictConfig:
    """The `key=value` of a command line as a tree."""
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"an override is written key=value, got {item!r}")
    try:
        typed = OmegaConf.from_dotlist(list(overrides))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, AttributeError) as error:
        raise ConfigError(f"{TYPED}: {_message(error)}") from None
    return _cleaned(typed, dict(item.split("=", 1) for item in overrides), TYPED)


def _cleaned(config: DictConfig, spelled: Mapping[str, str], where: str) -> DictConfig:
    """The same under today's keys, text as it was spelled, and no interpolation in it."""
    text = set(_text_keys())
    for key, value in list(_leaves(OmegaConf.to_container(config))):
        if "${" in f"{key}{value}":
            raise ConfigError(
                f"{where}: {key}: interpolations '${{...}}' are not read; write the value"
            )
        if key in text & spelled.keys() and not isinstance(value, str | None):
            OmegaConf.update(config, key, spelled[key])
    for old, new in RENAMED.items():
        if old in config:
            print(f"note: {where}: `{old}` is called `{new}` now", file=sys.stderr)
            config = cast(DictConfig, OmegaConf.merge({new: config.pop(old)}, config))
    return config


def _text_keys(section: Any = RunConfig, prefix: str = "") -> Iterator[str]:
    """Settings declared as text: they take what was typed, `2024_01_01` and `no` too."""
    for name, kind in get_type_hints(section).items():
        if is_dataclass(kind):
            yield from _text_keys(kind, f"{name}.")
        elif kind in (str, str | None):
            yield f"{prefix}{name}"


def _scalars(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """`section.key` and the spelling of every plain value in a yaml tree."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, f"{prefix}.{key.value}".removeprefix("."))
    elif isinstance(node, yaml.ScalarNode):
        yield prefix, node.value


def _message(error: Exception) -> str:
    """OmegaConf's own first lines, which hold the key and the nearest known one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("object_type", "reference")))


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`section.key` and value of every leaf of nested dicts."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}".removeprefix("."))
    else:
        yield prefix, tree
