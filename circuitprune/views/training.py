"""Training as it goes: the step of all steps, the time left, and how the gates are doing."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from circuitprune.engine.progress import Progress, silent
from circuitprune.files.text import counted, nats
from circuitprune.views.progress import shown


class Steps(Callback):
    """Shows the steps of a training, in place of Lightning's bar of an endless epoch."""

    def __init__(self) -> None:
        self.open = ExitStack()
        self.progress: Progress = silent

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step at which training begins, or goes on."""
        watch = self.open.enter_context(shown(True))
        self.progress = watch("training", "steps", lambda: notes(trainer))
        self.progress(trainer.global_step, trainer.max_steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One more step is done."""
        self.progress(trainer.global_step, trainer.max_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last validation too, and leave the bar as it is."""
        self.progress(trainer.global_step, trainer.max_steps)
        self.open.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The same when training is cut short."""
        self.open.close()


def notes(trainer: Trainer) -> str:
    """`loss 0.52, 1,204 edges, KL 0.31`: of the last step, the KL of the last validation."""
    spelled: dict[str, Callable[[float], str]] = {
        "loss": lambda loss: f"loss {loss:.3g}",
        "edges": lambda edges: counted(round(edges), "edge"),
        "val_kl": lambda kl: f"KL {nats(kl)}",
        "val_accuracy": lambda right: f"{right:.1%} right",
    }
    found = trainer.progress_bar_metrics
    return ", ".join(say(float(found[name])) for name, say in spelled.items() if name in found)
