"""Settings as frozen dataclasses that check themselves, made in Python or read from a file.

`runs/settings.py` reads them from yaml and `key=value`, and lists them.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal

from circuitprune.attribution.levels import FeaturesConfig, Level, Spans, level_rules, span_rules
from circuitprune.attribution.methods import METHODS, names_with
from circuitprune.attribution.sharded import shard_rules
from circuitprune.data.caching import CacheConfig
from circuitprune.data.checks import (
    COUNT,
    FEW,
    INSIDE,
    MANY,
    MANY_OR_0,
    NOT_NEGATIVE,
    PAIRS,
    PART,
    POSITIVE,
    SEED,
    SHARE,
    broken,
    is_known,
    misfits,
    refuse,
    unknown,
)
from circuitprune.data.own import is_own
from circuitprune.data.tasks import TASKS
from circuitprune.patching.budget import RefinementConfig
from circuitprune.training.target import ObjectiveName, Target
from circuitprune.training.tasks import several_rules
from circuitprune.training.trainer import TrainerConfig

METRICS = ("auto", "logit_diff", "prob_diff", "answer_prob")
"""What `task.metric` takes by name."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how its edges are counted."""

    name: str = "zoo/small"
    """`zoo/small`, `zoo/boxes`, a folder (a model or a peft adapter), a .gguf file or a hub id."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of weights and activations; gates and sums of scores never fall below float32."""
    kv_readers: Literal["kv_head", "query_head"] = "kv_head"
    """Key/value readers belong to KV heads, or to query heads as EAP-IG and MIB count."""
    revision: str | None = None
    """Commit or tag of a hub id."""
    shard: bool = False
    """Divide the weights among the processes of torchrun; see docs/scale.md."""

    def __post_init__(self) -> None:
        named = (bool(self.name), "model.name is empty; it takes a folder, a file or a hub id")
        refuse(misfits(self, "model.") or broken(named))


@dataclass(frozen=True)
class TaskConfig:
    """Which pairs, how many, and how they are split."""

    name: str = "ioi"
    """`ioi` or another task of docs/data.md, `jsonl` for your own pairs, or FILE.py:YourTask."""
    path: str | None = None
    """JSONL or CSV file of `jsonl`, relative to where the command runs or to the config file."""
    n_train: int | float | Literal["auto"] = 256
    """Pairs to attribute and train on: a number, a fraction of the file (1.0 is all), or `auto`."""
    n_val: int | float | Literal["auto"] = 64
    """Pairs for curves during training; 0 draws none."""
    n_test: int | float | Literal["auto"] = 256
    """Held-out pairs for the exact verification."""
    seed: int = 0
    """Of drawing and splitting pairs."""
    resample: int | None = None
    """Seed to draw the training pairs again by, with replacement; None takes each once."""
    exchanges: int = 0
    """Copies of each training pair in which the words that pairs differ in are exchanged."""
    corruption: str = ""
    """Kind of corrupt prompt; empty takes the task's default."""
    split_by: Literal["pair", "group"] = "pair"
    """`group` keeps each template or entity on one side."""
    bos: Literal["auto", "always", "never"] = "auto"
    """BOS token in front: what the tokenizer does, always (as MIB), or never."""
    metric: str = "auto"
    """`logit_diff`, `prob_diff`, `answer_prob`, FILE.py:your_metric, or `auto`: the task's own."""
    min_accuracy: float = 0.6
    """Least accuracy of the full model on the training pairs, in [0, 1], to go on."""

    def __post_init__(self) -> None:
        known = (*TASKS, "jsonl")
        sizes = dict.fromkeys(("n_train", "n_val", "n_test"), PAIRS)
        seeds = dict.fromkeys(("seed", "resample"), SEED)
        refuse(
            misfits(self, "task.", min_accuracy=SHARE, exchanges=MANY_OR_0, **sizes, **seeds)
            or broken(
                (self.n_train != 0, "task.n_train must be > 0, got 0"),
                (is_known(self.name, known), f"task.name={unknown(self.name, known)}"),
                (is_known(self.metric, METRICS), f"task.metric={unknown(self.metric, METRICS)}"),
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
    """A method of docs/attribution.md, `acdc`, FILE.py:your_method, or `none`: all gates alike."""
    steps: int | None = None
    """Points of the integrated methods; by default 20 for gate_ig and 5 for the others."""
    metric: Literal["auto", "kl", "logit_diff", "prob_diff", "answer_prob"] = "auto"
    """What is attributed; `auto`: the KL for gate_ig, for others the task's: EAP's KL is flat."""
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
    verify_top: int = 0
    """attribute: patch so many edges of largest |score| exactly, and say how far they agree."""
    shard_edges: int = 256
    """exact: edges in one file of unfinished work."""
    threads: int = 1
    """exact, acdc: CPU threads of each process; the last bits depend on it."""
    acdc_thresholds: list[float] = field(default_factory=lambda: [0.001, 0.01, 0.1])
    """acdc: least worsening by which an edge is kept, in nats or the task metric's unit."""
    acdc_worsening: Literal["kl", "task"] = "kl"
    """acdc: what must not grow: the KL to the full model, or minus the task metric."""

    def __post_init__(self) -> None:
        counts = {"shard_edges": COUNT, "steps": MANY, "verify_top": MANY_OR_0}
        counts |= {"doublings": FEW, "threads": FEW, "acdc_thresholds": POSITIVE}
        refuse(misfits(self, "attribution.", **counts) or broken(*self._rules()))

    def _rules(self) -> list[tuple[bool, str]]:
        known, method, thresholds = (*METHODS, "none"), self.method, self.acdc_thresholds
        stepped, directed = names_with("steps"), names_with("directed")
        return [
            (is_known(method, known), f"attribution.method={unknown(method, known)}"),
            (
                bool(thresholds) and len(set(thresholds)) == len(thresholds),
                f"attribution.acdc_thresholds must be different numbers > 0, got {thresholds}",
            ),
            (
                method != "acdc" or not (self.edges or self.per_example),
                f"attribution.{'edges' if self.edges else 'per_example'} does not go with "
                "attribution.method=acdc",
            ),
            (
                not self.convergence or method in stepped or is_own(method),
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
    cooling: float = 9.0
    """topk: the width falls by a factor of 1 + `cooling`, less if edges outnumber the steps."""
    mask: Literal["mixed", "straight_through", "sigmoid"] = "mixed"
    """topk: what the forward pass sees: the hard top-k, its soft form, or a random mix of both."""
    budgets: Literal["log_uniform", "log_both", "uniform", "adaptive", "at_sizes"] = "log_uniform"
    """topk: how the number of edges of a step is drawn; see docs/method.md."""
    count: Literal["raw", "live"] = "raw"
    """topk: what budgets count: edges, or those of them on a path, as `verify.sizes` does."""
    k_min: float = 4.0
    """topk: smallest budget, in edges."""
    k_max: float = 1.0
    """topk: largest budget, as a fraction of all edges."""
    direction: Literal["keep", "joint"] = "keep"
    """`joint`: every second step cuts the kept edges, keeps the others and asks the opposite."""
    starts: list[str] = field(default_factory=list)
    """More attribution methods to start from: ranks are averaged with `attribution.method`'s."""
    average: float = 0.0
    """topk: share of the steps, the last ones, over which the final scores are averaged."""
    shared_cost: float = 1.5
    """tasks: what an edge shared by all takes from a budget, in edges of one task's own."""
    target: str | None = None
    """Such as `kl<=0.1`: the smallest circuit that reaches it on validation pairs is cut too."""
    init_density: float = 0.5
    """hard_concrete: expected fraction of open edges at the start, in (0, 1)."""
    target_density: float = 0.05
    """hard_concrete: expected fraction of open edges at the end, live or not."""
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
            **dict.fromkeys(("temperature", "k_min", "shared_cost"), POSITIVE),
            **dict.fromkeys(("cooling", "penalty_weight", "penalty_lr"), NOT_NEGATIVE),
            **dict.fromkeys(("init_density", "target_density"), INSIDE),
            **dict.fromkeys(("warmup", "average"), SHARE),
        }
        known = [*METHODS]
        starts = [(is_known(m, known), f"gates.starts={unknown(m, known)}") for m in self.starts]
        refuse(misfits(self, "gates.", k_max=PART, **ranges) or broken(*starts))
        if self.target is not None:
            Target.read(self.target)


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
    """Checkpoint to continue from; `auto`: the folder's own, from the start if it has none."""
    val_every: int = 100
    """Steps between validations."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    progress: bool = True
    """Show how far work is: a bar on a terminal, else a line every 30 s."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("batch_size", "val_every", "checkpoint_every"), COUNT)
        counts |= {"steps": MANY_OR_0, "lr_warmup": MANY_OR_0, "seed": SEED}
        refuse(misfits(self, "train.", lr=POSITIVE, lr_end=NOT_NEGATIVE, **counts))


@dataclass(frozen=True)
class VerifyConfig:
    """Circuits to cut from the final ranking, and how."""

    sizes: list[float] = field(
        default_factory=lambda: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    )
    """Fractions of all edges: a circuit has as many live ones; training's budgets count all."""
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
        refuse(
            misfits(self, "verify.", sizes=PART, batch_size=COUNT)
            or broken(
                (bool(self.sizes), "verify.sizes must name at least one size"),
                (
                    (self.selection == "threshold") == bool(self.thresholds),
                    "verify.thresholds goes with verify.selection=threshold, and only with it",
                ),
            )
        )


@dataclass(frozen=True)
class RunConfig:
    """Everything one run needs. Saved, resolved, as `config.yaml` beside its results."""

    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    tasks: list[str] = field(default_factory=list)
    """Names, in place of `task.name`, or files of pairs: learned together; see
    docs/several_tasks.md."""
    level: Level = "edge"
    """What gates stand on: edges, whole nodes, hidden neurons of MLPs, features of dictionaries."""
    spans: Spans = "none"
    """Gates at spans of tokens: by `difference`, by a task's `tags`, or at each of `positions`."""
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    ablation: Literal["patch", "zero", "mean", "positional-mean", "resample", "optimal"] = "patch"
    """What a cut edge carries; see docs/method.md."""
    attribution: AttributionConfig = field(default_factory=AttributionConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    objective: ObjectiveName = "kl"
    """What training minimises."""
    train: TrainConfig = field(default_factory=TrainConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    refine: bool = False
    """Exchange edges of each circuit by exact runs before it is verified."""
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    output_dir: str = "runs/run"
    """Folder of the results; must not hold a run yet."""
    preset: Literal["none", "edge_pruning", "mattr"] = "none"
    """A published recipe under the file's own settings."""

    def __post_init__(self) -> None:
        named = (bool(self.output_dir), "output_dir is empty; it takes the folder of the results")
        gates, verify, scored = self.gates, self.verify, self.attribution
        starts, others = gates.starts, (scored.method, verify.selection)
        rules = level_rules(self.level, self.features, starts, *others, self.ablation, self.refine)
        rules += span_rules(self.spans, self.tasks, starts, *others, self.refine)
        how = (gates.learner, gates.count, gates.budgets, verify.selection)
        rules += several_rules(self.tasks, *how, self.refine, verify.reference)
        if self.model.shard:
            rules += shard_rules(self.level, self.tasks, scored.verify_top, scored.method, *starts)
        sized = gates.target is None or verify.selection != "threshold"
        rules.append((sized, "gates.target looks for a size, verify.selection=threshold for none"))
        refuse(misfits(self) or broken(named, *rules))


def __getattr__(name: str) -> object:
    """What moved to `runs.settings`, for imports of before 0.2."""
    if name in ("PRESETS", "flatten", "load_config", "to_yaml"):
        return getattr(import_module("circuitprune.runs.settings"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
