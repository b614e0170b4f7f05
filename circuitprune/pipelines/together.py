"""A run over several tasks: shared and private gates learned together, a run of each left behind.

The folder of the run holds what is of all tasks; each task's own folder inside it is an ordinary
finished run, which every command reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from circuitprune.circuits.sharing import Rows
from circuitprune.config import RunConfig
from circuitprune.data.together import TogetherData
from circuitprune.errors import ConfigError
from circuitprune.files.text import counted, show
from circuitprune.pipelines.describe import check_text, describe, memory_text, pairs_text
from circuitprune.pipelines.learning import (
    Start,
    bare_trainer,
    learning_job,
    objectives_of,
    saving_trainer,
    trainer_options,
)
from circuitprune.pipelines.logs import logging_to, make_logger
from circuitprune.pipelines.setup import Loaded, Print, Setup, make_setup
from circuitprune.pipelines.together_files import write_together
from circuitprune.pipelines.train import claimed, initial_scores
from circuitprune.runs import launched
from circuitprune.runs.folder import AUTO, create, read_checkpoint, step_of, tidy
from circuitprune.runs.lock import locked
from circuitprune.runs.manifest import COMPLETE
from circuitprune.runs.settings import to_yaml
from circuitprune.runs.shards import Ranks
from circuitprune.runs.stopping import held
from circuitprune.runs.together import TogetherFile, read_together
from circuitprune.training.budgets import check_budgets
from circuitprune.training.checkpoints import check_progress
from circuitprune.training.gates import TopK, cooled_by
from circuitprune.training.several import SharedTraining, TaskPart, costs_of, start_of
from circuitprune.training.starts import shared_importance
from circuitprune.training.tasks import folder_of, is_pair_file


@dataclass(frozen=True)
class _Job:
    """The objects of a run over several tasks, made and checked before anything is written."""

    config: RunConfig
    names: tuple[str, ...]
    """Of the tasks' folders."""
    setups: tuple[Setup, ...]
    data: TogetherData
    trainer: Trainer

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.output_dir)

    def places(self) -> list[Path]:
        """The folder of each task."""
        return [self.folder / name for name in self.names]


def discover_together(config: RunConfig, say: Print = show, command: str = "") -> TogetherFile:
    """Learn shared and private gates of `config.tasks` and leave the results in `output_dir`.

    As `discover` for one task: the same steps, files and refusals. Each task's folder inside holds
    an ordinary finished run. See docs/several_tasks.md.

    Raises:
        CircuitPruneError: anything a user can mend; nothing existing is overwritten.
    """
    folder = Path(config.output_dir)
    if config.train.resume == AUTO and (folder / COMPLETE).exists():
        say(f"{folder} is finished already")
        return read_together(folder)
    job = _prepare(config)
    for setup in job.setups:
        say(describe(setup))
    with locked(folder), logging_to(folder), job.setups[0].forecast_told():
        return _run(job, say, command or "circuitprune train config.yaml")


def dry_run_together(config: RunConfig) -> str:
    """Everything that can be said of each task before training."""
    texts = []
    for setup in _prepare(config, fill=False).setups:
        texts += [describe(setup), "", pairs_text(setup, 3), "", memory_text(setup), ""]
    return "\n".join([*texts, check_text()])


def configs_of(config: RunConfig) -> dict[str, RunConfig]:
    """What each task's own run would be told, by the name of its folder; memory is shared out."""
    memory = replace(config.cache, max_gb=config.cache.max_gb / len(config.tasks))
    found = {}
    for task in config.tasks:
        named = {"name": "jsonl", "path": task} if is_pair_file(task) else {"name": task}
        found[folder_of(task)] = replace(
            config,
            tasks=[],
            task=replace(config.task, **named),  # type: ignore[arg-type]
            cache=memory,
            output_dir=str(Path(config.output_dir) / folder_of(task)),
        )
    return found


def setups_of(config: RunConfig, fill: bool = True) -> dict[str, Setup]:
    """The model once, and the pairs and reference runs of each task, by the name of its folder."""
    loaded: Loaded | None = None
    found = {}
    for name, own in configs_of(config).items():
        found[name] = make_setup(own, loaded, fill=fill)
        loaded = (found[name].gated.model, found[name].tokenizer)
    return found


def _prepare(config: RunConfig, fill: bool = True) -> _Job:
    if launched.world() > 1:
        raise ConfigError(
            f"tasks={','.join(config.tasks)} are learned in one process, but torchrun started "
            f"{launched.world()}; start it with python. One task is shared by several processes"
        )
    config = claimed(config)
    resume = config.train.resume
    checkpoint = None if resume is None else read_checkpoint(Path(resume))
    setups = setups_of(config, fill)
    first, folder = next(iter(setups.values())), Path(config.output_dir)
    n_edges, gates = first.gated.graph.n_edges, config.gates
    check_budgets(gates.k_min, gates.k_max * n_edges, n_edges)
    data = TogetherData([setup.data for setup in setups.values()])
    logger = make_logger(folder, None if checkpoint is None else checkpoint["global_step"])
    options = trainer_options(config.train, data, first.gated.device)
    trainer = saving_trainer(options, folder, logger, config.train.checkpoint_every)
    job = _Job(config, tuple(setups), tuple(setups.values()), data, trainer)
    if checkpoint is not None:
        shared_module(job.config, setups, None).on_load_checkpoint(checkpoint)
        check_progress(trainer, checkpoint)
    return job


def _run(job: _Job, say: Print, command: str) -> TogetherFile:
    """The steps of `discover_together`, once everything is made and checked."""
    config, folder = job.config, job.folder
    create(folder, to_yaml(config), job.setups[0].identity.versions)
    tidy(folder)
    initial = []
    for place, setup in zip(job.places(), job.setups, strict=True):
        (place / COMPLETE).unlink(missing_ok=True)  # of a run that was killed: written anew
        create(place, to_yaml(setup.config), setup.identity.versions)
        tidy(place)
        initial.append(initial_scores(setup, place / "scores.safetensors", say, Ranks()))
    say(
        f"Training gates of {', '.join(job.names)} together for "
        f"{counted(config.train.steps, 'step')}"
    )
    named = dict(zip(job.names, job.setups, strict=True))
    module, rows = learn_rows(config, named, initial, job.trainer, job.data)
    return write_together(folder, config, named, initial, module, rows, command, say)


# ---------------------------------------------------------------- learning


def shared_module(
    config: RunConfig, setups: Mapping[str, Setup], initial: Sequence[Start] | None
) -> SharedTraining:
    """The LightningModule of several tasks, from the scores of each, or from all edges alike."""
    gates, train, n_tasks = config.gates, config.train, len(setups)
    graph = next(iter(setups.values())).gated.graph
    start = torch.zeros(1 + n_tasks, graph.n_edges)
    scores = [one for one in initial or [] if one is not None]
    if scores:
        importance = torch.stack([shared_importance(one) for one in scores])
        start = start_of(importance, gates.shared_cost)
    learner = TopK(
        start.flatten(),
        gates.k_min,
        gates.k_max * graph.n_edges,
        gates.temperature,
        gates.mask,
        gates.budgets,
        averages=gates.average > 0,
        costs=costs_of(n_tasks, graph.n_edges, gates.shared_cost),
        cooled=cooled_by(gates.cooling, train.steps, graph.n_edges),
        steps=train.steps,
    )
    parts = [
        TaskPart(name, setup.references, *objectives_of(setup), setup.task_metric)
        for name, setup in setups.items()
    ]
    return SharedTraining(
        learner,
        parts,
        config.verify.sizes,
        steps=train.steps,
        lr=train.lr or 0.05,
        lr_warmup=train.lr_warmup,
        lr_end=train.lr_end,
        average=gates.average,
        seed=train.seed,
        job={
            f"{name}.{k}": v for name, one in setups.items() for k, v in learning_job(one).items()
        },
    )


def learn_rows(
    config: RunConfig,
    setups: Mapping[str, Setup],
    initial: Sequence[Start],
    trainer: Trainer,
    data: TogetherData,
) -> tuple[SharedTraining, Rows]:
    """Learn the gates with Lightning, or go on from a checkpoint; the module and its order."""
    module, resume = shared_module(config, setups, initial), config.train.resume
    if config.train.steps > 0:
        if resume is not None:
            data.start_step = step_of(Path(resume))
        with held():  # a step that was begun is finished, and its checkpoint written
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module, module.rows(module.learner.ranking().float().cpu())


def fit_together(config: RunConfig, setups: Mapping[str, Setup], module: SharedTraining) -> None:
    """Learn the gates and leave no file: no log, no checkpoint."""
    if config.train.steps == 0:
        return
    data = TogetherData([setup.data for setup in setups.values()])
    device = module.references.gated.device
    bare_trainer(trainer_options(config.train, data, device)).fit(module, datamodule=data)
