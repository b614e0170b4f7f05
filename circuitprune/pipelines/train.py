"""The pipeline: a config becomes objects, the objects run in order, the results are written."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from jaxtyping import Float
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError
from circuitprune.files.text import show
from circuitprune.files.whole import write_tensors
from circuitprune.pipelines.describe import check_text, describe, memory_text, pairs_text
from circuitprune.pipelines.frontier import finish, ranked_frontier
from circuitprune.pipelines.learning import make_module, make_trainer, train
from circuitprune.pipelines.logs import log_final, logging_to, make_logger
from circuitprune.pipelines.scoring import scoring_of
from circuitprune.pipelines.setup import Print, Setup, reference_edges
from circuitprune.pipelines.study import Study
from circuitprune.runs.folder import (
    AUTO,
    claim,
    create,
    last_checkpoint,
    read_checkpoint,
    tidy,
    write_command,
)
from circuitprune.runs.frontier import Frontier, read_results, write_results
from circuitprune.runs.lock import locked, unusable
from circuitprune.runs.settings import to_yaml
from circuitprune.training.checkpoints import check_progress
from circuitprune.training.gates import check_budgets
from circuitprune.views.pages.summary import summary


def discover(config: RunConfig, say: Print = show, command: str = "") -> Frontier:
    """Run the whole pipeline and leave its results in `config.output_dir`.

    Attribution initialises the gates, training orders the edges, exact patching verifies circuits
    on held-out pairs. See docs/file_formats.md for the files.

    Raises:
        CircuitPruneError: anything a user can mend; nothing existing is overwritten.
    """
    folder = Path(config.output_dir)
    if config.train.resume == AUTO and (folder / "COMPLETE").exists():
        say(f"{folder} is finished already")  # a scheduler may ask once more
        return read_results(folder)[0]
    setup, trainer, logger = _prepare(config)
    say(describe(setup))
    with locked(folder), logging_to(folder), setup.forecast_told():
        return _run(config, setup, trainer, logger, say, command)


def _run(
    config: RunConfig,
    setup: Setup,
    trainer: Trainer,
    logger: TensorBoardLogger,
    say: Print,
    command: str,
) -> Frontier:
    """The steps of `discover`, once everything is made and checked."""
    folder = Path(config.output_dir)
    create(folder, to_yaml(config), setup.identity.versions)
    tidy(folder)
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
    frontier = ranked_frontier(setup, final)
    write_results(folder, frontier, initial, final, summary(frontier, command))
    write_command(folder, command)
    log_final(logger, config, frontier, final)
    finish(setup, folder, frontier)
    return frontier


def dry_run(config: RunConfig) -> str:
    """Everything that can be said before training: the model, the pairs, accuracy and memory."""
    setup, _, _ = _prepare(config, fill=False)
    return "\n".join(
        [describe(setup), "", pairs_text(setup, 3), "", memory_text(setup), check_text()]
    )


def _prepare(config: RunConfig, fill: bool = True) -> tuple[Setup, Trainer, TensorBoardLogger]:
    """Everything that can be refused, made and checked; nothing is written."""
    folder = Path(config.output_dir)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("training runs in one process; torchrun serves `attribute` only")
    try:
        claim(folder, config.train.resume)
    except OSError as error:
        raise unusable(folder, error) from None
    resume = last_checkpoint(folder, config.train.resume)
    checkpoint = None if resume is None else read_checkpoint(Path(resume))
    config = replace(config, train=replace(config.train, resume=resume))
    setup = Study.from_config(config, fill).setup
    if config.gates.learner == "topk":
        n_edges = setup.gated.graph.n_edges
        check_budgets(config.gates.k_min, config.gates.k_max * n_edges, n_edges)
    logger = make_logger(folder, None if checkpoint is None else checkpoint["global_step"])
    trainer = make_trainer(setup, folder, logger)
    reference_edges(setup)
    if checkpoint is not None:
        make_module(setup, None).on_load_checkpoint(checkpoint)  # refuses another model's
        check_progress(trainer, checkpoint)
    return setup, trainer, logger


# ---------------------------------------------------------------- steps


def initial_scores(setup: Setup, path: Path, say: Print) -> Float[Tensor, " edge"] | None:
    """Attribution scores that start the gates; read back when a run is resumed."""
    if setup.config.attribution.method == "none":
        return None
    scoring = scoring_of(setup, path, say)
    assert scoring is not None  # this is the only process
    return scoring.scores
