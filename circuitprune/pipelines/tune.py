"""A tuned copy of a model: its weights learn a task, and what that did to others is measured."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.data.batches import Batch
from circuitprune.data.pairs import PairData
from circuitprune.errors import ConfigError, DataError
from circuitprune.files.text import counted, show, table
from circuitprune.files.whole import write_atomic, write_json
from circuitprune.metrics import accuracy, answer_prob
from circuitprune.models.ports import Ports
from circuitprune.pipelines.gathering import keep, kept
from circuitprune.pipelines.learning import saving_trainer, trainer_options
from circuitprune.pipelines.logs import logging_to, make_logger
from circuitprune.pipelines.pairs import make_pairs
from circuitprune.pipelines.setup import Print, device_of, load
from circuitprune.pipelines.tune_config import PEAK_RATE, TuneConfig
from circuitprune.pipelines.tune_pairs import arrange, pairs_to_measure
from circuitprune.runs.folder import (
    AUTO,
    claim,
    create,
    last_checkpoint,
    read_checkpoint,
    step_of,
    tidy,
    write_command,
)
from circuitprune.runs.identity import Identity, fingerprint
from circuitprune.runs.lock import locked, unusable
from circuitprune.runs.manifest import seal
from circuitprune.runs.settings import flatten, to_yaml
from circuitprune.runs.stopping import held
from circuitprune.training.checkpoints import check_progress
from circuitprune.training.tuning import Tuning, answer_logits, refuse_to_hide
from circuitprune.views.progress import shown

MODEL = "model"
"""Folder of the tuned model, inside the run's."""


@dataclass(frozen=True)
class Ability:
    """How well a model does a task, as fractions of pairs."""

    right: float
    """The best right token beats every wrong one."""
    top1: float
    """The most likely token of all is a right one."""
    probability: float
    """Mean probability of the right tokens."""
    n: int
    """Pairs behind the means."""


Abilities = dict[str, Ability]
"""By task; the one that was tuned on is called `held out`."""


@torch.no_grad()
def ability(ports: Ports, batches: list[Batch]) -> Ability:
    """How well a model gives the answers of pairs, behind their clean prompts.

    Raises:
        DataError: no pairs.
    """
    rows, total = [], sum(map(len, batches))
    if not total:
        raise DataError("there are no pairs to measure a model on")
    for batch in (batch.to(ports.model.device) for batch in batches):
        logits = answer_logits(ports, batch)
        top = (batch.answers == logits.argmax(1, keepdim=True)).any(1)
        values = (accuracy(logits, batch), top, answer_prob(logits, batch))
        rows.append(torch.stack([value.double().sum() for value in values]))
    right, top1, probability = (torch.stack(rows).sum(0) / total).tolist()
    return Ability(right, top1, probability, total)


@dataclass(frozen=True)
class Tuned:
    """What a fine-tuning found: abilities before and after it."""

    base: str
    """The model that was tuned."""
    task: str
    steps: int
    before: Abilities
    after: Abilities
    model_fingerprint: str
    """Of the tuned weights."""

    def page(self) -> str:
        """The abilities as a table."""
        rows = [
            (name, when, f"{one.right:.1%}", f"{one.top1:.1%}", f"{one.probability:.3f}", one.n)
            for name in self.before
            for when, one in (("before", self.before[name]), ("after", self.after[name]))
        ]
        head = ("pairs", "tuning", "right", "top 1", "P(answers)", "n")
        return "\n".join(table(head, rows))


@dataclass(frozen=True)
class _Job:
    """The objects of a fine-tuning, made and checked before anything is written."""

    config: TuneConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    data: PairData
    others: dict[str, list[Batch]]
    """Pairs of the tasks that are measured too."""
    identity: Identity
    module: Tuning

    @property
    def held_out(self) -> list[Batch]:
        """The pairs to measure on: test, else validation."""
        splits = self.data.splits
        return self.data.batches("test" if splits["test"] else "val")

    def abilities(self) -> Abilities:
        """Of the model as it is now."""
        batches = {"held out": self.held_out, **self.others}
        return {name: ability(self.module.ports, of) for name, of in batches.items()}


def finetune(config: TuneConfig, say: Print = show, command: str = "") -> Tuned | None:
    """Tune a copy of a model on a task's training pairs and leave it in `output_dir/model`.

    Beside it are `tuning.json`, the abilities before and after, and what a run leaves: config,
    versions, curves, checkpoints. None if a finished fine-tuning is there and `train.resume=auto`.

    Raises:
        CircuitPruneError: anything a user can mend; nothing existing is overwritten.
    """
    folder = Path(config.output_dir)
    if config.train.resume == AUTO and (folder / "COMPLETE").exists():
        say(f"{folder} is finished already")
        return None
    try:
        claim(folder, config.train.resume)
    except OSError as error:
        raise unusable(folder, error) from None
    job = _prepare(config)
    resume = last_checkpoint(folder, config.train.resume)
    n_tensors = len(job.module.learning)
    checkpoint = None if resume is None else read_checkpoint(Path(resume), n_tensors)
    if checkpoint is not None:
        job.module.on_load_checkpoint(checkpoint)
    start = None if checkpoint is None else checkpoint["global_step"]
    with locked(folder), logging_to(folder):
        create(folder, to_yaml(config), job.identity.versions)
        tidy(folder)
        before = _before(job, folder)
        _learn(job, folder, resume, start)
        found = _found(job, before)
        _write(job, folder, found, command)
    say(found.page())
    return found


def _prepare(config: TuneConfig) -> _Job:
    with shown(config.train.progress) as watch:
        model, tokenizer = load(config.model, watch)
    data = make_pairs(config.run, model, tokenizer)
    if not data.splits["train"]:
        raise ConfigError("task.n_train must be > 0 to tune on")
    if not (data.splits["test"] or data.splits["val"]):
        raise ConfigError("task.n_test must be > 0: what is tuned is measured on held-out pairs")
    hiding = arrange(config, data)
    others = {name: pairs_to_measure(name, config, model, tokenizer) for name in config.measured}
    identity = Identity(model, data.splits)
    job = _identity_of(config, identity)
    train = config.train
    module = Tuning(
        model.to(device_of(train.device)),  # type: ignore[arg-type]  # as in setup.py
        last_layers=config.last_layers,
        steps=train.steps,
        lr=train.lr or PEAK_RATE,
        lr_warmup=train.lr_warmup,
        lr_end=train.lr_end,
        weight_decay=config.weight_decay,
        hiding=hiding,
        job=job,
    )
    if hiding is not None:
        first = next(iter(data.batches("train")))
        refuse_to_hide(module.ports, first.to(module.ports.model.device), hiding)
    return _Job(config, model, tokenizer, data, others, identity, module)


def _identity_of(config: TuneConfig, identity: Identity) -> dict[str, object]:
    """Everything that decides the weights beside the number of steps, by name."""
    train = ("train.batch_size", "train.seed", "train.lr", "train.trainer.")
    parts = ("model.", "task.", *train, "hidden.")
    own = ("last_layers", "weight_decay", "by_group")
    settings = {k: v for k, v in flatten(config).items() if k.startswith(parts) or k in own}
    settings.pop("model.name")  # its weights say which it is, wherever it lies
    return {**settings, "model_fingerprint": identity.model, "pairs": identity.pairs}


@dataclass(frozen=True)
class _Before:
    """`before.json`."""

    abilities: Mapping[str, Ability]


def _before(job: _Job, folder: Path) -> Abilities:
    """Of the model before it is tuned; a run that goes on has measured them."""
    path, config = folder / "before.json", job.config
    identity = {**job.module.job, "measured": config.measured, "n_measured": config.n_measured}
    found = kept(path, _Before, identity)
    if found is None:
        found = _Before(job.abilities())
        keep(path, found, identity)
    return dict(found.abilities)


def _learn(job: _Job, folder: Path, resume: str | None, start: int | None) -> None:
    """Train from the start, or go on from a checkpoint of a step."""
    train, logger = job.config.train, make_logger(folder, start)
    options = trainer_options(train, job.data, job.model.device)
    trainer = saving_trainer(options, folder, logger, train.checkpoint_every)
    if resume is not None:
        n_tensors = len(job.module.learning)
        check_progress(trainer, read_checkpoint(Path(resume), n_tensors))
        job.data.start_step = step_of(Path(resume), n_tensors)
    with held():  # a step that was begun is finished, and its checkpoint written
        trainer.fit(job.module, datamodule=job.data, ckpt_path=resume, weights_only=True)
    job.module.to(device_of(train.device))  # Lightning takes it back to the CPU


def _found(job: _Job, before: Abilities) -> Tuned:
    for weight in job.model.parameters():
        weight.requires_grad_(False)
    config = job.config
    after, weights = job.abilities(), fingerprint(job.model)
    return Tuned(config.model.name, config.task.name, config.train.steps, before, after, weights)


CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---

# A tuned copy of {base}

{steps:,} batches of {batch} pairs of task `{task}`, {which}, by `circuitprune finetune` (AdamW,
peak learning rate {lr:g}, loss: minus log probability of the right answers).

*Right*: the best right token beats every wrong one. *Top 1*: the most likely of all tokens is a
right one. *P(answers)*: mean probability of the right tokens. *held out*: pairs of the task that
were not trained on.

{table}
"""


def _write(job: _Job, folder: Path, found: Tuned, command: str) -> None:
    """The model's folder, whole or not at all; the numbers; last of all, that it is finished."""
    config, making = job.config, folder / f".{MODEL}.tmp"
    shutil.rmtree(making, ignore_errors=True)
    job.model.save_pretrained(making)
    job.tokenizer.save_pretrained(making)
    (making / "generation_config.json").unlink(missing_ok=True)
    layers = config.last_layers
    card = CARD.format(
        base=found.base,
        steps=found.steps,
        batch=config.train.batch_size,
        task=found.task,
        which="every weight"
        if layers is None
        else f"the last {counted(layers, 'layer')} and the final norm",
        lr=config.train.lr or PEAK_RATE,
        table=found.page(),
    )
    write_atomic(making / "README.md", card)
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    os.replace(making, folder / MODEL)
    write_json(folder / "tuning.json", asdict(found))
    write_command(folder, command or "circuitprune finetune config.yaml")
    seal(folder)
