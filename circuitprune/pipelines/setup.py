"""The objects of a run, made and checked from its config before anything is trained or written."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.attribution.methods import Method
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.span_graph import named_spans
from circuitprune.config import ModelConfig, RunConfig
from circuitprune.data.batches import few_pairs
from circuitprune.data.checks import unknown
from circuitprune.data.pairs import SPLITS, Batch, PairData
from circuitprune.data.tasks import Task, get_task
from circuitprune.engine.ablation import Constant
from circuitprune.engine.evaluation import evaluate_full
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_part_spans import spanned
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.progress import Watch, told
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check
from circuitprune.errors import ConfigError, DataError
from circuitprune.evidence.ability import ability, refuse_unable
from circuitprune.files.text import counted
from circuitprune.lens.predictions import ExamplePairs, TokenPair, predictions
from circuitprune.metrics import TASK_METRICS, Evidence, Metric
from circuitprune.models import load_model
from circuitprune.models.dictionary import Dictionary, read_dictionaries
from circuitprune.models.sharding import shard
from circuitprune.pipelines.memory import forecast_told
from circuitprune.pipelines.own import check_own, method_of, metric_of
from circuitprune.pipelines.pairs import make_pairs, spans_in
from circuitprune.runs.identity import Identity, refuse_another
from circuitprune.runs.launched import in_step, place, started
from circuitprune.views.progress import shown


@dataclass(frozen=True)
class Setup:
    """The objects of a run, before anything is trained or written."""

    config: RunConfig
    gated: GatedModel
    tokenizer: PreTrainedTokenizerBase
    data: PairData
    references: References
    task_metric: Metric
    metric_name: str
    full: Evidence
    """The full model on the training pairs."""
    identity: Identity
    """Hashes of model and pairs, each computed once."""
    own_method: Method | None = None
    """A function at hand, in place of the method that the config names."""
    own_metric: tuple[str, Metric] | None = None
    """What is attributed, by its name, in place of what the config names."""

    @property
    def method(self) -> Method:
        """What is known of the attribution method.

        Raises:
            ConfigError: there is none, or the user's own is no function of its kind.
        """
        return self.own_method or method_of(self.config.attribution.method)

    @property
    def held_out(self) -> str:
        """The split to verify on: test, else validation, else training pairs."""
        return next(name for name in ("test", "val", "train") if self.data.splits[name])

    def forecast_told(self) -> AbstractContextManager[None]:
        """While it lasts, what runs out of memory carries the dry run's forecast as a note."""
        return forecast_told(self.gated, self.config, self.data.splits)

    def example_pairs(self, circuit: Bool[Tensor, " edge"], n: int = 12) -> ExamplePairs:
        """`pairs.json`: the first `n` held-out pairs as tokens, and what follows by `predictions`.

        Args:
            circuit: Whose predictions stand beside the model's.
            n: Pairs at most.
        """
        split, tokens = self.held_out, self.tokenizer.convert_ids_to_tokens
        examples, size = self.data.splits[split], self.config.verify.batch_size
        batches = few_pairs(self.data.batches(split, size), n)
        follows = predictions(self.references, circuit, batches, self._spell)
        names = ("clean", "corrupt", "answers", "wrong")
        pairs = tuple(
            TokenPair(
                **{k: tuple(tokens(list(getattr(one, k)))) for k in names},
                next=found,
                spans=named_spans(self.gated.graph, one.spans),
            )
            for one, found in zip(examples, follows, strict=False)
        )
        return ExamplePairs(split, len(examples), int(circuit.sum()), pairs)

    def _spell(self, token: int) -> str:
        """A token as the tokenizer names it, or its id where a model has more than it knows."""
        return self.tokenizer.convert_ids_to_tokens([token])[0] or str(token)


Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A model with its tokenizer."""


def make_setup(
    config: RunConfig,
    loaded: Loaded | None = None,
    task: Task | None = None,
    metric: tuple[str, Metric] | None = None,
    fill: bool = True,
) -> Setup:
    """Load, check and split everything that a run needs; nothing is written.

    Args:
        config: All settings.
        loaded: A model that is there already, in place of the one that `config.model` names; it
            stays where it is.
        task: A source of pairs, in place of the one that `config.task` names.
        metric: A task metric and its name, in place of the one that `config.task` names.
        fill: Whether the reference runs that training visits are made now.

    Raises:
        ModelError, DataError: the model or the pairs cannot be used, or the model cannot do the
            task.
        ConfigError: a file of the user's own does not hold what the config says; `tasks`, which
            are not one; or `model.shard` where processes are not `in_step`.
    """
    if config.tasks:
        raise ConfigError(
            f"tasks={','.join(config.tasks)} are learned together by `train`, and by nothing else; "
            "name one in task.name, or give a folder of one task inside the run's"
        )
    if config.model.shard and not in_step():
        raise ConfigError(
            "model.shard=true divides a model among the processes that torchrun starts for `train` "
            "or `attribute`; give model.shard=false here"
        )
    check_own(config)
    with shown(config.train.progress) as watch, ExitStack() as refused:
        model, tokenizer = loaded or _loaded(config, watch)
        dictionaries = read_dictionaries(config.features.dictionaries)
        gated = gated_at(config, model, dictionaries)
        refused.callback(gated.release)  # a model that is not used is given back as it was
        self_check(gated, progress=watch("self-check", "checks"))
        task = task or get_task(config.task.name, config.task.path)
        data = make_pairs(config, model, tokenizer, task)
        if config.spans != "none":
            gated = spanned(gated, spans_in(config, data))
        metric_name, task_metric = metric or _task_metric(config.task.metric, task, data)
        batches = data.batches("train", config.verify.batch_size)
        with forecast_told(gated, config, data.splits):
            references = _references(gated, data, config, watch)
            if fill:
                visited = [one for side in ("train", "val") for one in _sides(data, config)[side]]
                references.fill(visited, watch("reference runs", "runs"))
            full = evaluate_full(references, batches, task_metric)
        refuse_unable(ability(references, tokenizer, data, full), config.task.min_accuracy)
        refused.pop_all()
    identity = Identity(model, data.splits, dictionaries)
    return Setup(
        config, gated, tokenizer, data, references, task_metric, metric_name, full, identity
    )


def gated_at(config: RunConfig, model: nn.Module, dictionaries: Sequence[Dictionary]) -> GatedModel:
    """The model under gates of the config's level.

    Raises:
        ModelError: a model without such parts, or dictionaries that do not fit it.
    """
    if config.level == "edge":
        return GatedModel(model, config.model.kv_readers)
    errors = config.features.errors
    return GatedParts(model, config.level, config.model.kv_readers, dictionaries, errors)


def load(about: ModelConfig, watch: Watch) -> Loaded:
    """The model that a config names, with its tokenizer, on the CPU."""
    progress = watch(f"loading {about.name}", "weights")
    return load_model(about.name, about.dtype, about.revision, progress)


def _loaded(config: RunConfig, watch: Watch) -> Loaded:
    """The model that the config names, where it shall run."""
    device = device_of(config.train.device)
    model, tokenizer = load(config.model, watch)
    if config.model.shard:
        return shard(model, device, started()), tokenizer
    model.to(device)  # type: ignore[arg-type]  # transformers wraps it in an untyped decorator
    return model, tokenizer


def _references(gated: GatedModel, data: PairData, config: RunConfig, watch: Watch) -> References:
    """References with nothing in them yet, held-out prompts checked to fit."""
    sides = _sides(data, config)
    on_device = told(
        [batch.to(gated.device) for batch in sides["train"]], watch("means", "batches")
    )
    ablation = gated.ablation(config.ablation, on_device)
    if isinstance(ablation, Constant):
        for batch in (*sides["val"], *sides["test"]):
            ablation(batch)  # a view: costs nothing, and refuses prompts that are too long
    return References(gated, ablation, config.cache.max_gb, config.cache.prefixes)


def _sides(data: PairData, config: RunConfig) -> dict[str, list[Batch]]:
    """The batches of each side, as verification runs them."""
    return {name: data.batches(name, config.verify.batch_size) for name in SPLITS}


def device_of(name: str) -> torch.device:
    """The device that `train.device` names; `auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device=cuda, but this torch finds no CUDA device; use cpu or auto")
    if name == "cuda" and started() > 1:  # each process has a card of its own
        torch.cuda.set_device(place())
        return torch.device("cuda", place())
    return torch.device(name)


def _task_metric(name: str, task: Task, data: PairData) -> tuple[str, Metric]:
    """`auto` is the task's own, or the probability difference for answer sets, else of logits.

    Raises:
        DataError: the task's own is none that there is.
    """
    examples = data.splits["train"]
    if name == "auto":
        name = getattr(task, "metric", name)
        if name not in ("auto", *TASK_METRICS):
            raise DataError(f"the metric of task {task.name!r}: {unknown(name, [*TASK_METRICS])}")
    if name == "auto" and any(not example.wrong for example in examples):
        name = "answer_prob"
    if name == "auto":
        sets = any(len(example.answers) > 1 or len(example.wrong) > 1 for example in examples)
        name = "prob_diff" if sets else "logit_diff"
    return name, metric_of(name)


Print = Callable[[str], None]


def silent(_: str) -> None:
    """What a process that does not lead says."""


def training_batches(setup: Setup) -> list[Batch]:
    """The training pairs in batches of `train.batch_size`, where the model is."""
    batches = setup.data.batches("train", setup.config.train.batch_size)
    return [batch.to(setup.gated.device) for batch in batches]


def chosen_edges(setup: Setup) -> Bool[Tensor, " edge"] | None:
    """The edges of the circuit in `attribution.edges`; None for all.

    Raises:
        RunError, GraphError: not a circuit file, or one of another graph or another model.
        ConfigError: a circuit without edges.
    """
    path = setup.config.attribution.edges
    if path is None:
        return None
    found = Circuit.load(path, setup.gated.graph, setup.gated.ports.n_kv_heads)
    refuse_another(path, found, setup.identity.model)
    if not (mask := found.mask).any():
        raise ConfigError(f"attribution.edges={path} keeps no edge, so there is nothing to score")
    return mask


def reference_edges(setup: Setup) -> Bool[Tensor, " edge"] | None:
    """The edges of the circuit in `verify.reference`; None without one.

    Raises:
        RunError, GraphError: not a circuit file, or one of another graph or another model.
        ConfigError: a circuit of no edge or of all, against which nothing can be judged.
    """
    path, graph = setup.config.verify.reference, setup.gated.graph
    if path is None:
        return None
    found = Circuit.load(path, graph, setup.gated.ports.n_kv_heads)
    refuse_another(path, found, setup.identity.model)
    if not 0 < found.n_edges < graph.n_edges:
        raise ConfigError(
            f"verify.reference={path} keeps {found.n_edges:,} of "
            f"{counted(graph.n_edges, 'edge')}; a reference keeps some edges and leaves out some"
        )
    return found.mask
