"""Drawing while gates learn: gates and frontier at validations, circuits at checkpoints."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from circuitprune.circuits.selection import select_sizes
from circuitprune.training.module import MaskTraining
from circuitprune.views.tensorboard import board


class Pictures(Callback):
    """Draws a `MaskTraining` into its TensorBoard; changes no gate and no checkpoint."""

    def __init__(self) -> None:
        self.drawn_at: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw again what a resumed run starts from: it is hidden with what was logged after it."""
        if trainer.global_step > 0:
            self.on_train_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the gates and the frontiers of this validation and the ones before."""
        writer = self._writer(trainer)
        if writer is not None and isinstance(pl_module, MaskTraining):
            self._draw_gates(writer, pl_module)
            step, title = pl_module.global_step, f"step {pl_module.global_step}"
            board.write_frontier(writer, "validation", pl_module.curves, title, step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Draw the circuit of a readable size."""
        writer = self._writer(trainer)
        if writer is not None and isinstance(pl_module, MaskTraining):
            self._draw_circuit(writer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the final gates too: without validation pairs nothing else would."""
        writer = self._writer(trainer)
        if writer is not None and isinstance(pl_module, MaskTraining):
            self._draw_gates(writer, pl_module)
            self._draw_circuit(writer, pl_module)

    def _writer(self, trainer: Trainer) -> SummaryWriter | None:
        logger = trainer.logger
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            found: SummaryWriter = logger.experiment
            return found
        return None

    def _first_at(self, step: int, what: str) -> bool:
        """Whether this is not yet drawn at this step, as a run's last step would be twice."""
        before, self.drawn_at[what] = self.drawn_at.get(what), step
        return before != step

    def _draw_gates(self, writer: SummaryWriter, module: MaskTraining) -> None:
        """The gates, the density of a circuit's layers and, if there is one, the reference."""
        graph, step = module.references.gated.graph, module.global_step
        if not self._first_at(step, "gates"):
            return
        size, learner = module.shown_size, module.learner
        board.write_density(writer, f"kept_at_{size}", graph, module.cut()[size], step)
        board.write_gates(writer, graph, learner.probabilities().cpu(), step)
        if module.reference is not None:
            board.write_recovery(writer, learner.ranking(), module.reference, step)

    def _draw_circuit(self, writer: SummaryWriter, module: MaskTraining) -> None:
        """The circuit of a readable size."""
        graph, step = module.references.gated.graph, module.global_step
        if not self._first_at(step, "circuit"):
            return
        size, ranking = board.readable_size(graph, module.sizes), module.learner.ranking().cpu()
        (mask,) = select_sizes(graph, ranking, [size], module.selection).values()
        board.write_circuit(writer, f"kept_at_{size:g}", graph, mask, ranking, step)
