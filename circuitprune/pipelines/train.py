"""The pipeline: a config becomes objects, the objects run in order, the results are written."""

import json
import logging
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError
from circuitprune.files import write_tensors
from circuitprune.pipelines.describe import describe, memory_text, pairs_text
from circuitprune.pipelines.frontier import _empty, finish, verify
from circuitprune.pipelines.logs import log_final, log_texts, make_logger
from circuitprune.pipelines.scoring import scoring_of
from circuitprune.pipelines.setup import Print, Setup, make_setup, reference_edges
from circuitprune.runs.folder import (
    claim,
    create,
    read_checkpoint,
    step_of,
    unusable,
    write_command,
)
from circuitprune.runs.frontier import Frontier, write_results
from circuitprune.runs.identity import fingerprint
from circuitprune.runs.settings import to_yaml
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
from circuitprune.views.pages.summary import summary
from circuitprune.views.tensorboard.callback import Pictures


def discover(config: RunConfig, say: Print = print, command: str = "") -> Frontier:
    """Run the whole pipeline and leave its results in `config.output_dir`.

    Attribution initialises the gates, training orders the edges, exact patching verifies circuits
    on held-out pairs. See docs/file_formats.md for the files.

    Raises:
        CircuitPruneError: anything a user can mend; nothing existing is overwritten.
    """
    folder = Path(config.output_dir)
    setup, trainer, logger = _prepare(config)
    say(describe(setup))
    create(folder, to_yaml(config), setup.gated.model)
    initial = initial_scores(setup, folder / "scores.safetensors", say)
    module = train(setup, initial, trainer, logger, say)
    final = module.learner.ranking().float().cpu()
    write_tensors(
        folder / "gates.safetensors",
        dict(module.learner.state_dict()) | {"ranking": final},
        {
            "learner": config.gates.learner,
            "objective": config.objective,
            "graph": json.dumps(asdict(setup.gated.graph), sort_keys=True),
        },
    )
    split = setup.held_out
    say(f"Verifying circuits exactly on {len(setup.data.splits[split])} {split} pairs")
    command = command or "python scripts/train_mask.py config.yaml"
    frontier = verify(setup, final)
    write_results(folder, frontier, initial, final, summary(frontier, command))
    write_command(folder, command)
    log_final(logger, config, frontier, final)
    finish(setup, folder, frontier)
    return frontier


def dry_run(config: RunConfig) -> str:
    """Everything that can be said before training: the model, the pairs, accuracy and memory."""
    setup, _, _ = _prepare(config)
    return "\n".join([describe(setup), "", pairs_text(setup, 3), "", memory_text(setup)])


def _prepare(config: RunConfig) -> tuple[Setup, Trainer, TensorBoardLogger]:
    """Everything that can be refused, made and checked; nothing is written."""
    folder, resume = Path(config.output_dir), config.train.resume
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("training runs in one process; torchrun serves `attribute` only")
    try:
        claim(folder, resume)
    except OSError as error:
        raise unusable(folder, error) from None
    checkpoint = None if resume is None else read_checkpoint(Path(resume))
    setup = make_setup(config)
    logger = make_logger(folder)
    trainer = make_trainer(setup, folder, logger)
    reference_edges(setup)
    if checkpoint is not None:
        make_module(setup, None).on_load_checkpoint(checkpoint)  # refuses another model's
    return setup, trainer, logger


# ---------------------------------------------------------------- steps


def initial_scores(setup: Setup, path: Path, say: Print) -> Float[Tensor, " edge"] | None:
    """Attribution scores that start the gates; read back when a run is resumed."""
    if setup.config.attribution.method == "none":
        return None
    scoring = scoring_of(setup, path, say)
    assert scoring is not None  # this is the only process
    return scoring.scores


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


def make_module(setup: Setup, initial: Float[Tensor, " edge"] | None) -> MaskTraining:
    """The LightningModule of a config."""
    config, gates = setup.config, setup.config.gates
    hard_concrete = gates.learner == "hard_concrete"
    span = 0.0
    if config.objective == "faithfulness_gap":
        span = setup.full["metric"] - _empty(setup, "train")["metric"]
    schedule = DensitySchedule(
        gates.init_density, gates.target_density, round(gates.warmup * config.train.steps)
    )
    return MaskTraining(
        make_learner(config, initial, setup.gated.graph.n_edges),
        setup.references,
        make_objective(config.objective, setup.task_metric, span),
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
        fingerprint=fingerprint(setup.gated.model),
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
        trainer.fit(module, datamodule=setup.data, ckpt_path=config.train.resume, weights_only=True)
        trainer.save_checkpoint(Path(config.output_dir) / "checkpoints" / "last.ckpt")
    return module


def make_trainer(setup: Setup, folder: Path, logger: TensorBoardLogger) -> Trainer:
    """A Trainer for `train.steps` steps; `train.trainer` overrides any of its options.

    Raises:
        ConfigError: options that Lightning does not know or cannot follow.
    """
    _quiet()
    options = _trainer_options(setup, folder) | {"logger": logger}
    try:
        return Trainer(**{**options, **setup.config.train.trainer})
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        if not setup.config.train.trainer:
            raise
        raise ConfigError(
            f"train.trainer={setup.config.train.trainer} is not what Lightning's Trainer takes: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _trainer_options(setup: Setup, folder: Path) -> dict[str, Any]:
    train, validates = setup.config.train, bool(setup.data.splits["val"])
    callbacks: list[Callback] = [
        ModelCheckpoint(
            folder / "checkpoints",
            filename="{step}",
            every_n_train_steps=train.checkpoint_every,
            save_last=True,
            save_on_exception=True,
        ),
        Pictures(),
    ]
    if train.progress:
        callbacks.append(RichProgressBar(leave=True))
    return {
        "max_steps": train.steps,
        "max_epochs": 1,  # the training loader never ends
        "accelerator": "cuda" if setup.gated.device.type == "cuda" else "cpu",
        "devices": 1,
        "val_check_interval": max(1, min(train.val_every, train.steps)) if validates else None,
        "check_val_every_n_epoch": None if validates else 1,
        "limit_val_batches": 1.0 if validates else 0,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10,
        "callbacks": callbacks,
        "enable_progress_bar": train.progress,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def _quiet() -> None:
    """Silence Lightning's advice that does not apply: data in memory needs no workers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.13
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
