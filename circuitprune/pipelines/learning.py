"""Gates learned by Lightning: the module and the trainer that a config describes, and the fit."""

import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from circuitprune.config import RunConfig
from circuitprune.pipelines.frontier import _empty
from circuitprune.pipelines.logs import log_texts
from circuitprune.pipelines.scoring import job
from circuitprune.pipelines.setup import Print, Setup, reference_edges
from circuitprune.runs.folder import step_of
from circuitprune.runs.settings import flatten
from circuitprune.runs.stopping import asked, held
from circuitprune.training.checkpoints import Checkpoints, WholeFiles
from circuitprune.training.density import DensitySchedule, make_penalty
from circuitprune.training.gates import (
    HardConcrete,
    Learner,
    TopK,
    calibrated_log_alpha,
    log_alpha_for,
    normal_scores,
)
from circuitprune.training.module import MaskTraining
from circuitprune.training.objectives import make_objective
from circuitprune.views.tensorboard.callback import Pictures
from circuitprune.views.training import Steps


def make_learner(
    config: RunConfig, initial: Float[Tensor, " edge"] | None, n_edges: int
) -> Learner:
    """The learner, started from attribution scores or, without them, from all edges alike."""
    gates = config.gates
    known = torch.zeros(n_edges) if initial is None else initial.nan_to_num(0)
    importance = known.abs().float()
    if gates.learner == "topk":
        scores = torch.zeros(n_edges) if initial is None else normal_scores(importance)
        k_max = gates.k_max * n_edges
        return TopK(scores, gates.k_min, k_max, gates.temperature, gates.mask)
    if initial is None:  # alike: ranks of equal scores would be an order of their own
        return HardConcrete(log_alpha_for(torch.full((n_edges,), gates.init_density)))
    return HardConcrete(calibrated_log_alpha(importance, gates.init_density))


def learning_job(setup: Setup) -> dict[str, object]:
    """What decides the gates beside the number of steps and the learning rate, by name."""
    settings, others = flatten(setup.config), ("train.steps", "train.lr", "train.resume")
    parts = ("gates.", "objective", "train.batch_size", "train.seed", "train.lr_", "train.trainer.")
    own = {k: v for k, v in settings.items() if k.startswith(parts) and k not in others}
    return {**job(setup), **own}


def make_module(setup: Setup, initial: Float[Tensor, " edge"] | None) -> MaskTraining:
    """The LightningModule of a config."""
    config, gates = setup.config, setup.config.gates
    hard_concrete = gates.learner == "hard_concrete"
    span = 0.0
    if config.objective == "faithfulness_gap":
        span = setup.full.metric - _empty(setup, "train").metric
    schedule = DensitySchedule(
        gates.init_density, gates.target_density, round(gates.warmup * config.train.steps)
    )
    return MaskTraining(
        make_learner(config, initial, setup.gated.graph.n_edges),
        setup.references,
        make_objective(config.objective, setup.references, setup.task_metric, span),
        setup.task_metric,
        config.verify.sizes,
        selection="top_n" if config.verify.selection == "threshold" else config.verify.selection,
        steps=config.train.steps,
        lr=config.train.lr or (0.1 if hard_concrete else 0.05),
        lr_warmup=config.train.lr_warmup,
        lr_end=config.train.lr_end,
        seed=config.train.seed,
        penalty=make_penalty(gates.penalty, gates.penalty_weight) if hard_concrete else None,
        penalty_lr=gates.penalty_lr,
        schedule=schedule if hard_concrete else None,
        job=learning_job(setup),
        reference=reference_edges(setup),
    )


def train(
    setup: Setup,
    initial: Float[Tensor, " edge"] | None,
    trainer: Trainer,
    logger: TensorBoardLogger,
    say: Print,
) -> MaskTraining:
    """Learn the gates with Lightning, or continue from a checkpoint."""
    config = setup.config
    module = make_module(setup, initial)
    log_texts(logger, setup)
    if config.train.steps > 0:
        say(f"Training {config.gates.learner} gates for {config.train.steps} steps")
        if config.train.resume is not None:
            setup.data.start_step = step_of(Path(config.train.resume))
        with held():  # a step that was begun is finished, and its checkpoint written
            resume = config.train.resume
            trainer.fit(module, datamodule=setup.data, ckpt_path=resume, weights_only=True)
    return module


def fit(setup: Setup, initial: Float[Tensor, " edge"] | None) -> MaskTraining:
    """Learn the gates and leave no file: no log, no checkpoint."""
    _quiet()
    module = make_module(setup, initial)
    if setup.config.train.steps > 0:
        trainer = Trainer(**_trainer_options(setup), logger=False, enable_checkpointing=False)
        trainer.fit(module, datamodule=setup.data)
    return module


def make_trainer(setup: Setup, folder: Path, logger: TensorBoardLogger) -> Trainer:
    """A Trainer for `train.steps` steps."""
    _quiet()
    options = _trainer_options(setup) | {"logger": logger}
    every = setup.config.train.checkpoint_every
    checkpoints = Checkpoints(folder / "checkpoints", every, asked)
    options["callbacks"] = [checkpoints, Pictures(), *options["callbacks"]]
    options["plugins"] = [WholeFiles()]
    options["enable_checkpointing"] = False  # Lightning's own would name a second one last-v1.ckpt
    return Trainer(**options)


def _trainer_options(setup: Setup) -> dict[str, Any]:
    train, validates = setup.config.train, bool(setup.data.splits["val"])
    callbacks: list[Callback] = [Steps()] if train.progress else []
    return {
        "max_steps": train.steps,
        "max_epochs": 1,  # the training loader never ends
        "accelerator": "cuda" if setup.gated.device.type == "cuda" else "cpu",
        "devices": 1,
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


def _quiet() -> None:
    """Silence Lightning's advice that does not apply: data in memory needs no workers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.13
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
