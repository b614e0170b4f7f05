"""Every setting changes what is built: a setting that is ignored fails here or in a named test.

A new setting needs a row in `ROWS`, or the test that holds it in `ELSEWHERE`.
"""

import ast
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny import pair_rows, quick_config, save_model, save_pairs, tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuitprune.attribution import METHODS
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.selection import select_sizes
from circuitprune.circuits.span_graph import flow_of
from circuitprune.config import RunConfig
from circuitprune.data.pairs import PairData
from circuitprune.engine.progress import unwatched
from circuitprune.errors import CircuitPruneError
from circuitprune.metrics import TASK_METRICS, cross_entropy, kl_divergence, logit_diff, prob_diff
from circuitprune.models.loading import load_tokenizer
from circuitprune.pipelines import attribute, refining, scoring, setup, verify
from circuitprune.pipelines.frontier import cut, ranked_frontier
from circuitprune.pipelines.learning import make_module, make_trainer
from circuitprune.pipelines.logs import make_logger
from circuitprune.pipelines.pairs import split_pairs
from circuitprune.pipelines.refining import training_pairs
from circuitprune.pipelines.setup import Setup, make_setup, training_batches
from circuitprune.pipelines.subject import Subject
from circuitprune.pipelines.verify_config import EvidenceConfig, load_options
from circuitprune.runs.frontier import Frontier, Provenance
from circuitprune.runs.settings import flatten, to_yaml
from circuitprune.runs.shards import Ranks
from circuitprune.training.checkpoints import Checkpoints
from circuitprune.training.density import FixedPenalty
from circuitprune.training.gates import HardConcrete
from circuitprune.training.module import MaskTraining
from circuitprune.views.training import Steps

TESTS = Path(__file__).parent
HARD = ("gates.learner=hard_concrete",)
LLAMA = ("model.name={home}/llama",)
IOI = ("task.name=ioi", "task.path=null")
EXACT = ("attribution.method=exact",)


class Stop(Exception):
    """What is looked for has been seen."""


class Made:
    """What a quick run with some settings is made of; each part is made when it is asked for."""

    def __init__(self, home: Path, overrides: tuple[str, ...], light: Setup | None) -> None:
        self.home, self.light = home, light
        overrides = tuple(one.replace("{home}", str(home)) for one in overrides)
        self.options = [one for one in overrides if one.startswith("evidence.")]
        self.config = quick_config(home, *(one for one in overrides if one not in self.options))

    @cached_property
    def setup(self) -> Setup:
        return make_setup(self.config)

    @cached_property
    def quick(self) -> Setup:
        """The model and pairs of the quick run under these settings, of what comes after both."""
        return replace(self.light, config=self.config) if self.light else self.setup

    @cached_property
    def pairs(self) -> PairData:
        return split_pairs(self.config, words(self.config.task.name), 24)

    def side(self, name: str) -> list[str]:
        """The clean prompts of a side, as text."""
        examples = self.pairs.splits[name]
        return [words(self.config.task.name).decode(example.clean) for example in examples]

    @property
    def kinds(self) -> set[str]:
        """Of the corrupt prompts."""
        return {example.pair.kind for example in self.pairs.splits["train"]}

    @property
    def groups_are_apart(self) -> bool:
        sides = [{one.pair.group for one in side} for side in self.pairs.splits.values()]
        return all(not one & other for i, one in enumerate(sides) for other in sides[:i])

    @cached_property
    def module(self) -> MaskTraining:
        return make_module(self.quick, IMPORTANCE)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.module.configure_optimizers()["optimizer"]

    @cached_property
    def rate(self) -> Callable[[int], float]:
        """The factor of the learning rate at a step."""
        schedule = self.module.configure_optimizers()["lr_scheduler"]["scheduler"]
        return schedule.lr_lambdas[0]

    @cached_property
    def trainer(self) -> Any:
        try:
            return make_trainer(self.quick, self.home / "no", make_logger(self.home / "no"))
        finally:
            self.deterministic = torch.are_deterministic_algorithms_enabled()
            torch.use_deterministic_algorithms(False)

    def callback(self, kind: type[Callback]) -> Callback | None:
        return next((one for one in self.trainer.callbacks if isinstance(one, kind)), None)

    @cached_property
    def scores(self) -> list[float]:
        return scoring.by_method(self.quick).scores.tolist()

    def scores_by(self, method: str, metric: str, steps: int) -> list[float]:
        """The same without a config."""
        batches = training_batches(self.quick)
        score = METHODS[method].score
        return score(self.quick.references, batches, TASK_METRICS[metric], steps).tolist()

    @property
    def densities(self) -> tuple[float, float]:
        """Of the gates at the start, and of the schedule."""
        initial = None if self.config.attribution.method == "none" else IMPORTANCE
        module = make_module(self.quick, initial)
        return module.learner.expected_density().item(), module.schedule(0)

    @property
    def trained(self) -> tuple[list[int], list[int]]:
        """Pairs in the batches of training, and in those of attribution."""
        data = self.setup.data.train_dataloader()
        steps = [len(batch) for batch, _ in zip(data, range(2), strict=False)]
        return steps, list(map(len, training_batches(self.setup)))

    @property
    def divergence(self) -> list[float]:
        return kl_divergence(self.quick.references.full_logits(self.batch), LOGITS).tolist()

    @property
    def opposite(self) -> list[float] | None:
        """What joint training minimises where it cuts."""
        opposite = self.module.opposite
        return opposite and opposite(LOGITS, self.batch).tolist()

    @property
    def divergence_from_empty(self) -> list[float]:
        return kl_divergence(self.quick.references.empty_logits(self.batch), LOGITS).tolist()

    @property
    def differences(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logit differences of the circuit, the model and the empty circuit."""
        ends = self.quick.references
        logits = (LOGITS, ends.full_logits(self.batch), ends.empty_logits(self.batch))
        return tuple(logit_diff(one, self.batch) for one in logits)

    @property
    def mismatch(self) -> list[float]:
        circuit, full, _ = self.differences
        return ((circuit - full) / full.abs().clamp(min=1)).square().tolist()

    @property
    def distance(self) -> list[float]:
        circuit, full, empty = self.differences
        return ((circuit - full).abs() / (full - empty).abs().clamp(min=1)).tolist()

    @property
    def verified(self) -> Provenance:
        """What a frontier says of itself."""
        return ranked_frontier(self.quick, IMPORTANCE).provenance

    @property
    def gap(self) -> list[float]:
        """Of faithfulness, squared: over what the training pairs lose without any edge."""
        quick, none = self.quick, self.quick.gated.graph.no_edges()
        train = quick.data.batches("train", 24)[0]
        full, empty = (quick.references.run(train)(gates) for gates in (~none, none))
        span = (logit_diff(full, train) - logit_diff(empty, train)).mean()
        wanted = logit_diff(quick.references.full_logits(self.batch), self.batch)
        return ((logit_diff(LOGITS, self.batch) - wanted) / span).square().tolist()

    @property
    def cut(self) -> list[list[bool]]:
        return [mask.tolist() for mask in cut(self.quick, IMPORTANCE).values()]

    @property
    def grown(self) -> list[list[bool]]:
        graph, sizes = self.quick.gated.graph, self.config.verify.sizes
        return [m.tolist() for m in select_sizes(graph, IMPORTANCE, sizes, "greedy").values()]

    @cached_property
    def loss(self) -> list[float]:
        return self.module.objective(LOGITS, self.batch).tolist()

    @cached_property
    def batch(self):
        return self.quick.data.batches("val", len(LOGITS))[0]

    @property
    def refused(self) -> str | None:
        """The word that a refusal begins with; None if the run can be made."""
        try:
            return self.setup and None
        except CircuitPruneError as error:
            return str(error).split()[0]

    def asked(self, owner: object, name: str, run: Callable[[], object]) -> Any:
        """What a function is called with first, while something runs that is not to end."""
        seen: list[tuple[Any, ...]] = []

        def spy(*arguments: Any, **_: Any) -> None:
            seen.append(arguments)
            raise Stop

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, spy)
            with pytest.raises(Stop):
                run()
        return seen[0]

    @property
    def batch_sizes(self) -> set[int]:
        """Of all batches that are verified, and of those that references are filled with."""
        asked, batches = set(), PairData.batches

        def spy(self: PairData, name: str, size: int | None = None) -> object:
            asked.add(size)
            return batches(self, name, size)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PairData, "batches", spy)
            ranked_frontier(make_setup(self.config), IMPORTANCE)
        return asked

    @property
    def shards(self) -> list[int]:
        """Edges in each shard of exact patching."""
        run = lambda: scoring.by_exact(self.quick, self.home / "no", Ranks())  # noqa: E731
        return list(map(len, self.asked(scoring, "run_shards", run)[0]))

    @property
    def refinement(self) -> dict[str, float]:
        """What the search for a refined circuit is made with."""
        masks = {0.1: IMPORTANCE > 1}
        run = lambda: refining.refined_masks(self.quick, masks, None)  # noqa: E731
        search, *_, most_rounds = self.asked(refining, "refine", run)[:4]
        return {**vars(search), "most_rounds": most_rounds}

    @cached_property
    def case(self):
        """What `verify` gives every section."""
        options = load_options([one.removeprefix("evidence.") for one in self.options])[0]
        graph, full = self.quick.gated.graph, self.quick.full
        found = Subject(Frontier(graph, {}, full, full, []), IMPORTANCE, None)
        return verify.make_case(self.quick, found, graph.no_edges(), options)

    @property
    def sections(self) -> list[str]:
        """The sections that `verify` gathers."""
        options = load_options([one.removeprefix("evidence.") for one in self.options])[0]
        return list(verify._kinds(options, minimise=False))


N_EDGES = 110
IMPORTANCE = torch.randn(N_EDGES, generator=torch.Generator().manual_seed(0))
KNOWN = IMPORTANCE > 1
LOGITS = torch.randn(8, len(tokenizer()), generator=torch.Generator().manual_seed(1))


@cache
def words(task: str) -> PreTrainedTokenizerBase:
    """The tiny one, with a token to begin with that it does not put there by itself."""
    if task != "jsonl":
        return load_tokenizer("zoo/small")[0]
    words = deepcopy(tokenizer())
    words.bos_token = "<end>"
    return words


@dataclass(frozen=True)
class Row:
    """One value of one setting, and what is seen under it."""

    setting: str
    value: str
    seen: Callable[[Made], Any]
    expected: Any
    """Or a function of what was made."""
    beside: tuple[str, ...] = ()
    """Other settings, under which this one matters."""


def threads_of(made: Made) -> object:
    return made.asked(attribute, "threads", lambda: attribute.attribute(made.config, str))[0]


def threads_of_verify(made: Made) -> object:
    options = [one.removeprefix("evidence.") for one in made.options]
    (made.home / "kept").mkdir(exist_ok=True)
    (made.home / "kept" / "config.yaml").write_text(to_yaml(made.config))
    run = lambda: verify.verify_run(made.home / "kept", options, say=str)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "check_finished", str)
        return made.asked(verify, "threads", run)[0]


ROWS = [
    # the model
    Row("model.name", "{home}/llama", lambda m: m.setup.gated.model.config.model_type, "llama"),
    Row("model.dtype", "float64", lambda m: m.setup.gated.dtype, torch.float64),
    Row("model.kv_readers", "query_head", lambda m: m.setup.gated.graph.n_edges, 110, LLAMA),
    Row(
        "model.revision",
        "v1.2",
        lambda m: m.asked(setup, "load_model", lambda: setup.load(m.config.model, unwatched))[2],
        "v1.2",
    ),
    Row("model.shard", "true", lambda m: m.refused, "model.shard=true"),
    Row("level", "node", lambda m: m.setup.gated.graph.n_edges, 11),
    Row("level", "neuron", lambda m: m.setup.gated.graph.n_edges, 1 + 2 * (4 + 128)),
    Row("spans", "difference", lambda m: len(flow_of(m.setup.gated.graph).enters), 4),
    Row("spans", "positions", lambda m: m.refused, "spans=positions"),
    Row("ablation", "zero", lambda m: m.setup.references.ablation.kind, "zero"),
    Row("ablation", "mean", lambda m: m.setup.references.ablation.kind, "mean"),
    Row("cache.prefixes", "false", lambda m: not m.setup.references.leaves_out_prefixes, True),
    Row("cache.max_gb", "0.5", lambda m: 0.49e9 < m.setup.references.budget <= 0.5e9, True),
    Row(
        "train.device",
        "cuda",
        lambda m: m.refused or m.setup.gated.device.type,
        "cuda" if torch.cuda.is_available() else "train.device=cuda,",
    ),
    # the pairs
    Row("task.name", "sva", lambda m: m.kinds, {"number"}, IOI),
    Row("task.corruption", "s2_io_flip", lambda m: m.kinds, {"s2_io_flip"}, IOI),
    Row("task.split_by", "group", lambda m: m.groups_are_apart, True, IOI),
    Row("task.path", "{home}/short.jsonl", lambda m: max(map(len, m.side("train"))), 36),
    Row("task.n_train", "7", lambda m: len(m.side("train")), 7),
    Row("task.n_train", "0.5", lambda m: len(m.side("train")), 60),
    Row("task.n_val", "3", lambda m: len(m.side("val")), 3),
    Row("task.n_test", "5", lambda m: len(m.side("test")), 5),
    Row(
        "task.seed",
        "1",
        lambda m: m.side("train")[:1],
        ["the fish met the dog and then the"],
    ),
    Row(
        "task.resample", "1", lambda m: len(set(map(repr, m.setup.data.splits["train"]))) < 24, True
    ),
    Row("task.exchanges", "2", lambda m: len(m.setup.data.splits["train"]) > 24, True),
    Row("task.bos", "always", lambda m: m.side("train")[0].startswith("<end>"), True),
    Row(
        "task.metric",
        "prob_diff",
        lambda m: (m.setup.metric_name, m.setup.task_metric),
        ("prob_diff", prob_diff),
    ),
    Row("task.min_accuracy", "0.99", lambda m: m.refused, "the"),
    # attribution
    Row(
        "attribution.method",
        "eap",
        lambda m: m.scores,
        lambda m: m.scores_by("eap", "logit_diff", 2),
    ),
    Row(
        "attribution.steps",
        "3",
        lambda m: m.scores,
        lambda m: m.scores_by("gate_ig", "logit_diff", 3),
        ("attribution.metric=logit_diff",),
    ),
    Row(
        "attribution.metric",
        "prob_diff",
        lambda m: m.scores,
        lambda m: m.scores_by("gate_ig", "prob_diff", 2),
    ),
    Row("attribution.shard_edges", "50", lambda m: m.shards, [50, 50, 10], EXACT),
    Row("attribution.threads", "3", threads_of, 3, EXACT),
    # the gates and what they minimise
    Row("gates.learner", "hard_concrete", lambda m: type(m.module.learner), HardConcrete),
    Row("gates.temperature", "0.7", lambda m: m.module.learner.temperature, 0.7),
    Row(
        "gates.cooling",
        "55.0",
        lambda m: m.module.learner.temperature_at(m.module.steps),
        lambda m: 0.5 / (1 + 55 * m.module.steps / m.quick.gated.graph.n_edges),
    ),
    Row("gates.mask", "sigmoid", lambda m: m.module.learner.mask, "sigmoid"),
    Row("gates.budgets", "uniform", lambda m: m.module.learner.budgets.schedule, "uniform"),
    Row("gates.count", "live", lambda m: m.module.learner.graph, lambda m: m.quick.gated.graph),
    Row("gates.k_min", "3", lambda m: m.module.learner.budgets.k_min, 3),
    Row("gates.k_max", "0.5", lambda m: m.module.learner.budgets.k_max, 55),
    Row("gates.direction", "joint", lambda m: m.opposite, lambda m: m.divergence_from_empty),
    Row(
        "gates.average",
        "0.25",
        lambda m: (m.module.average, m.module.learner.averages),
        (0.25, True),
    ),
    Row("gates.target", "kl<=1", lambda m: m.verified.get("target"), "kl<=1"),
    Row("gates.init_density", "0.3", lambda m: m.densities, (0.3, 0.3), HARD),
    Row(
        "gates.init_density",
        "0.3",
        lambda m: m.densities,
        (0.3, 0.3),
        (*HARD, "attribution.method=none"),
    ),
    Row("gates.target_density", "0.25", lambda m: m.module.schedule.end, 0.25, HARD),
    Row("gates.warmup", "0.5", lambda m: m.module.schedule.warmup, 6, HARD),
    Row("gates.penalty", "fixed", lambda m: type(m.module.penalty), FixedPenalty, HARD),
    Row(
        "gates.penalty_weight",
        "3",
        lambda m: m.module.penalty.weight,
        3,
        (*HARD, "gates.penalty=fixed"),
    ),
    Row("gates.penalty_lr", "0.3", lambda m: m.optimizer.param_groups[1]["initial_lr"], 0.3, HARD),
    Row(
        "objective",
        "logit_diff",
        lambda m: m.loss,
        lambda m: (-logit_diff(LOGITS, m.batch)).tolist(),
    ),
    Row(
        "objective", "prob_diff", lambda m: m.loss, lambda m: (-prob_diff(LOGITS, m.batch)).tolist()
    ),
    Row(
        "objective",
        "cross_entropy",
        lambda m: m.loss,
        lambda m: cross_entropy(LOGITS, m.batch).tolist(),
    ),
    Row("objective", "kl", lambda m: m.loss, lambda m: m.divergence, ("objective=logit_diff",)),
    Row(
        "objective",
        "acc",
        lambda m: m.loss,
        lambda m: (-logit_diff(LOGITS, m.batch)).sigmoid().tolist(),
    ),
    Row("objective", "ld_match", lambda m: m.loss, lambda m: m.mismatch),
    Row("objective", "cmd", lambda m: m.loss, lambda m: m.distance),
    Row(
        "objective",
        "faithfulness_gap",
        lambda m: m.loss,
        lambda m: m.gap,
        ("model.dtype=float64",),  # the span is small
    ),
    # training
    Row("train.steps", "9", lambda m: (m.module.steps, m.trainer.max_steps), (9, 9)),
    Row("train.lr", "0.3", lambda m: m.optimizer.param_groups[0]["initial_lr"], 0.3),
    Row("train.lr_warmup", "3", lambda m: m.rate(0), 0.25),
    Row("train.lr_end", "0.5", lambda m: m.rate(12), 0.5),
    Row("train.batch_size", "5", lambda m: m.trained, ([5, 5], [5, 5, 5, 5, 4])),
    Row("train.seed", "3", lambda m: (m.module.noise_seed, m.setup.data.seed), (3, 3)),
    Row("train.val_every", "4", lambda m: m.trainer.val_check_interval, 4),
    Row("train.checkpoint_every", "3", lambda m: m.callback(Checkpoints).every, 3),
    Row("train.progress", "true", lambda m: m.callback(Steps) is None, False),
    *(
        Row(f"train.trainer.{name}", value, seen, expected)
        for name, value, seen, expected in (
            ("gradient_clip_val", "0.5", lambda m: m.trainer.gradient_clip_val, 0.5),
            (
                "gradient_clip_algorithm",
                "value",
                lambda m: m.trainer.gradient_clip_algorithm,
                "value",
            ),
            ("log_every_n_steps", "7", lambda m: m.trainer.log_every_n_steps, 7),
            ("detect_anomaly", "true", lambda m: m.trainer._detect_anomaly, True),
            ("deterministic", "true", lambda m: m.trainer and m.deterministic, True),
            ("profiler", "simple", lambda m: type(m.trainer.profiler).__name__, "SimpleProfiler"),
        )
    ),
    # verification
    Row(
        "verify.sizes",
        "[0.1, 0.3]",
        lambda m: (tuple(cut(m.quick, IMPORTANCE)), m.module.sizes),
        ((0.1, 0.3), (0.1, 0.3)),
    ),
    Row(
        "verify.selection",
        "greedy",
        lambda m: (m.cut, m.module.selection),
        lambda m: (m.grown, "greedy"),
    ),
    Row(
        "verify.thresholds",
        "[0.5]",
        lambda m: list(cut(m.quick, IMPORTANCE)),
        [0.5],
        ("verify.selection=threshold", "verify.thresholds=[0.7]"),
    ),
    Row("verify.batch_size", "7", lambda m: m.batch_sizes, {7}),
    Row("verify.reference", "{home}/known.json", lambda m: m.module.reference, KNOWN),
    # refinement
    *(
        Row(f"refinement.{name}", value, lambda m, name=name: m.refinement[name], float(value))
        for name, value in (("tries", "5"), ("least_gain", "0.1"), ("most_rounds", "3"))
    ),
    Row("refinement.n_pairs", "5", lambda m: sum(map(len, training_pairs(m.quick, 4))), 5),
    # what `verify` takes
    Row("evidence.sections", "[mib]", lambda m: m.sections, ["mib"]),
    Row("evidence.threads", "3", threads_of_verify, 3),
    *(
        Row(f"evidence.{name}", value, attrgetter(f"case.{name}"), float(value))
        for name, value in (
            ("n_bootstrap", "30"),
            ("n_random", "30"),
            ("n_knockouts", "3"),
            ("n_removed", "3"),
            ("n_adversarial", "3"),
            ("tolerance", "0.5"),
            ("seed", "3"),
        )
    ),
]

ELSEWHERE = {
    "tasks": "pipelines/test_together.py::test_each_task_is_an_ordinary_run",
    "gates.shared_cost": "pipelines/test_together.py::test_a_price_changes_what_is_shared",
    "gates.starts": "pipelines/test_learned.py::test_more_starts_are_scored_and_averaged",
    "output_dir": "pipelines/test_train.py::test_the_folder_holds_what_is_promised",
    "features.dictionaries": "pipelines/test_parts.py::test_features_are_cut_as_the_config_says",
    "features.errors": "pipelines/test_parts.py::test_features_are_cut_as_the_config_says",
    "preset": "test_config.py::test_every_preset_loads_and_changes_only_what_it_names",
    "attribution.direction": "pipelines/test_attribute.py::test_exact_scores_are_those_of_patching",
    "attribution.edges": "pipelines/test_attribute.py::test_only_the_edges_of_a_circuit_are_scored",
    "attribution.per_example": (
        "pipelines/test_attribute.py::test_scores_of_each_pair_average_to_the_scores"
    ),
    "attribution.verify_top": (
        "pipelines/test_attribute.py::test_the_strongest_edges_are_patched_exactly"
    ),
    "attribution.convergence": (
        "pipelines/test_attribute.py::test_convergence_is_said_written_and_drawn"
    ),
    "attribution.doublings": (
        "pipelines/test_attribute.py::test_convergence_is_said_written_and_drawn"
    ),
    "attribution.acdc_thresholds": (
        "pipelines/test_attribute.py::test_acdc_has_a_circuit_for_each_threshold"
    ),
    "attribution.acdc_worsening": (
        "pipelines/test_attribute.py::test_acdc_may_guard_the_task_metric"
    ),
    "train.resume": "pipelines/test_train.py::test_an_interrupted_run_goes_on_to_the_same_bytes",
    "verify.ranking": "pipelines/test_attribute.py::test_a_signed_ranking_takes_what_helps_first",
    "refine": "pipelines/test_refine.py::test_training_with_refine_leaves_the_same_circuits",
    "refinement.max_size": (
        "pipelines/test_refine.py::"
        "test_no_circuit_gets_worse_on_the_training_pairs_and_what_is_told_is_true"
    ),
    "evidence.progress": "pipelines/test_verify.py::test_a_pipe_hears_of_every_section",
}
"""Settings that a whole run shows, and the test that has one."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_model(folder / "llama", "llama")
    save_pairs(folder / "pairs.jsonl")
    short = [row for row in pair_rows() if "today" not in row["clean"]]
    (folder / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short))
    Circuit(Graph(2, 4, 4, d_model=32), KNOWN).save(folder / "known.json")
    return folder


@pytest.fixture(scope="module")
def light(home) -> Setup:
    return make_setup(quick_config(home))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.setting}={row.value}")
def test_a_setting_changes_what_is_built(home, light, row):
    early = ("model.", "task.")
    if any(one.startswith(early) for one in (row.setting, *row.beside)):
        light = None
    other = Made(home, (*row.beside, f"{row.setting}={row.value}"), light)
    expected = row.expected(other) if isinstance(row.expected, FunctionType) else row.expected
    assert same(row.seen(other), expected)
    assert not same(row.seen(Made(home, row.beside, light)), expected)


def same(seen: object, expected: object) -> bool:
    if isinstance(expected, Tensor):
        return isinstance(seen, Tensor) and torch.equal(seen, expected)
    if isinstance(expected, list | tuple) and all(isinstance(one, float) for one in expected):
        return seen == pytest.approx(expected, rel=1e-5)
    return seen == expected


def test_every_setting_is_held_by_a_test():
    known = {*flatten(RunConfig()), *(f"evidence.{one.name}" for one in fields(EvidenceConfig))}
    built = {row.setting for row in ROWS}
    assert built | {*ELSEWHERE} == known and not built & {*ELSEWHERE}


@pytest.mark.parametrize("test", sorted({*ELSEWHERE.values()}))
def test_the_tests_named_are_there(test):
    file, name = test.split("::")
    tree = ast.parse((TESTS / file).read_text())
    assert name in {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}
