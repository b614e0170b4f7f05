"""Mask learning as a LightningModule: the only file that knows Lightning's hooks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from circuitprune.circuits.selection import Method, select_sizes
from circuitprune.data.pairs import Batch
from circuitprune.engine.evaluation import each_run, evaluate, evaluate_full
from circuitprune.engine.references import References
from circuitprune.errors import NonFiniteError, RunError
from circuitprune.metrics import CircuitEvaluation, Evidence, Metric
from circuitprune.training.density import DensitySchedule, Penalty
from circuitprune.training.gates import HardConcrete, Learner


class MaskTraining(LightningModule):
    """Trains a learner's gates on a frozen model under an objective and a sparsity pressure.

    The base model hangs on no attribute that Lightning or torch registers, so checkpoints, the
    optimiser and DDP see the gates and the multipliers alone.

    Args:
        learner: `TopK` or `HardConcrete`.
        references: The model, what cut edges carry, and the full model's logits.
        objective: Loss per example; lower is better.
        task_metric: For validation.
        sizes: Fractions of all edges at which validation verifies hard circuits.
        selection: How circuits are cut from the learner's ranking.
        steps: Length of the run, for the learning-rate schedule.
        lr: Peak learning rate of the gates.
        lr_warmup: Steps of linear warm-up.
        lr_end: Final learning rate as a fraction of `lr`; the decay is linear.
        seed: Of the learner's noise.
        penalty: Price of density; only for learners that need one.
        penalty_lr: Learning rate of the multipliers.
        schedule: Target density; required with a penalty.
        job: Everything else that decides the gates, by name: a checkpoint of another is refused.
        reference: A known circuit; TensorBoard shows how well the ranking finds it.

    Raises:
        RunError: a checkpoint that belongs to another model or learner.
    """

    def __init__(
        self,
        learner: Learner,
        references: References,
        objective: Metric,
        task_metric: Metric,
        sizes: Sequence[float],
        *,
        selection: Method = "top_n",
        steps: int = 1000,
        lr: float = 0.05,
        lr_warmup: int = 0,
        lr_end: float = 0.1,
        seed: int = 0,
        penalty: Penalty | None = None,
        penalty_lr: float = 0.05,
        schedule: DensitySchedule | None = None,
        job: Mapping[str, object] | None = None,
        reference: Bool[Tensor, " edge"] | None = None,
    ) -> None:
        super().__init__()
        self.learner, self.penalty = learner, penalty
        self.references, self.objective, self.task_metric = references, objective, task_metric
        self.sizes = tuple(sizes)
        self.selection: Method = selection
        self.steps, self.lr, self.lr_warmup, self.lr_end = steps, lr, lr_warmup, lr_end
        self.noise_seed, self.penalty_lr, self.schedule = seed, penalty_lr, schedule
        self.job, self.reference = dict(job or {}), reference
        self._masks: dict[str, Bool[Tensor, " edge"]] = {}
        self._evaluations: dict[str, CircuitEvaluation] = {}
        self._ends: tuple[Evidence, Evidence] | None = None
        self.curves: list[list[tuple[int, float]]] = []
        """Number of edges and KL of each size, at each validation so far."""

    # ---------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The objective on one batch under this step's gates, plus the price of density."""
        gates = self.learner.sample(self.noise_seed, self.global_step)
        task_loss = self.objective(self.references.run(batch)(gates), batch).mean()
        loss = task_loss + self._price()
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                f"the loss became {loss.item()} at step {self.global_step} on examples "
                f"{batch.index.tolist()}; lower train.lr or use model.dtype=float32"
            )
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        self.log("edges", gates.detach().sum(), prog_bar=True, logger=False)
        self.log_dict({"train/loss": loss.detach(), "train/objective": task_loss.detach()})
        self.log("train/density", gates.detach().mean())
        return loss

    def _price(self) -> Float[Tensor, ""] | float:
        if self.penalty is None or self.schedule is None:
            return 0.0
        assert isinstance(self.learner, HardConcrete)
        target, density = self.schedule(self.global_step), self.learner.expected_density()
        price: Tensor = self.penalty(density, target)
        self.log_dict(
            {
                "train/penalty": price.detach(),
                "train/expected_density": density.detach(),
                "train/target_density": target,
            }
        )
        for i, value in enumerate(getattr(self.penalty, "multipliers", ())):
            self.log(f"train/multiplier_{i + 1}", value.detach())
        return price

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a gradient that would poison the gates, and log this step's learning rate."""
        self.log("train/lr", optimizer.param_groups[0]["lr"])
        for name, parameter in self.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise NonFiniteError(
                    f"the gradient of {name} is not finite at step {self.global_step}; lower "
                    "train.lr or use model.dtype=float32"
                )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam on the gates; on the multipliers too, ascending. No weight decay: it opens gates."""
        groups: list[dict[str, object]] = [
            {"params": list(self.learner.parameters()), "lr": self.lr}
        ]
        multipliers = list(self.penalty.parameters()) if self.penalty is not None else []
        if multipliers:
            groups.append({"params": multipliers, "lr": self.penalty_lr, "maximize": True})
        optimizer = torch.optim.Adam(groups)
        # a lambda, since checkpoints would hold the attributes of any other kind of callable
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: self._lr_factor(s))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        if step < self.lr_warmup:
            return (step + 1) / (self.lr_warmup + 1)
        progress = (step - self.lr_warmup) / max(1, self.steps - self.lr_warmup)
        return 1 - (1 - self.lr_end) * min(progress, 1.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what decides the gates, and what a resumed run may change."""
        checkpoint["job"], checkpoint["lr"] = self.job, self.lr

    def _take_rate(self, checkpoint: dict[str, Any]) -> None:
        """Let this run's learning rate stand in the place of the checkpoint's."""
        if checkpoint["lr"] == self.lr:
            return
        for optimizer, schedule in zip(
            checkpoint["optimizer_states"], checkpoint["lr_schedulers"], strict=True
        ):
            optimizer["param_groups"][0]["initial_lr"] = schedule["base_lrs"][0] = self.lr
            factor = self._lr_factor(checkpoint["global_step"])
            optimizer["param_groups"][0]["lr"] = self.lr * factor

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse gates of another job, or of a learner of another kind or size.

        The learning rate and more steps may change: both take effect from here on.
        """
        theirs, ours = checkpoint["job"], self.job
        differ = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        if differ:
            told = (f"{key} {theirs.get(key)!r}, here {ours.get(key)!r}" for key in differ)
            raise RunError(
                f"the checkpoint is of another run: {'; '.join(told)}. Go on with its own settings "
                "or start anew without train.resume"
            )
        if checkpoint["global_step"] > self.steps:
            raise RunError(
                f"the checkpoint is of step {checkpoint['global_step']}, beyond train.steps="
                f"{self.steps}; raise train.steps"
            )
        self._take_rate(checkpoint)
        shapes = {name: tuple(t.shape) for name, t in checkpoint["state_dict"].items()}
        wanted = {name: tuple(t.shape) for name, t in self.state_dict().items()}
        if shapes != wanted:
            raise RunError(f"the checkpoint holds {shapes}, this config's learner needs {wanted}")

    # ---------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Cut a hard circuit of each size from the present ranking."""
        self._masks = self.cut()
        self._evaluations = {name: CircuitEvaluation(self.task_metric) for name in self._masks}

    def cut(self) -> dict[str, Bool[Tensor, " edge"]]:
        """A hard circuit of each size from the present ranking."""
        graph, ranking = self.references.gated.graph, self.learner.ranking().cpu()
        masks = select_sizes(graph, ranking, self.sizes, self.selection)
        return {f"{size:g}": mask for size, mask in masks.items()}

    @property
    def shown_size(self) -> str:
        """The size nearest to 5 %: dense enough to be faithful, sparse enough to be a circuit."""
        return f"{min(self.sizes, key=lambda size: abs(size - 0.05)):g}"

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Run each circuit on one batch, as the verifier does."""
        for name, circuit, run in each_run(self.references.runs([batch]), self._masks):
            self._evaluations[name].update(circuit, run.full, run.batch)

    def on_validation_epoch_end(self) -> None:
        """Log KL of each size and, where it is defined, faithfulness; keep the frontier."""
        (full, empty), curve = self._reference_ends(), []
        for name, evaluation in self._evaluations.items():
            evidence = evaluation.evidence().compared(full, empty)
            self.log(f"val_kl/{name}", evidence.kl)
            if evidence.faithfulness is not None:
                self.log(f"val_faithfulness/{name}", evidence.faithfulness)
            curve.append((int(self._masks[name].sum()), evidence.kl))
            if name == self.shown_size:
                self.log("val_kl", evidence.kl, prog_bar=True, logger=False)
        self.curves.append(curve)

    def _reference_ends(self) -> tuple[Evidence, Evidence]:
        """The full model and the empty circuit on the validation pairs; the same at every epoch."""
        if self._ends is None:
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            batches = datamodule.batches("val")
            empty = self.references.gated.graph.no_edges()
            self._ends = (
                evaluate_full(self.references, batches, self.task_metric),
                evaluate(self.references, {"": empty}, batches, self.task_metric)[""],
            )
        return self._ends
