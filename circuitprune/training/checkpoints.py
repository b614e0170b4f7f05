"""The checkpoint that a run goes on from: one file, whole, in its place."""

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

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


def check_progress(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that does not say, as this Lightning does, how far training is.

    Raises:
        RunError: its counts are of another version, or damaged.
    """
    if _names(checkpoint["loops"].get("fit_loop")) != _names(trainer.fit_loop.state_dict()):
        raise RunError(
            "the checkpoint's record of progress is damaged or of another version of lightning; "
            "go on with the version in the run's versions.json, or start anew"
        )


def refuse_other(checkpoint: Mapping[str, Any], job: Mapping[str, object], steps: int) -> None:
    """Nothing, for a checkpoint of the same job and of no later step.

    Args:
        checkpoint: With a `job` and a `global_step`.
        job: Everything that decides what is learned, by name.
        steps: Length of the run that is to go on.

    Raises:
        RunError: names every setting that differs, with both values.
    """
    theirs = checkpoint["job"]
    differ = [key for key in sorted({*theirs, *job}) if theirs.get(key) != job.get(key)]
    if differ:
        told = (f"{key} {theirs.get(key)!r}, here {job.get(key)!r}" for key in differ)
        raise RunError(
            f"the checkpoint is of another run: {'; '.join(told)}. Go on with its own settings "
            "or start anew without train.resume"
        )
    if checkpoint["global_step"] > steps:
        raise RunError(
            f"the checkpoint is of step {checkpoint['global_step']}, beyond train.steps="
            f"{steps}; raise train.steps"
        )


def refuse_other_shapes(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Nothing, if the tensors of a checkpoint have the names and shapes of what goes on.

    Raises:
        RunError: says both.
    """
    shapes = {name: tuple(t.shape) for name, t in found.items()}
    wanted = {name: tuple(t.shape) for name, t in own.items()}
    if shapes != wanted:
        raise RunError(f"the checkpoint holds {shapes}, this config's learner needs {wanted}")


def _names(counts: object) -> object:
    """The tree without its numbers."""
    if isinstance(counts, Mapping):
        return {name: _names(inside) for name, inside in counts.items()}
    return isinstance(counts, int)


class Checkpoints(Callback):
    """Writes `last.ckpt` every so many steps, at the last one, and where the run is asked to stop.

    All are of the end of a step in the middle of the endless epoch, so that a finished run too can
    go on to more steps. Before a validation, which may take long and changes nothing, there is one
    too: the run can stop within.

    Args:
        folder: Where; made when the first is written.
        every: Steps between two.
        asked: Whether the run is to stop; looked at after each step and, in a validation, each time
            that every process has run a batch. All processes must get the same answer.

    Raises:
        KeyboardInterrupt: it is, and the checkpoint is written.
        NonFiniteError: a gate is NaN or infinite; the checkpoint before stays.
        RunError: it cannot be written; the checkpoint before stays.
    """

    def __init__(self, folder: Path, every: int, asked: Callable[[], bool]) -> None:
        self.folder, self.every, self.asked = folder, every, asked
        self.written = 0
        """Step of the last checkpoint."""
        self.stepping = False
        """Whether a step is changing the gates: what is there meanwhile is of no step."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """From here until the end of the step nothing can be written."""
        self.stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object
    ) -> None:
        """Write where it is time to; stop where that is asked."""
        step, self.stepping = trainer.global_step, False
        validates = step % (trainer.val_check_batch or math.inf) == 0
        stops = self.asked()
        if step % self.every == 0 or step >= trainer.max_steps or validates or stops:
            self.write(trainer, pl_module)
        if stops:
            raise KeyboardInterrupt

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop where that is asked."""
        if (batch_idx + 1) % trainer.world_size == 0 and self.asked():
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Lose no step to an error that is not the gates' own, or of what they are written to.

        Of several processes the others may not be there to write it with.
        """
        theirs = isinstance(exception, NonFiniteError | RunError | OSError)
        if self.stepping or theirs or trainer.world_size > 1:
            return
        if trainer.global_step > self.written:
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
        self.written = trainer.global_step
