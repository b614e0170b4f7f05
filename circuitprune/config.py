"""Everything a run needs, as frozen dataclasses; yaml files and `key=value` override them.

Precedence: the defaults below, then the preset, then the file, then the command line.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from circuitprune.attribution.methods import METHODS, names_with
from circuitprune.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how its edges are counted."""

    name: str = "zoo/small"
    """`zoo/small`, a folder with a Hugging Face model, or a hub id."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of weights and activations; gates and sums of scores never fall below float32."""
    kv_readers: Literal["kv_head", "query_head"] = "kv_head"
    """Key/value readers belong to KV heads, or to query heads as EAP-IG and MIB count."""
    revision: str | None = None
    """Commit or tag of a hub id."""


@dataclass(frozen=True)
class TaskConfig:
    """Which pairs, how many, and how they are split."""

    name: str = "ioi"
    """`ioi`, `greater_than`, `sva`, `pronoun`, or `jsonl` for your own pairs."""
    path: str | None = None
    """File of `jsonl`, absolute or relative to where the command runs."""
    n_train: int = 256
    """Pairs to attribute and train on."""
    n_val: int = 64
    """Pairs for curves during training; 0 draws none."""
    n_test: int = 256
    """Held-out pairs for the exact verification."""
    seed: int = 0
    """Of drawing and splitting pairs."""
    resample: int | None = None
    """Seed to draw the training pairs again by, with replacement; None takes each once."""
    corruption: str = ""
    """Kind of corrupt prompt; empty takes the task's default."""
    split_by: Literal["pair", "group"] = "pair"
    """`group` keeps each template or entity on one side."""
    bos: Literal["auto", "always", "never"] = "auto"
    """BOS token in front: what the tokenizer does, always (as MIB), or never."""
    metric: Literal["auto", "logit_diff", "prob_diff", "answer_prob"] = "auto"
    """Task metric; `auto` is prob_diff for tasks with answer sets, else logit_diff."""
    min_accuracy: float = 0.6
    """Least accuracy of the full model on the training pairs, in [0, 1], to go on."""


@dataclass(frozen=True)
class AttributionConfig:
    """Attribution: the result of `attribute`, what starts the gates in `train`."""

    method: str = "gate_ig"
    """A method of docs/attribution.md, `acdc`, or `none`: training from all gates alike."""
    steps: int = 5
    """Points of the integrated methods."""
    metric: Literal["auto", "kl", "logit_diff", "prob_diff", "answer_prob"] = "auto"
    """What is attributed; `auto` is the KL for gate_ig and the task metric for all others: at the
    clean run, where EAP looks, the KL is flat."""
    direction: Literal["noising", "denoising"] = "noising"
    """exact, exact_nodes: ablate in the clean run, or restore in the corrupt one."""
    edges: str | None = None
    """Circuit file; only its edges are scored, the others are NaN and in no circuit."""
    per_example: bool = False
    """Also write `per_example`, a score for each pair and edge."""
    convergence: bool = False
    """Integrated methods: also measure how far the scores of m and of 2m steps agree in order."""
    doublings: int = 1
    """convergence: how often `steps` is doubled."""
    shard_edges: int = 256
    """exact: edges in one file of unfinished work."""
    threads: int = 1
    """exact, acdc: CPU threads of each process; the last bits depend on it."""
    acdc_thresholds: list[float] = field(default_factory=lambda: [0.001, 0.01, 0.1])
    """acdc: least worsening by which an edge is kept, in nats or the task metric's unit."""
    acdc_worsening: Literal["kl", "task"] = "kl"
    """acdc: what must not grow: the KL to the full model, or minus the task metric."""


@dataclass(frozen=True)
class GatesConfig:
    """The learner behind the gates, and its sparsity pressure."""

    learner: Literal["topk", "hard_concrete"] = "topk"
    """`topk` orders all edges in one run; `hard_concrete` aims at one density."""
    temperature: float = 0.5
    """topk: width of the soft top-k, in standard deviations of the initial scores."""
    mask: Literal["mixed", "straight_through", "sigmoid"] = "mixed"
    """topk: what the forward pass sees: the hard top-k, its soft form, or a random mix of both."""
    k_min: float = 8.0
    """topk: smallest budget, in edges."""
    k_max: float = 1.0
    """topk: largest budget, as a fraction of all edges."""
    init_density: float = 0.5
    """hard_concrete: expected fraction of open edges at the start, in (0, 1)."""
    target_density: float = 0.05
    """hard_concrete: expected fraction of open edges at the end."""
    warmup: float = 0.7
    """hard_concrete: fraction of the steps over which the target moves, linearly."""
    penalty: Literal["lagrangian", "fixed"] = "lagrangian"
    """hard_concrete: how density is priced."""
    penalty_weight: float = 10.0
    """hard_concrete, fixed: nats per unit of density above the target."""
    penalty_lr: float = 0.8
    """hard_concrete, lagrangian: learning rate of the multipliers."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation."""

    steps: int = 1000
    lr: float | None = None
    """Peak learning rate; by default 0.05 for topk and 0.1 for hard_concrete."""
    lr_warmup: int = 0
    """Steps of linear warm-up."""
    lr_end: float = 0.1
    """Final learning rate, as a fraction of `lr`."""
    batch_size: int = 16
    seed: int = 0
    """Of the gates' noise and the order of batches."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    resume: str | None = None
    """Checkpoint to continue from."""
    val_every: int = 100
    """Steps between validations."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    progress: bool = True
    """Show a progress bar."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further options of Lightning's Trainer, passed through."""


@dataclass(frozen=True)
class VerifyConfig:
    """Circuits to cut from the final ranking, and how."""

    sizes: list[float] = field(
        default_factory=lambda: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    )
    """Fractions of all edges."""
    selection: Literal["top_n", "top_n_raw", "greedy", "threshold"] = "top_n"
    """`threshold` keeps edges whose final score is at least each of `thresholds`."""
    thresholds: list[float] = field(default_factory=list)
    """Only for selection=threshold; replaces `sizes`."""
    ranking: Literal["absolute", "signed"] = "absolute"
    """attribute: keep the edges of largest |score|, or those that help most, as MIB's CPR does."""
    batch_size: int = 64
    reference: str | None = None
    """Circuit file; TensorBoard shows how well the ranking finds its edges."""


@dataclass(frozen=True)
class CacheConfig:
    """Memory for reference runs."""

    max_gb: float = 2.0
    """Budget in GB (1e9 bytes); what does not fit is computed again."""


@dataclass(frozen=True)
class RunConfig:
    """Everything one run needs. Saved, resolved, as `config.yaml` beside its results."""

    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    ablation: Literal["patch", "zero", "mean", "positional-mean"] = "patch"
    """What a cut edge carries."""
    attribution: AttributionConfig = field(default_factory=AttributionConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    objective: Literal["kl", "logit_diff", "prob_diff", "faithfulness_gap", "cross_entropy"] = "kl"
    train: TrainConfig = field(default_factory=TrainConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    output_dir: str = "runs/run"
    """Folder of the results; must not hold a run yet."""
    preset: Literal["none", "edge_pruning"] = "none"
    """A published recipe under the file's own settings."""


ATTRIBUTIONS = (*METHODS, "none")
"""What `attribution.method` takes."""

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


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a file and `key=value` overrides into a checked config.

    Raises:
        ConfigError: missing or broken file, unknown key (with the nearest known one), wrong type
            or a value out of range; the message names file and key.
    """
    where = str(path) if path is not None else "the command line"
    try:
        chosen = _read(Path(path)) if path is not None else OmegaConf.create()
        typed = OmegaConf.from_dotlist([_assignment(item) for item in overrides])
        chosen, typed = _renamed(chosen, where), _renamed(typed, "the command line")
        schema = OmegaConf.structured(RunConfig)
        preset = OmegaConf.merge(schema, chosen, typed).preset
        merged = OmegaConf.merge(schema, PRESETS[preset], chosen, typed)
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: {_message(error)}") from None
    assert isinstance(config, RunConfig)
    _check(config, where)
    return config


def to_yaml(config: RunConfig) -> str:
    """The resolved config as yaml that `load_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flatten(config: RunConfig) -> dict[str, str | int | float | bool]:
    """`section.key` to plain values, for TensorBoard's hparams."""

    def walk(node: Any, prefix: str) -> dict[str, str | int | float | bool]:
        flat: dict[str, str | int | float | bool] = {}
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                flat |= walk(value, f"{name}.")
            else:
                flat[name] = value if isinstance(value, bool | int | float | str) else str(value)
        return flat

    return walk(OmegaConf.to_container(OmegaConf.structured(config)), "")


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError(f"no config file {str(path)!r}; the shipped ones are in configs/")
    if path.stat().st_size > 1_000_000:
        raise ConfigError(f"{path} has {path.stat().st_size:,} bytes; a config is a few lines")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "${" in text:
            raise ConfigError(f"{path}: interpolations '${{...}}' are not read; write the value")
        config = OmegaConf.create(text)
    except AssertionError:  # OmegaConf's own, on a file that holds one number
        config = None
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not readable as yaml: {error}") from None
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: expected `key: value` lines at the top")
    return config


def _renamed(config: DictConfig, where: str) -> DictConfig:
    """The same settings under today's keys, and a note for each old one."""
    for old, new in RENAMED.items():
        if old in config:
            print(f"note: {where}: `{old}` is called `{new}` now", file=sys.stderr)
            under = OmegaConf.create({new: config.pop(old)})
            config = OmegaConf.merge(under, config)
    return config


def _assignment(item: str) -> str:
    key, equals, _ = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"an override is written key=value, got {item!r}")
    if "${" in item:
        raise ConfigError(f"interpolations '${{...}}' are not read; write the value: {item!r}")
    return item


def _message(error: Exception) -> str:
    """OmegaConf's own first lines, which hold the key and the nearest known one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("object_type", "reference")))


def _check(config: RunConfig, where: str) -> None:
    """Ranges that types cannot express, all problems at once."""
    rules = [
        *_data_rules(config),
        *_attribution_rules(config.attribution),
        *_gate_rules(config.gates),
        *_train_rules(config.train),
    ]
    problems = [message for holds, message in rules if not holds]
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))


def _data_rules(config: RunConfig) -> list[tuple[bool, str]]:
    """What must hold of pairs, verification and cache, and what to say if not."""
    task, verify = config.task, config.verify
    return [
        (task.n_train > 0, f"task.n_train must be > 0, got {task.n_train}"),
        (task.n_val >= 0, f"task.n_val must be >= 0, got {task.n_val}"),
        (task.n_test >= 0, f"task.n_test must be >= 0, got {task.n_test}"),
        (
            task.name != "jsonl" or task.path is not None,
            "task.name=jsonl needs task.path, the file with your pairs",
        ),
        (config.cache.max_gb >= 0, f"cache.max_gb must be >= 0, got {config.cache.max_gb}"),
        (
            all(0 < size <= 1 for size in verify.sizes),
            f"verify.sizes are fractions of all edges in (0, 1], got {verify.sizes}",
        ),
        (bool(verify.sizes), "verify.sizes must name at least one size"),
        (
            (verify.selection == "threshold") == bool(verify.thresholds),
            "verify.thresholds goes with verify.selection=threshold, and only with it",
        ),
        (verify.batch_size > 0, f"verify.batch_size must be > 0, got {verify.batch_size}"),
    ]


def _attribution_rules(attribution: AttributionConfig) -> list[tuple[bool, str]]:
    """The same for the attribution."""
    near = get_close_matches(attribution.method, ATTRIBUTIONS, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    thresholds = attribution.acdc_thresholds
    stepped, directed = names_with("steps"), names_with("directed")
    return [
        (
            attribution.method in ATTRIBUTIONS,
            f"attribution.method={attribution.method!r} is unknown; {hint}Known: "
            f"{', '.join(ATTRIBUTIONS)}",
        ),
        (attribution.steps > 0, f"attribution.steps must be > 0, got {attribution.steps}"),
        (
            attribution.doublings > 0,
            f"attribution.doublings must be > 0, got {attribution.doublings}",
        ),
        (
            attribution.shard_edges > 0,
            f"attribution.shard_edges must be > 0, got {attribution.shard_edges}",
        ),
        (attribution.threads > 0, f"attribution.threads must be > 0, got {attribution.threads}"),
        (
            bool(thresholds) and len(set(thresholds)) == len(thresholds) and min(thresholds) > 0,
            f"attribution.acdc_thresholds must be different numbers > 0, got {thresholds}",
        ),
        (
            attribution.method != "acdc" or not (attribution.edges or attribution.per_example),
            "attribution.edges and attribution.per_example do not go with attribution.method=acdc",
        ),
        (
            not attribution.convergence or attribution.method in stepped,
            f"attribution.convergence is of methods with steps: {', '.join(sorted(stepped))}",
        ),
        (
            attribution.direction == "noising" or attribution.method in directed,
            f"attribution.direction=denoising is of {', '.join(directed)}, "
            f"not of {attribution.method}",
        ),
    ]


def _gate_rules(gates: GatesConfig) -> list[tuple[bool, str]]:
    """The same for the learner."""
    target, initial = gates.target_density, gates.init_density
    return [
        (0 < gates.k_max <= 1, f"gates.k_max must lie in (0, 1], got {gates.k_max}"),
        (gates.k_min > 0, f"gates.k_min must be > 0, got {gates.k_min}"),
        (gates.temperature > 0, f"gates.temperature must be positive, got {gates.temperature}"),
        (0 <= gates.warmup <= 1, f"gates.warmup must lie in [0, 1], got {gates.warmup}"),
        (0 < target < 1, f"gates.target_density must lie in (0, 1), got {target}"),
        (0 < initial < 1, f"gates.init_density must lie in (0, 1), got {initial}"),
    ]


def _train_rules(train: TrainConfig) -> list[tuple[bool, str]]:
    """The same for the optimisation."""
    every = train.checkpoint_every
    return [
        (train.steps >= 0, f"train.steps must be >= 0, got {train.steps}"),
        (train.batch_size > 0, f"train.batch_size must be > 0, got {train.batch_size}"),
        (train.val_every > 0, f"train.val_every must be > 0, got {train.val_every}"),
        (every > 0, f"train.checkpoint_every must be > 0, got {every}"),
        (train.lr is None or train.lr > 0, f"train.lr must be positive, got {train.lr}"),
        (train.lr_warmup >= 0, f"train.lr_warmup must be >= 0, got {train.lr_warmup}"),
        (train.lr_end >= 0, f"train.lr_end must be >= 0, got {train.lr_end}"),
        (
            "precision" not in train.trainer,
            "train.trainer.precision is not taken: model.dtype decides, and gates stay in float32",
        ),
    ]
