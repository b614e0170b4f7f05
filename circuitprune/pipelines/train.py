"""The pipeline: a config becomes objects, the objects run in order, the results are written."""

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError
from circuitprune.files.text import counted, show
from circuitprune.files.whole import write_tensors
from circuitprune.pipelines.describe import check_text, describe, memory_text, pairs_text
from circuitprune.pipelines.frontier import cut, finish, telling, with_target
from circuitprune.pipelines.in_step import in_step
from circuitprune.pipelines.learning import Start, make_module, make_trainer, train
from circuitprune.pipelines.logs import log_final, logging_to, make_logger
from circuitprune.pipelines.refining import help_refining, refined_frontier
from circuitprune.pipelines.scoring import Scoring, scoring_of
from circuitprune.pipelines.setup import Print, Setup, reference_edges, silent
from circuitprune.pipelines.study import Study
from circuitprune.runs import launched
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
from circuitprune.runs.settings import to_yaml, whole
from circuitprune.runs.shards import Ranks, processes
from circuitprune.training.budgets import check_budgets
from circuitprune.training.checkpoints import check_progress
from circuitprune.training.module import MaskTraining
from circuitprune.views.pages.summary import summary


def discover(config: RunConfig, say: Print = show, command: str = "") -> Frontier | None:
    """Run the whole pipeline and leave its results in `config.output_dir`.

    Attribution initialises the gates, training orders the edges, exact patching verifies circuits
    on held-out pairs. See docs/file_formats.md for the files. Under torchrun each process has its
    share of every step's batch; the first of them alone prints and writes.

    Returns:
        None on a process that does not lead.

    Raises:
        CircuitPruneError: anything a user can mend; nothing existing is overwritten.
    """
    with in_step(config, say) as (config, say):
        ranks = processes()
        if not ranks.leads:
            say, config = silent, replace(config, train=replace(config.train, progress=False))
        with ranks.together():
            found = _discover(config, ranks, say, command)
    return None if say is silent else found


def _discover(config: RunConfig, ranks: Ranks, say: Print, command: str) -> Frontier | None:
    """`discover` in one of the processes."""
    folder = Path(config.output_dir)
    if config.train.resume == AUTO and (folder / "COMPLETE").exists():
        say(f"{folder} is finished already")  # a scheduler may ask once more
        return read_results(folder)[0] if ranks.leads else None
    setup, trainer, logger = _prepare(config)
    ranks.wait()  # all have seen the folder as it was
    say(describe(setup))
    mine = locked(folder) if ranks.leads else nullcontext()
    with mine, logging_to(folder), setup.forecast_told():
        if ranks.leads:
            create(folder, to_yaml(config), setup.identity.versions)
            tidy(folder)
        initial = initial_scores(setup, folder / "scores.safetensors", say, ranks)
        module = train(setup, initial, trainer, logger, say)
        if not ranks.leads:
            help_refining(setup, ranks)
            return None
        return _finish(setup, initial, module, logger, say, command, ranks)


def _finish(
    setup: Setup,
    initial: Start,
    module: MaskTraining,
    logger: TensorBoardLogger,
    say: Print,
    command: str,
    ranks: Ranks,
) -> Frontier:
    """Verify, write and log what was learned; `COMPLETE` last."""
    config, folder = setup.config, Path(setup.config.output_dir)
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
    say(f"Verifying circuits exactly on {counted(len(setup.data.splits[split]), f'{split} pair')}")
    command = command or "circuitprune train config.yaml"
    masks, target = with_target(setup, final, cut(setup, final))
    found = refined_frontier(setup, masks, final, say, ranks)
    frontier, final = telling(found.frontier, target), found.ranking
    told = initial if initial is None or initial.dim() == 1 else initial[0]
    write_results(folder, frontier, told, final, summary(frontier, command, found.notes))
    write_command(folder, command)
    log_final(logger, config, frontier, final)
    finish(setup, folder, frontier)
    return frontier


def dry_run(config: RunConfig) -> str:
    """Everything that can be said before training: the model, the pairs, accuracy and memory."""
    setup, _, _ = _prepare(whole(config), fill=False)
    return "\n".join(
        [describe(setup), "", pairs_text(setup, 3), "", memory_text(setup), check_text()]
    )


def _prepare(config: RunConfig, fill: bool = True) -> tuple[Setup, Trainer, TensorBoardLogger]:
    """Everything that can be refused, made and checked; nothing is written."""
    config = claimed(config)
    folder, resume = Path(config.output_dir), config.train.resume
    checkpoint = None if resume is None else read_checkpoint(Path(resume))
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


def claimed(config: RunConfig) -> RunConfig:
    """The config once its folder may be used; `train.resume` is a checkpoint or None.

    Raises:
        ConfigError: more processes than batches can be shared by.
        RunError: a folder that holds something else.
    """
    folder = Path(config.output_dir)
    if config.train.batch_size % launched.world():
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be shared evenly by "
            f"{counted(launched.world(), 'process', 'processes')}; take a multiple, or another "
            "--nproc-per-node"
        )
    try:
        claim(folder, config.train.resume)
    except OSError as error:
        raise unusable(folder, error) from None
    resume = last_checkpoint(folder, config.train.resume)
    return replace(config, train=replace(config.train, resume=resume))


# ---------------------------------------------------------------- steps


def initial_scores(setup: Setup, path: Path, say: Print, ranks: Ranks) -> Start:
    """Attribution scores that start the gates; read back when a run is resumed.

    Every process has them when the first has written them.

    A row for each method where `gates.starts` names more than one, the first of them in `path` and
    the others beside it, as `scores_2.safetensors` and so on.
    """
    first, starts = setup.config.attribution.method, setup.config.gates.starts
    if first == "none":
        return None
    found = [_scores_by(setup, first, path, say, ranks)]
    for number, method in enumerate(starts, 2):
        beside = path.with_name(f"{path.stem}_{number}{path.suffix}")
        found.append(_scores_by(setup, method, beside, say, ranks))
    return torch.stack(found) if starts else found[0]


def _scores_by(
    setup: Setup, method: str, path: Path, say: Print, ranks: Ranks
) -> Float[Tensor, " edge"]:
    """Scores of one method with the other settings of `attribution`."""
    about = replace(setup.config.attribution, method=method)
    setup = replace(setup, config=replace(setup.config, attribution=about))
    scoring = scoring_of(setup, path, say, ranks)
    ranks.wait()
    return (scoring or Scoring.load(path, setup)).scores
