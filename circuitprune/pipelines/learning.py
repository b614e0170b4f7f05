"""Gates learned by Lightning: the module and the trainer that a config describes, and the fit."""

import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.config import RunConfig, TrainConfig
from circuitprune.data.pairs import PairData
from circuitprune.data.together import TogetherData
from circuitprune.files.text import counted
from circuitprune.metrics import Metric
from circuitprune.pipelines.frontier import _empty
from circuitprune.pipelines.logs import log_texts
from circuitprune.pipelines.scoring import job
from circuitprune.pipelines.setup import Print, Setup, reference_edges
from circuitprune.runs import launched
from circuitprune.runs.folder import step_of
from circuitprune.runs.settings import flatten
from circuitprune.runs.shards import PATIENCE, asked_of_any
from circuitprune.runs.stopping import held, listen_again
from circuitprune.training.checkpoints import Checkpoints, WholeFiles
from circuitprune.training.density import DensitySchedule, make_penalty
from circuitprune.training.gates import (
    HardConcrete,
    Learner,
    TopK,
    cooled_by,
    log_alpha_for,
)
from circuitprune.training.module import MaskTraining
from circuitprune.training.objectives import make_objective, make_opposite
from circuitprune.training.starts import calibrated_log_alpha, normal_scores, shared_importance
from circuitprune.views.tensorboard.callback import Pictures
from circuitprune.views.training import Steps

Start = Float[Tensor, "*method edge"] | None
"""Scores of one method or a row for each of several; None for all edges alike."""


def make_learner(config: RunConfig, initial: Start, graph: Graph) -> Learner:
    """The learner, started from attribution scores or, without them, from all edges alike."""
    gates, n_edges = config.gates, graph.n_edges
    importance = torch.zeros(n_edges) if initial is None else shared_importance(initial)
    if gates.learner == "topk":
        return TopK(
            importance if initial is None else normal_scores(importance),
            gates.k_min,
            gates.k_max * n_edges,
            gates.temperature,
            gates.mask,
            gates.budgets,
            graph if gates.count == "live" else None,
            gates.average > 0,
            cooled=cooled_by(gates.cooling, config.train.steps, n_edges),
            steps=config.train.steps,
            cut=[size * n_edges for size in config.verify.sizes],
        )
    if initial is None:  # alike: ranks of equal scores would be an order of their own
        return HardConcrete(log_alpha_for(torch.full((n_edges,), gates.init_density)))
    return HardConcrete(calibrated_log_alpha(importance, gates.init_density))


def learning_job(setup: Setup) -> dict[str, object]:
    """What decides the gates beside the number of steps and the learning rate, by name."""
    settings = flatten(setup.config)
    others = ("train.steps", "train.lr", "train.resume", "gates.target")
    parts = ("gates.", "objective", "train.batch_size", "train.seed", "train.lr_", "train.trainer.")
    sizes = ("verify.sizes",) if setup.config.gates.budgets == "at_sizes" else ()
    own = {k: v for k, v in settings.items() if k.startswith(parts + sizes) and k not in others}
    return {**job(setup), **own}


def make_module(setup: Setup, initial: Start) -> MaskTraining:
    """The LightningModule of a config."""
    config, gates = setup.config, setup.config.gates
    hard_concrete = gates.learner == "hard_concrete"
    objective, opposite = objectives_of(setup)
    schedule = DensitySchedule(
        gates.init_density, gates.target_density, round(gates.warmup * config.train.steps)
    )
    return MaskTraining(
        make_learner(config, initial, setup.gated.graph),
        setup.references,
        objective,
        setup.task_metric,
        config.verify.sizes,
        opposite=opposite,
        selection="top_n" if config.verify.selection == "threshold" else config.verify.selection,
        steps=config.train.steps,
        lr=config.train.lr or (0.1 if hard_concrete else 0.05),
        lr_warmup=config.train.lr_warmup,
        lr_end=config.train.lr_end,
        average=gates.average,
        seed=config.train.seed,
        penalty=make_penalty(gates.penalty, gates.penalty_weight) if hard_concrete else None,
        penalty_lr=gates.penalty_lr,
        schedule=schedule if hard_concrete else None,
        job=learning_job(setup),
        reference=reference_edges(setup),
    )


def objectives_of(setup: Setup) -> tuple[Metric, Metric | None]:
    """What training minimises, and what it does where edges are cut, if it ever does that."""
    config, span = setup.config, 0.0
    if config.objective == "faithfulness_gap":
        span = setup.full.metric - _empty(setup, "train").metric
    about = (config.objective, setup.references, setup.task_metric, span)
    joint = config.gates.direction == "joint"
    return make_objective(*about), make_opposite(*about) if joint else None


def train(
    setup: Setup,
    initial: Start,
    trainer: Trainer,
    logger: TensorBoardLogger,
    say: Print,
) -> MaskTraining:
    """Learn the gates with Lightning, or continue from a checkpoint."""
    config = setup.config
    module = make_module(setup, initial)
    log_texts(logger, setup)
    if config.train.steps > 0:
        say(f"Training {config.gates.learner} gates for {counted(config.train.steps, 'step')}")
        if config.train.resume is not None:
            setup.data.start_step = step_of(Path(config.train.resume))
        with held():  # a step that was begun is finished, and its checkpoint written
            resume = config.train.resume
            trainer.fit(module, datamodule=setup.data, ckpt_path=resume, weights_only=True)
    return module


def fit(setup: Setup, initial: Start) -> MaskTraining:
    """Learn the gates and leave no file: no log, no checkpoint."""
    module = make_module(setup, initial)
    if setup.config.train.steps > 0:
        options = trainer_options(setup.config.train, setup.data, setup.gated.device)
        bare_trainer(options).fit(module, datamodule=setup.data)
    return module


def bare_trainer(options: dict[str, Any]) -> Trainer:
    """A Trainer that leaves no file, with the options of `trainer_options`."""
    _quiet()
    return Trainer(**options, logger=False, enable_checkpointing=False)


def make_trainer(setup: Setup, folder: Path, logger: TensorBoardLogger) -> Trainer:
    """A Trainer for `train.steps` steps."""
    options = trainer_options(setup.config.train, setup.data, setup.gated.device)
    return saving_trainer(options, folder, logger, setup.config.train.checkpoint_every, Pictures())


class Signals(Callback):
    """Leaves signals to this package."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back from Lightning."""
        listen_again()


def saving_trainer(
    options: dict[str, Any], folder: Path, logger: TensorBoardLogger, every: int, *more: Callback
) -> Trainer:
    """A Trainer that writes checkpoints and stops where that is asked.

    Args:
        options: Of `trainer_options`.
        folder: Of the run.
        logger: For the curves.
        every: Steps between checkpoints.
        more: Callbacks beside those of the options.
    """
    _quiet()
    checkpoints = Checkpoints(folder / "checkpoints", every, asked_of_any)
    return Trainer(
        **options | {"callbacks": [checkpoints, Signals(), *more, *options["callbacks"]]},
        logger=logger,
        plugins=[WholeFiles()],
        enable_checkpointing=False,  # Lightning's own would name a second one last-v1.ckpt
    )


def trainer_options(
    train: TrainConfig, data: PairData | TogetherData, device: torch.device
) -> dict[str, Any]:
    """Options of a Trainer for `train.steps` steps of an endless epoch, shared under torchrun."""
    validates = bool(data.splits["val"])
    callbacks: list[Callback] = [Steps()] if train.progress else []
    return {
        "max_steps": train.steps,
        "max_epochs": 1,  # the training loader never ends
        "accelerator": "cuda" if device.type == "cuda" else "cpu",
        "devices": launched.on_this_machine(),
        "num_nodes": launched.world() // launched.on_this_machine(),
        "strategy": _strategy(device),
        "val_check_interval": max(1, min(train.val_every, train.steps)) if validates else None,
        "check_val_every_n_epoch": None if validates else 1,
        "limit_val_batches": 1.0 if validates else 0,
        "num_sanity_val_steps": 0,
        "callbacks": callbacks,
        "enable_progress_bar": False,  # it would be of an epoch that never ends
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        **asdict(train.trainer),
    }


def _strategy(device: torch.device) -> Strategy | str:
    """Every process has the frozen model and all gates: one sum of their gradients joins them.

    What is no parameter (averages, the `adaptive` budget) every process computes alike.
    """
    if launched.world() == 1:
        return "auto"
    backend = "nccl" if device.type == "cuda" else "gloo"
    return DDPStrategy(process_group_backend=backend, broadcast_buffers=False, timeout=PATIENCE)


def _quiet() -> None:
    """Silence Lightning's advice that does not apply: data in memory needs no workers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.13
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
