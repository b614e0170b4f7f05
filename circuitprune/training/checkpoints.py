"""The checkpoint that a run goes on from: one file, whole, in its place."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from circuitprune.errors import NonFiniteError, RunError
from circuitprune.files.whole import write_atomic

LAST = "last.ckpt"


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint as every other file: beside its place, to the disk, then into its place.

    Lightning's own goes by way of the system's temporary folder, which may be full, or lie on
    another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Put the whole checkpoint in the place of the one before."""
        data = io.BytesIO()
        torch.save(checkpoint, data)
        write_atomic(path, data.getvalue())


class Checkpoints(Callback):
    """Writes `last.ckpt` every so many steps, at the last one, and where the run is asked to stop.

    All are of the middle of the endless epoch, so that a finished run too can go on to more steps.

    Args:
        folder: Where; made when the first is written.
        every: Steps between two.
        asked: Whether the run is to stop; looked at after each step.

    Raises:
        NonFiniteError: a gate is NaN or infinite; the checkpoint before stays.
        RunError: it cannot be written; the checkpoint before stays.
    """

    def __init__(self, folder: Path, every: int, asked: Callable[[], bool]) -> None:
        self.folder, self.every, self.asked = folder, every, asked

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object
    ) -> None:
        """Write where it is time to; stop where that is asked."""
        step = trainer.global_step
        if self.asked():
            trainer.should_stop = True
        if step % self.every == 0 or step >= trainer.max_steps or trainer.should_stop:
            self.write(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Lose no step to an error that is not the gates' own."""
        of_these = NonFiniteError, RunError, OSError  # the gates, or what they are written to
        if trainer.global_step > 0 and not isinstance(exception, of_these):
            self.write(trainer, pl_module)

    def write(self, trainer: Trainer, module: LightningModule) -> None:
        """Put this step's checkpoint in the place of the last one."""
        for name, parameter in module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise NonFiniteError(
                    f"{name} is not finite at step {trainer.global_step}; lower train.lr or use "
                    f"model.dtype=float32. {self.folder / LAST} is of the steps before"
                )
        trainer.save_checkpoint(self.folder / LAST)
