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
from circuitprune.engine.evaluation import each_run
from circuitprune.engine.references import References
from circuitprune.errors import NonFiniteError
from circuitprune.metrics import (
    CircuitEvaluation,
    Evidence,
    Metric,
    PerExample,
    exact_match,
    log10_kl,
)
from circuitprune.training.checkpoints import refuse_other, refuse_other_shapes
from circuitprune.training.density import DensitySchedule, Penalty, rate_factor
from circuitprune.training.gates import Edges as Gates
from circuitprune.training.gates import HardConcrete, Learner, TopK, corrupts

StepBatch = Batch | Sequence[Batch]
"""What a training step is given: a batch, or one of each of several tasks."""


class MaskTraining(LightningModule):
    """Trains a learner's gates on a frozen model under an objective and a sparsity pressure.

    The base model hangs on no attribute that Lightning or torch registers, so checkpoints, the
    optimiser and DDP see the gates and the multipliers alone. Under several processes each sees its
    share of a step's batch; draws, schedules and averages are the same in all, and gradients, what
    is logged and validation are of all examples.

    Args:
        learner: `TopK` or `HardConcrete`.
        references: The model, what cut edges carry, and the full model's logits.
        objective: Loss per example; lower is better.
        opposite: Loss per example where the kept edges are cut and the others kept: if given, a
            coin decides at each step which of the two is trained, which makes circuits both
            sufficient and necessary (the joint mode of MAttr, arXiv 2609.25518, on edges).
        task_metric: For validation.
        sizes: Fractions of all edges at which validation verifies hard circuits.
        selection: How circuits are cut from the learner's ranking.
        steps: Length of the run, for the learning-rate schedule.
        lr: Peak learning rate of the gates.
        lr_warmup: Steps of linear warm-up.
        lr_end: Final learning rate as a fraction of `lr`; the decay is linear.
        average: Share of the steps, the last ones, over which a learner with room for it averages.
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
        opposite: Metric | None = None,
        selection: Method = "top_n",
        steps: int = 1000,
        lr: float = 0.05,
        lr_warmup: int = 0,
        lr_end: float = 0.1,
        average: float = 0.0,
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
        self.opposite, self.average = opposite, average
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

    def training_step(self, batch: StepBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The objective on one batch under this step's gates, plus the price of density."""
        seed, step = self.noise_seed, self.global_step
        if isinstance(self.learner, TopK) and self.learner.averages:
            self.learner.remember(step >= (1 - self.average) * self.steps)
        gates = self.learner.sample(seed, step)
        opposite = self.opposite is not None and corrupts(seed, step)
        name = "opposite" if opposite else "objective"
        task_loss = self._loss(gates, batch, opposite)
        loss = task_loss + self._price()
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                f"the loss became {loss.item()} at step {self.global_step} on examples "
                f"{self._examples(batch)}; lower train.lr or use model.dtype=float32"
            )
        of_all, of_task = self._over_ranks(torch.stack([loss.detach(), task_loss.detach()]))
        self.log("loss", of_all, prog_bar=True, logger=False)
        self.log("edges", gates.detach().sum(), prog_bar=True, logger=False)
        self.log_dict({"train/loss": of_all, f"train/{name}": of_task})
        self.log("train/density", gates.detach().mean())
        return loss

    def _loss(self, gates: Gates, batch: StepBatch, opposite: bool) -> Float[Tensor, ""]:
        """The objective under gates, or the opposite one where these edges are cut."""
        assert isinstance(batch, Batch)
        objective = self.opposite if opposite and self.opposite else self.objective
        return self._told(self.references, objective, gates, batch, opposite).mean()

    def _told(
        self, references: References, objective: Metric, gates: Gates, batch: Batch, opposite: bool
    ) -> PerExample:
        """The loss of each example; the schedule of budgets hears how they do, where it asks."""
        logits, learner = references.run(batch)(1 - gates if opposite else gates), self.learner
        if opposite or not isinstance(learner, TopK):
            return objective(logits, batch)
        if learner.asks(self.noise_seed, self.global_step):
            agree = exact_match(references.full_logits(batch), logits.detach())
            learner.budgets.agreed(self._over_ranks(agree.mean()).item())
        return objective(logits, batch)

    def _over_ranks(self, values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The mean over processes of what each has of its equal share of the batch."""
        if self.trainer.world_size == 1:
            return values
        mean: Tensor = self.trainer.strategy.reduce(values.clone(), reduce_op="mean")
        return mean

    def _examples(self, batch: StepBatch) -> object:
        """What an error calls a batch."""
        assert isinstance(batch, Batch)
        return batch.index.tolist()

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
        return rate_factor(step, self.steps, self.lr_warmup, self.lr_end)

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
        refuse_other(checkpoint, self.job, self.steps)
        self._take_rate(checkpoint)
        refuse_other_shapes(checkpoint["state_dict"], self.state_dict())

    # ---------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Cut a hard circuit of each size from the present ranking."""
        self._masks = self.cut()
        self._evaluations = {name: self._evaluation() for name in self._masks}

    def _evaluation(self) -> CircuitEvaluation:
        return CircuitEvaluation(self.task_metric, shared=self.trainer.world_size > 1)

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
        """Run each circuit on one batch, as the verifier does; each process on every so manyth."""
        if batch_idx % self.trainer.world_size != self.global_rank:
            return
        for name, circuit, run in each_run(self.references.runs([batch]), self._masks):
            self._evaluations[name].update(circuit, run.full, run.batch)

    def on_validation_epoch_end(self) -> None:
        """Log KL of each size and, where it is defined, faithfulness; keep the frontier."""
        (full, empty), curve = self._reference_ends(), []
        for name, evaluation in self._evaluations.items():
            evidence = evaluation.evidence().compared(full, empty)
            self.log(f"by_size/KL_log10/{name}", log10_kl(evidence.kl))
            if evidence.faithfulness is not None:
                self.log(f"by_size/faithfulness/{name}", evidence.faithfulness)
            curve.append((int(self._masks[name].sum()), evidence.kl))
            if name == self.shown_size:
                self.log("val_kl", evidence.kl, prog_bar=True, logger=False)
        self.curves.append(curve)

    def _reference_ends(self) -> tuple[Evidence, Evidence]:
        """The full model and the empty circuit on the validation pairs; the same at every epoch."""
        if self._ends is None:
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            mine = datamodule.batches("val")[self.global_rank :: self.trainer.world_size]
            full, empty = self._evaluation(), self._evaluation()
            no_edges = {"": self.references.gated.graph.no_edges()}
            for _, circuit, run in each_run(self.references.runs(mine), no_edges):
                full.update(run.full, run.full, run.batch)
                empty.update(circuit, run.full, run.batch)
            self._ends = full.evidence(), empty.evidence()
        return self._ends
