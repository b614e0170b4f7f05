"""Settings as frozen dataclasses that check themselves, made in Python or read from a file.

`runs/settings.py` reads them from yaml and `key=value`, and lists them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib import import_module
from math import isfinite
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from circuitprune.attribution.methods import METHODS, names_with
from circuitprune.data.own import is_own
from circuitprune.data.tasks import TASKS
from circuitprune.errors import ConfigError


class _Range(NamedTuple):
    """Where a number must lie, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


_POSITIVE = _Range("be > 0", lambda number: number > 0)
_NOT_NEGATIVE = _Range("be >= 0", lambda number: number >= 0)
_COUNT = _Range("lie in 1 to a billion", lambda number: 1 <= number <= 1e9)
_COUNT_OR_0 = _Range("lie in 0 to a billion", lambda number: 0 <= number <= 1e9)
_SIZE = _Range(
    "be a whole number up to a billion, a fraction up to 1.0 or auto",
    lambda number: number == "auto" or 0 <= number < 1 or (1 <= number <= 1e9 and number % 1 == 0),
)
_SHARE = _Range("lie in [0, 1]", lambda number: 0 <= number <= 1)
_PART = _Range("lie in (0, 1]", lambda number: 0 < number <= 1)
_INSIDE = _Range("lie in (0, 1)", lambda number: 0 < number < 1)


METRICS = ("auto", "logit_diff", "prob_diff", "answer_prob")
"""What `task.metric` takes by name."""


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

    def __post_init__(self) -> None:
        _refuse(_misfits(self))


@dataclass(frozen=True)
class TaskConfig:
    """Which pairs, how many, and how they are split."""

    name: str = "ioi"
    """`ioi`, `greater_than`, `sva`, `pronoun`, `jsonl` for your own pairs, or FILE.py:YourTask."""
    path: str | None = None
    """File of `jsonl`, absolute or relative to where the command runs."""
    n_train: int | float | Literal["auto"] = 256
    """Pairs to attribute and train on: a number, a fraction of the file (1.0 is all of it), or
    `auto`, a share of what the others leave."""
    n_val: int | float | Literal["auto"] = 64
    """Pairs for curves during training; 0 draws none."""
    n_test: int | float | Literal["auto"] = 256
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
    metric: str = "auto"
    """`logit_diff`, `prob_diff`, `answer_prob`, or `auto`: prob_diff for tasks with answer sets,
    else logit_diff."""
    min_accuracy: float = 0.6
    """Least accuracy of the full model on the training pairs, in [0, 1], to go on."""

    def __post_init__(self) -> None:
        known = (*TASKS, "jsonl")
        _refuse(
            _misfits(self, n_train=_SIZE, n_val=_SIZE, n_test=_SIZE, min_accuracy=_SHARE)
            or _broken(
                (self.n_train != 0, "task.n_train must be > 0, got 0"),
                (_is_known(self.name, known), f"task.name={_unknown(self.name, known)}"),
                (self.metric in METRICS, f"task.metric={_unknown(self.metric, METRICS)}"),
                (
                    self.name != "jsonl" or self.path is not None,
                    "task.path must name the file with your pairs if task.name=jsonl",
                ),
                (
                    self.name == "jsonl" or self.path is None,
                    f"task.path={self.path} is read by task.name=jsonl, not by {self.name}",
                ),
            )
        )


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

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("steps", "doublings", "shard_edges", "threads"), _COUNT)
        _refuse(_misfits(self, **counts, acdc_thresholds=_POSITIVE) or _broken(*self._rules()))

    def _rules(self) -> list[tuple[bool, str]]:
        known, method, thresholds = (*METHODS, "none"), self.method, self.acdc_thresholds
        stepped, directed = names_with("steps"), names_with("directed")
        return [
            (method in known, f"attribution.method={_unknown(method, known)}"),
            (
                bool(thresholds) and len(set(thresholds)) == len(thresholds),
                f"attribution.acdc_thresholds must be different numbers > 0, got {thresholds}",
            ),
            (
                method != "acdc" or self.edges is None,
                "attribution.edges does not go with attribution.method=acdc",
            ),
            (
                method != "acdc" or not self.per_example,
                "attribution.per_example does not go with attribution.method=acdc",
            ),
            (
                not self.convergence or method in stepped,
                f"attribution.convergence is of methods with steps: {', '.join(sorted(stepped))}",
            ),
            (
                self.direction == "noising" or method in directed,
                f"attribution.direction=denoising is of {', '.join(directed)}, not of {method}",
            ),
        ]


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

    def __post_init__(self) -> None:
        ranges = {
            **dict.fromkeys(("temperature", "k_min"), _POSITIVE),
            **dict.fromkeys(("penalty_weight", "penalty_lr"), _NOT_NEGATIVE),
            **dict.fromkeys(("init_density", "target_density"), _INSIDE),
        }
        _refuse(_misfits(self, k_max=_PART, warmup=_SHARE, **ranges))


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation."""

    steps: int = 1000
    """Training steps; 0 cuts circuits from the initial ranking."""
    lr: float | None = None
    """Peak learning rate; by default 0.05 for topk and 0.1 for hard_concrete."""
    lr_warmup: int = 0
    """Steps of linear warm-up."""
    lr_end: float = 0.1
    """Final learning rate, as a fraction of `lr`."""
    batch_size: int = 16
    """Pairs in a training or attribution batch."""
    seed: int = 0
    """Of the gates' noise and the order of batches."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto` is CUDA where there is one."""
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

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("batch_size", "val_every", "checkpoint_every"), _COUNT)
        counts |= {"steps": _COUNT_OR_0, "lr_warmup": _COUNT_OR_0}
        _refuse(
            _misfits(self, lr=_POSITIVE, lr_end=_NOT_NEGATIVE, **counts)
            or _broken(
                (
                    "precision" not in self.trainer,
                    "train.trainer.precision is not taken: model.dtype decides, and gates stay in "
                    "float32",
                )
            )
        )


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
    """Pairs in a batch of verification."""
    reference: str | None = None
    """Circuit file; TensorBoard shows how well the ranking finds its edges."""

    def __post_init__(self) -> None:
        _refuse(
            _misfits(self, sizes=_PART, batch_size=_COUNT)
            or _broken(
                (bool(self.sizes), "verify.sizes must name at least one size"),
                (
                    (self.selection == "threshold") == bool(self.thresholds),
                    "verify.thresholds goes with verify.selection=threshold, and only with it",
                ),
            )
        )


@dataclass(frozen=True)
class CacheConfig:
    """Memory for reference runs."""

    max_gb: float = 2.0
    """Budget in GB (1e9 bytes); what does not fit is computed again."""

    def __post_init__(self) -> None:
        _refuse(_misfits(self, max_gb=_NOT_NEGATIVE))


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
    """What training minimises."""
    train: TrainConfig = field(default_factory=TrainConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    output_dir: str = "runs/run"
    """Folder of the results; must not hold a run yet."""
    preset: Literal["none", "edge_pruning"] = "none"
    """A published recipe under the file's own settings."""

    def __post_init__(self) -> None:
        _refuse(_misfits(self))


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


def _misfits(section: object, **ranges: _Range) -> list[str]:
    """A sentence for every setting of the wrong type, of no known choice, or out of its range."""
    problems, declared = [], get_type_hints(type(section))
    for name in (one.name for one in fields(section)):  # type: ignore[arg-type]
        value, key = getattr(section, name), _key(section, name)
        if not _fits(value, declared[name]):
            problems.append(f"{key}={value!r} is not {_asked(value, declared[name])}")
        elif name in ranges and not _holds(value, ranges[name]):
            problems.append(f"{key} must {ranges[name].words}, got {value}")
    return problems


def _key(section: object, name: str) -> str:
    """`section.name`, as files and the command line spell it."""
    prefix = type(section).__name__.removesuffix("Config").lower()
    return name if prefix == "run" else f"{prefix}.{name}"


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of a declared type; NaN and the infinities are no numbers."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if kind in (int, float):
        number = isinstance(value, int | kind) and not isinstance(value, bool)
        return number and isfinite(value)  # type: ignore[arg-type]
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    return isinstance(value, origin or kind)


def _holds(value: Any, allowed: _Range) -> bool:
    """Whether a number, or each of a list, lies where it must; None is no number, so it does."""
    numbers = value if isinstance(value, list) else [value]
    return all(number is None or allowed.holds(number) for number in numbers)


def _asked(value: object, kind: Any) -> str:
    """What a declared type allows, in words."""
    if get_origin(kind) is Literal:
        return f"known; {_nearest(value, get_args(kind))}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return names.get(kind, f"a value of type {str(kind).replace('typing.', '')}")


def _is_known(name: str, known: Sequence[str]) -> bool:
    """Whether a name is known, or says where the user's own object stands: `FILE.py:NAME`."""
    return name in known or is_own(name)


def _unknown(name: str, known: Sequence[str]) -> str:
    return f"{name!r} is unknown; {_nearest(name, known)}"


def _nearest(value: object, known: Sequence[str]) -> str:
    """`did you mean ...?`, if one of the known names is near, and all of them."""
    near = get_close_matches(str(value), known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(known)}"


def _broken(*rules: tuple[bool, str]) -> list[str]:
    """What to say of each rule between settings that does not hold."""
    return [words for holds, words in rules if not holds]


def __getattr__(name: str) -> object:
    """What moved to `runs.settings`, for imports of before 0.2."""
    if name in ("PRESETS", "flatten", "load_config", "to_yaml"):
        return getattr(import_module("circuitprune.runs.settings"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
