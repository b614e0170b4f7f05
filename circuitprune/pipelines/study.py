"""A model on a task, to hold in a notebook: attribute, cut, learn, evaluate, patch."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from circuitprune.attribution.base import Attribution
from circuitprune.attribution.scores import Scores
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.selection import Method as Selection
from circuitprune.circuits.selection import select
from circuitprune.config import RunConfig, TaskConfig, TrainConfig
from circuitprune.data.pairs import Batch
from circuitprune.data.splits import Size
from circuitprune.data.tasks import Pair, Task
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError
from circuitprune.files.text import line
from circuitprune.metrics import Evidence, Metric
from circuitprune.patching.effects import node_effects
from circuitprune.patching.paths import path_effects
from circuitprune.pipelines.given import (
    Edges,
    edges_wanted,
    loaded_model,
    mask_given,
    model_config,
    no_name,
    pair_counts,
    pairs_source,
    task_name,
)
from circuitprune.pipelines.learned import Learned, provenance_of
from circuitprune.pipelines.learning import fit
from circuitprune.pipelines.metric import metric_name
from circuitprune.pipelines.own import name_of, named_metric, own_method
from circuitprune.pipelines.scoring import by_method
from circuitprune.pipelines.setup import make_setup, training_batches


class Study:
    """One model, one task, one ablation: everything that is asked of a circuit is asked here.

    The model is loaded, checked against its own logits and must be able to do the task; reference
    runs are made once and shared by all that follows. Nothing is written.

    Args:
        model: `zoo/small`, a folder, a GGUF file, a hub id, or a model that is there already, which
            is used where it is and as it is; `study.gated.release()` gives it back.
        task: A name such as `ioi`, a JSONL or CSV file, a list of `Pair`, or a `Task`.
        tokenizer: Of a model that is there already.
        n_train, n_val, n_test: Pairs to attribute and train on, to watch training by, and to
            evaluate on, as numbers, fractions or `auto`. By default 64, 0 and 64; of given pairs,
            half and half of those that fit.
        ablation: What a cut edge carries: `patch`, `zero`, `mean` or `positional-mean`.
        metric: Task metric: `logit_diff`, `prob_diff`, `answer_prob`, `auto`, or a function of your
            own, `(logits, batch) -> number per example`.
        corruption: Kind of corrupt prompt; empty takes the task's default.
        seed: Of drawing pairs, and of training.
        batch_size: Pairs that run at once.
        dtype, device, kv_readers: As `model.dtype`, `train.device`, `model.kv_readers`; a model
            that is there already has its own type and device.
        min_accuracy: Least accuracy of the model on the training pairs, in [0, 1].
        progress: Show how far work is that takes longer than a second.

    Raises:
        ModelError, DataError, ConfigError: what cannot be used, and what to do.

    Example:
        >>> from circuitprune import Study
        >>> study = Study("zoo/small", "ioi", n_train=8, n_test=8)
        >>> study
        Study(zoo/small, ioi: 1,519 edges, patch, 8 training and 8 held-out pairs)
    """

    def __init__(
        self,
        model: str | Path | nn.Module = "zoo/small",
        task: str | Path | Sequence[Pair] | Task = "ioi",
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        n_train: Size | None = None,
        n_val: Size = 0,
        n_test: Size | None = None,
        ablation: str = "patch",
        metric: str | Metric = "auto",
        corruption: str = "",
        seed: int = 0,
        batch_size: int = 16,
        dtype: str | None = None,
        device: str = "auto",
        kv_readers: str = "kv_head",
        min_accuracy: float = 0.6,
        progress: bool = True,
    ) -> None:
        source, path = pairs_source(task)
        loaded = loaded_model(model, tokenizer)
        n_train, n_test = pair_counts(source, n_train, n_test)
        own = named_metric(metric)
        train = TrainConfig(batch_size=batch_size, seed=seed, progress=progress)
        config = RunConfig(
            model=model_config(model, loaded, dtype, kv_readers),
            task=TaskConfig(
                name="jsonl" if path else task_name(task),
                path=path,
                n_train=n_train,
                n_val=n_val,
                n_test=n_test,
                seed=seed,
                corruption=corruption,
                metric="auto" if own else metric,  # type: ignore[arg-type]
                min_accuracy=min_accuracy,
            ),
            ablation=ablation,  # type: ignore[arg-type]
            train=replace(train, device=device),  # type: ignore[arg-type]
        )
        self.setup = make_setup(config, loaded, source, own)

    @classmethod
    def from_config(cls, config: RunConfig, fill: bool = True) -> "Study":
        """The study that a config describes, as every command builds it; `fill` as `make_setup`."""
        study = cls.__new__(cls)
        study.setup = make_setup(config, fill=fill)
        return study

    # ---------------------------------------------------------------- what it is of

    @property
    def graph(self) -> Graph:
        """Writers, readers and edges of the model."""
        return self.setup.gated.graph

    @property
    def gated(self) -> GatedModel:
        """The model under gates."""
        return self.setup.gated

    @property
    def references(self) -> References:
        """What cut edges carry, and the full model's own logits."""
        return self.setup.references

    @cached_property
    def full(self) -> Evidence:
        """The whole model on the held-out pairs."""
        return evaluate_full(self.references, self._held_out(), self.setup.task_metric)

    @cached_property
    def empty(self) -> Evidence:
        """No edge at all on the held-out pairs: what cut edges carry, alone."""
        return self._measured(torch.zeros(self.graph.n_edges, dtype=torch.bool))

    def __repr__(self) -> str:
        config, splits = self.setup.config, self.setup.data.splits
        return (
            f"Study({line(config.model.name)}, {line(config.task.name)}: "
            f"{self.graph.n_edges:,} edges, {config.ablation}, {len(splits['train'])} training and "
            f"{len(splits[self.setup.held_out])} held-out pairs)"
        )

    # ---------------------------------------------------------------- what is asked of it

    def attribute(
        self, method: str | Attribution = "eap", *, steps: int = 5, metric: str | Metric = "auto"
    ) -> Scores:
        """Scores of every edge on the training pairs; see docs/attribution.md.

        Args:
            method: A name of `METHODS`, or your own function `(references, batches, metric, steps)`
                that gives every edge a score, negative where it helps.
            steps: Points of the integrated methods.
            metric: What is attributed: `kl`, a task metric, `auto`, what suits the method, or a
                function `(logits, batch)` of your own.

        Raises:
            ConfigError: an unknown method, one that is no such function, or a metric that says
                nothing to it.
        """
        own = own_method(method, name_of(method)) if callable(method) else None
        explained, config = named_metric(metric), self.setup.config
        settings = replace(
            config.attribution,
            method="eap" if own else method,  # type: ignore[arg-type]  # refused if it is no text
            steps=steps,
            metric="auto" if explained else metric,  # type: ignore[arg-type]
        )
        config = replace(config, attribution=settings)
        setup = replace(self.setup, config=config, own_method=own, own_metric=explained)
        found = by_method(setup).scores
        name = name_of(method) if callable(method) else method
        return Scores(self.graph, found, name, metric_name(setup), setup.method.signed)

    def learn(
        self,
        steps: int = 500,
        *,
        start: Scores | str | Attribution | None = "gate_ig",
        learner: str = "topk",
        objective: str = "kl",
        progress: bool = True,
    ) -> "Learned":
        """Gates learned on the training pairs; they order all edges.

        Args:
            steps: Of the optimiser.
            start: Scores that start the gates, a method that makes them, or None: all alike.
            learner: `topk` or `hard_concrete`.
            objective: What is kept: `kl` to the full model, or another of `docs/method.md`.
            progress: Show the steps and the time left.
        """
        scores = start if isinstance(start, Scores | None) else self.attribute(start)
        config = self.setup.config
        config = replace(
            config,
            gates=replace(config.gates, learner=learner),  # type: ignore[arg-type]
            objective=objective,  # type: ignore[arg-type]
            train=replace(config.train, steps=steps, progress=progress),
        )
        setup = replace(self.setup, config=config)
        module = fit(setup, None if scores is None else scores.values)
        return Learned(setup, module.learner.ranking().float().cpu())

    def circuit(
        self,
        scores: "Scores | Learned",
        *,
        n_edges: int | None = None,
        size: float | None = None,
        selection: Selection = "top_n",
    ) -> Circuit:
        """The best circuit of a size: at most that many live edges, strongest first.

        Args:
            scores: Of `attribute` or `learn`; scores rank by magnitude.
            n_edges: Edges, or
            size: the fraction of all edges, in (0, 1].
            selection: `top_n`, `top_n_raw` (as EAP-IG and MIB count) or `greedy`.

        Raises:
            ConfigError: not exactly one of `n_edges` and `size`, or more than the model has.
        """
        if not isinstance(scores, Scores | Learned):
            raise ConfigError(f"scores are what attribute or learn give, got {scores!r:.60}")
        wanted = edges_wanted(self.graph, n_edges, size)
        ranking = scores.ranking.nan_to_num(-torch.inf)
        mask = select(self.graph, ranking, wanted, selection)
        circuit = Circuit(self.graph, mask, None, provenance_of(self.setup), scores.ranking)
        if isinstance(scores, Scores):
            return replace(circuit, scores=scores.values, method=scores.method)
        return circuit

    def evaluate(self, circuit: Edges) -> Evidence:
        """A circuit on the held-out pairs, exactly: its edges live, all others ablated.

        Args:
            circuit: A circuit, a mask, or names of edges.
        """
        return self._measured(mask_given(self.graph, circuit)).against(self.full, self.empty)

    def effect(
        self, what: str | Sequence[str], *, direction: str = "noising"
    ) -> float | dict[str, float]:
        """Change of the task metric when one thing alone is ablated, by exact patching.

        On the training pairs, as scores are, in the metric's unit. Negative: it helps.

        Args:
            what: A node `a3.h1`, an edge `m0->logits`, a path `a1.h2->m3->logits`, or several.
            direction: `noising`, or `denoising`: restored in the corrupt run.

        Raises:
            GraphError: a node, edge or path that the model does not have.
        """
        if not isinstance(what, str | Iterable):
            raise no_name(what)
        if not isinstance(what, str):
            return {name: self._effect(name, direction) for name in what}
        return self._effect(what, direction)

    # ---------------------------------------------------------------- private

    def _held_out(self) -> list[Batch]:
        setup = self.setup
        return setup.data.batches(setup.held_out, setup.config.verify.batch_size)

    def _measured(self, mask: Bool[Tensor, " edge"]) -> Evidence:
        measured = evaluate(self.references, {"": mask}, self._held_out(), self.setup.task_metric)
        return measured[""]

    def _effect(self, name: str, direction: str) -> float:
        if not isinstance(name, str):
            raise no_name(name)
        batches, metric = training_batches(self.setup), self.setup.task_metric
        if "->" in name:
            return path_effects(self.references, batches, metric, [name], direction).item()
        return node_effects(self.references, batches, metric, [name], direction).item()
