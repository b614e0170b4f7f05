"""One model on one task, prepared for whatever is asked: loaded, checked, references made."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from circuitprune.circuits.graph import Graph
from circuitprune.config import RunConfig, TaskConfig, TrainConfig
from circuitprune.data.pairs import Batch
from circuitprune.data.splits import Size
from circuitprune.data.tasks import Pair, Task
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.files.text import counted, line
from circuitprune.metrics import Evidence, Metric
from circuitprune.pipelines.given import (
    loaded_model,
    model_config,
    of_level,
    pair_counts,
    pairs_source,
    task_name,
)
from circuitprune.pipelines.own import named_metric
from circuitprune.pipelines.setup import make_setup

Own = TypeVar("Own", bound="Prepared")


class Prepared:
    """One model, one task, one ablation; what a `Study` asks its questions of.

    Args:
        model: `zoo/small`, a folder, a GGUF file, a hub id, or a model that is there already, which
            is used where it is and as it is; `study.gated.release()` gives it back.
        task: A name such as `ioi`, a JSONL or CSV file, a list of `Pair`, or a `Task`.
        tokenizer: Of a model that is there already.
        n_train, n_val, n_test: Pairs to attribute and train on, to watch training by, and to
            evaluate on, as numbers, fractions or `auto`. By default 64, 0 and 64; of given pairs,
            half and half of those that fit.
        level: What gates stand on: `edge`, `node`, `neuron`, or `feature` of `dictionaries`.
        spans: Whether gates stand at spans of tokens, by `difference`, `tags` or `positions`.
        dictionaries, errors: As `features.dictionaries`, `features.errors`; see docs/parts.md.
        ablation: What a cut edge carries: one of `ABLATIONS`, such as `patch` or `mean`.
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
        level: str = "edge",
        spans: str = "none",
        dictionaries: Sequence[str] = (),
        errors: str = "node",
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
        (source, path), own = pairs_source(task), named_metric(metric)
        loaded = loaded_model(model, tokenizer)
        n_train, n_test = pair_counts(source, n_train, n_test)
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
            **of_level(level, spans, dictionaries, errors),
            ablation=ablation,  # type: ignore[arg-type]
            train=replace(train, device=device),  # type: ignore[arg-type]
        )
        self.setup = make_setup(config, loaded, source, own)

    @classmethod
    def from_config(cls: type[Own], config: RunConfig, fill: bool = True) -> Own:
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
            f"{counted(self.graph.n_edges, self.graph.unit)}, {config.ablation}, "
            f"{len(splits['train'])} training and "
            f"{counted(len(splits[self.setup.held_out]), 'held-out pair')})"
        )

    def _held_out(self) -> list[Batch]:
        setup = self.setup
        return setup.data.batches(setup.held_out, setup.config.verify.batch_size)

    def _measured(self, mask: Bool[Tensor, " edge"]) -> Evidence:
        measured = evaluate(self.references, {"": mask}, self._held_out(), self.setup.task_metric)
        return measured[""]
