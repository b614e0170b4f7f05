"""What TensorBoard holds of a run beside its curves."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import Float
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from circuitprune.config import RunConfig
from circuitprune.errors import RunError
from circuitprune.pipelines.describe import pairs_text
from circuitprune.pipelines.setup import Setup
from circuitprune.runs import launched
from circuitprune.runs.frontier import Frontier
from circuitprune.runs.settings import changed, to_yaml
from circuitprune.views.tensorboard import board


class RunLogger(TensorBoardLogger):
    """Lightning's logger without its curve of the epoch: training knows steps alone."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the numbers of one step."""
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)


def make_logger(folder: Path, start: int | None = None) -> RunLogger:
    """TensorBoard events in the run's own folder.

    Args:
        folder: The run's.
        start: The step that a resumed run goes on from: what was logged of it and later ones is
            hidden.
    """
    if launched.world() == 1:  # Lightning takes this process for one of torchrun's that share a run
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    about: dict[str, Any] = {} if start is None else {"purge_step": start}
    return RunLogger(folder, name="", version="", default_hp_metric=False, **about)


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """While it lasts, what keeps events from the disk is one sentence that says where.

    A thread writes them, and what it raises comes up again where the next event is logged.

    Raises:
        RunError: the disk is full, or the folder is gone or may not be written.
    """
    before = threading.excepthook

    def unless_told(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            before(args)

    threading.excepthook = unless_told
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.strerror is None:
            raise
        raise RunError(
            f"{folder} was not written to ({error.strerror}); "
            "check free space and permissions of the folder"
        ) from error
    finally:
        threading.excepthook = before


def log_texts(logger: TensorBoardLogger, setup: Setup, trains: bool = True) -> None:
    """The config and three decoded pairs, for the TEXT tab, and how charts are arranged."""
    logger.experiment.add_text("config", f"```yaml\n{to_yaml(setup.config)}\n```")
    logger.experiment.add_text("pairs", pairs_text(setup, 3))
    board.write_arrangement(logger.experiment, trains, setup.config.verify.reference is not None)


def log_final(
    logger: TensorBoardLogger, config: RunConfig, frontier: Frontier, final: Float[Tensor, " edge"]
) -> None:
    """The frontier over the number of edges, and the chosen circuit, drawn and for HPARAMS."""
    chosen = frontier.chosen()
    n_edges, split = int(chosen.mask.sum()), str(frontier.provenance["split"])
    best_last = sorted(frontier.points, key=lambda p: (int(p.mask.sum()), -p.evidence.kl))
    points = {int(p.mask.sum()): p.evidence.to_json() for p in best_last}  # one for each size
    board.write_verified(logger.experiment, points, f"{split} pairs", n_edges)
    board.write_circuit(logger.experiment, "chosen", frontier.graph, chosen.mask, final, n_edges)
    numbers = {**chosen.evidence.to_json(), "n_edges": float(n_edges)}
    logger.log_hyperparams(changed(config), {f"final/{k}": v for k, v in numbers.items()})
    logger.finalize("success")
