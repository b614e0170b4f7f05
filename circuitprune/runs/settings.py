"""Settings as text: a config read from yaml and `key=value`, saved, flattened and listed.

Precedence: the defaults of `config.py`, then the preset, then the file, then the command line.
"""

import ast
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from circuitprune.config import RunConfig
from circuitprune.data.checks import fits
from circuitprune.data.own import is_own
from circuitprune.errors import ConfigError
from circuitprune.files.limits import read_bytes
from circuitprune.runs.assignments import Assignments
from circuitprune.training.trainer import INSTEAD

_HERE = Path(__file__).parent
SHIPPED = next(
    (one for one in (_HERE / "configs", _HERE.parents[1] / "configs") if one.is_dir()), _HERE
)
"""Folder of the configs known by name, `ioi` for `ioi.yaml`: a wheel's, or the checkout's."""

RENAMED = {"init": "attribution"}
"""Old keys of a config, still read, by today's."""

ELSEWHERE = {
    "model.device_map": (
        "a model lies on one device, which train.device names; if it is too large for one, "
        "model.shard=true divides its weights among the processes of torchrun"
    )
}
"""Settings that other programs have, and what does their work here."""

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
    # arXiv 2609.25518 for edges: soft top-k of scores that start at 0, budgets uniform over all
    # sizes, 5,000 steps of one pair by Adam at a constant rate, minus the logit difference.
    "mattr": {
        "attribution": {"method": "none"},
        "gates": {
            "learner": "topk",
            "mask": "sigmoid",
            "temperature": 0.5,
            "cooling": 0.0,
            "budgets": "uniform",
            "count": "raw",
            "k_min": 1.0,
            "k_max": 1.0,
            "direction": "keep",
            "average": 0.0,
        },
        "objective": "logit_diff",
        "train": {"steps": 5000, "lr": 0.05, "lr_warmup": 0, "lr_end": 1.0, "batch_size": 1},
    },
}

TYPED = "the command line"
ASKED = "???"
"""What a file says of a setting that it leaves to the command line."""


def load_config(
    path: str | Path | None, overrides: Sequence[str] = (), base: Path | None = None
) -> RunConfig:
    """Read a file and `key=value` overrides into a checked config.

    A file leaves to the command line what it calls `???`. Paths are relative to where the command
    runs; a file's `task.path` may also be relative to the file.

    Args:
        path: A yaml file, the name of a shipped config such as `ioi`, or None for the defaults.
        overrides: Assignments such as `train.steps=500`, stronger than the file; of two of one
            setting the last.
        base: Folder from which the file's relative paths start; by default the present one.

    Raises:
        ConfigError: missing or broken file, a setting that stands in it twice, unknown key (with
            the nearest known one), wrong type or a value out of range; the message names the file
            or the command line, and the key.
    """
    return read_settings(RunConfig, path, overrides, base, PRESETS)


Root = TypeVar("Root")


def read_settings(
    root: type[Root],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    base: Path | None = None,
    presets: Mapping[str, Mapping[str, object]] | None = None,
) -> Root:
    """As `load_config`, of any dataclass of settings.

    Args:
        root: The dataclass.
        path, overrides, base: As of `load_config`.
        presets: By name, values under the file's own; the setting `preset` says which.

    Raises:
        ConfigError: as `load_config`.
    """
    found = Assignments(root, RENAMED, INSTEAD | ELSEWHERE)
    where = TYPED if path is None else str(path)
    if path is not None:
        _read_file(found, _found(path), where, base)
    for item in overrides:
        found.read_typed(item, TYPED)
    for key in {*PATHS, *OWN, "output_dir", "train.resume"} & found.values.keys():
        if isinstance(named := found.values[key], str):  # a shell leaves key=~/x as it is
            found.values[key] = os.path.expanduser(named)
    asked = [key for key, value in found.values.items() if value == ASKED]
    if asked:
        told = " ".join(f"{key}=..." for key in asked)
        raise ConfigError(
            f"{where} leaves {', '.join(asked)} to you: say {told} on the command line; the first "
            "lines of the file say what it takes"
        )
    found.fill((presets or {}).get(str(found.values.get("preset")), {}))
    return found.build(where)


def _read_file(found: Assignments[Root], file: Path, where: str, base: Path | None) -> None:
    """What a file says, its paths from where they start."""
    found.read_yaml(_text(file), where)
    if base is not None:
        found.values = {key: _at(base, key, value) for key, value in found.values.items()}
    pairs = found.values.get("task.path")
    if isinstance(pairs, str) and not Path(pairs).exists() and (file.parent / pairs).exists():
        found.values["task.path"] = str(file.parent / pairs)


def to_yaml(config: object) -> str:
    """The resolved config as yaml that `load_config` reads back."""
    return yaml.safe_dump(_tree(config), sort_keys=False, allow_unicode=True, width=1_000_000)


def flatten(config: object) -> dict[str, str | int | float | bool]:
    """`section.key` to plain values, for TensorBoard's hparams."""
    plain = _leaves(_tree(config))
    return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in plain}


def whole(config: RunConfig) -> RunConfig:
    """The same run with a whole model in each process."""
    return replace(config, model=replace(config.model, shard=False))


def changed(config: RunConfig) -> dict[str, str | int | float | bool]:
    """Of `flatten`, what differs from the defaults, but for the folder; what tells runs apart."""
    usual, own = flatten(RunConfig()), flatten(config)
    return {k: v for k, v in own.items() if k != "output_dir" and usual.get(k) != v}


DICTIONARIES = "features.dictionaries"
PATHS = ("model.name", "task.path", DICTIONARIES, "attribution.edges", "verify.reference")
OWN = ("task.name", "task.metric", "attribution.method", "gates.starts")
"""Settings that name a file or a folder, and those that may name a thing in a file of Python."""


def _at(base: Path, key: str, value: object) -> object:
    """A setting whose relative path starts from a folder, if that leads somewhere."""
    if isinstance(value, list):
        return [_at(base, key, one) for one in value]
    if key not in PATHS + OWN or not isinstance(value, str) or value.startswith("zoo/"):
        return value
    before, file, inside = "", value, ""
    if key in OWN:
        if not is_own(value):
            return value
        file, colon, inside = value.rpartition(":")
        inside = colon + inside
    elif key == DICTIONARIES:  # PLACE=FILE
        before, equals, file = value.rpartition("=")
        before += equals
    path = base / os.path.expanduser(file)
    return f"{before}{os.path.normpath(path)}{inside}" if path.exists() else value


@dataclass(frozen=True)
class Setting:
    """One line of what can be set."""

    key: str
    default: str
    """As yaml spells it."""
    meaning: str
    choices: tuple[str, ...] = ()
    """All that it takes, where these are few."""


def settings(root: type = RunConfig) -> list[Setting]:
    """Every setting with its default and meaning, as the dataclasses of `config.py` state them."""
    return list(_settings(root, ""))


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
    """Field -> the string that stands below it in the source, on one line; inherited ones too."""
    base = section.__base__
    inherited = _meanings(base) if base is not None and is_dataclass(base) else {}
    defined = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(defined, ast.ClassDef)
    body = defined.body
    return inherited | {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _spelled(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _found(path: str | Path) -> Path:
    """The file itself, or the shipped config of that name."""
    if not fits(str(path), str):
        raise ConfigError(f"no config file {str(path)!r:.80}: no file can have that name")
    shipped = SHIPPED / f"{path}.yaml"
    if not Path(path).is_file() and shipped.is_file():
        return shipped
    if (Path(path) / "config.yaml").is_file():
        raise ConfigError(f"{str(path)!r} is a folder; its config is {path}/config.yaml")
    if not Path(path).is_file():
        names = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.yaml")))
        raise ConfigError(f"no config file {str(path)!r}; by name there are {names}")
    return Path(path)


def _text(path: Path) -> str:
    """What a file says.

    Raises:
        ConfigError: too large, or no UTF-8.
    """
    try:
        return read_bytes(path, "config", error=ConfigError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not readable as yaml: {error}") from None


def _tree(config: object) -> dict[str, object]:
    """The settings of a dataclass, sections in sections."""
    return asdict(config)  # type: ignore[call-overload, no-any-return]


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`section.key` and value of every leaf of nested dicts."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}".removeprefix("."))
    else:
        yield prefix, tree
