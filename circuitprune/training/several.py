"""Gates of several tasks learned in one run: one score for sharing an edge, one for each task."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.selection import n_edges_of
from circuitprune.circuits.sharing import Rows, cut_together, gates_of
from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import each_run
from circuitprune.engine.references import References
from circuitprune.metrics import CircuitEvaluation, Metric, log10_kl
from circuitprune.training.gates import TopK
from circuitprune.training.module import MaskTraining, StepBatch
from circuitprune.training.starts import normal_scores

Scores = Float[Tensor, " score"]
"""One number for each score: those of shared edges first, then each task's own."""


@dataclass(frozen=True)
class TaskPart:
    """What one task brings to training."""

    name: str
    references: References
    objective: Metric
    opposite: Metric | None
    task_metric: Metric


def start_of(importance: Float[Tensor, "task edge"], shared_cost: float) -> Rows:
    """Scores to start from: what an edge is worth for its price, shared or private, by rank.

    Each task's importance is taken as a share of its sum, so that none outweighs another. Sharing
    an edge is worth the sum over tasks.
    """
    own = importance / importance.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)
    worth = torch.cat([own.sum(dim=0, keepdim=True) / shared_cost, own])
    return normal_scores(worth.flatten()).view(worth.shape)


def costs_of(n_tasks: int, n_edges: int, shared_cost: float) -> Scores:
    """What each score takes from a budget: a private one 1, a shared one `shared_cost`."""
    costs = torch.ones(1 + n_tasks, n_edges)
    costs[0] = shared_cost
    return costs.flatten()


class SharedTraining(MaskTraining):
    """Trains shared and private gates of several tasks, each step on a batch of every task.

    The loss is the mean over tasks of each one's objective, under the gates of `gates_of`.

    Args:
        learner: Of `(1 + tasks) * edges` scores: the shared ones first.
        parts: The tasks, in the order of the scores.
        sizes, settings: As of `MaskTraining`; sizes count shared edges once.
    """

    def __init__(
        self, learner: TopK, parts: Sequence[TaskPart], sizes: Sequence[float], **settings: object
    ) -> None:
        first = parts[0]
        super().__init__(
            learner,
            first.references,
            first.objective,
            first.task_metric,
            sizes,
            opposite=first.opposite,
            **settings,  # type: ignore[arg-type]
        )
        self.parts = tuple(parts)
        self._masks_of: list[dict[str, Bool[Tensor, " edge"]]] = []
        self._found: list[dict[str, CircuitEvaluation]] = []

    def rows(self, values: Scores) -> Rows:
        """One number for each score as shared and private rows."""
        return values.view(1 + len(self.parts), -1)

    def _loss(self, gates: Scores, batch: StepBatch, opposite: bool) -> Float[Tensor, ""]:
        assert not isinstance(batch, Batch)
        rows, losses = self.rows(gates), []
        for place, (part, one) in enumerate(zip(self.parts, batch, strict=True)):
            objective = part.opposite if opposite and part.opposite else part.objective
            own = gates_of(rows, place)
            losses.append(self._told(part.references, objective, own, one, opposite).mean())
        return torch.stack(losses).mean()

    def _examples(self, batch: StepBatch) -> object:
        assert not isinstance(batch, Batch)
        named = zip(self.parts, batch, strict=True)
        return "; ".join(f"{part.name} {one.index.tolist()}" for part, one in named)

    # ---------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Cut circuits of each size in all from the present scores."""
        self._masks_of = [{} for _ in self.parts]
        graph, rows = self.references.gated.graph, self.rows(self.learner.ranking().cpu())
        for size in self.sizes:
            found = cut_together(graph, rows, n_edges_of(graph, size))
            for masks, mask in zip(self._masks_of, found.circuits, strict=True):
                masks[f"{size:g}"] = mask
        self._found = [
            {name: CircuitEvaluation(part.task_metric) for name in masks}
            for part, masks in zip(self.parts, self._masks_of, strict=True)
        ]

    def validation_step(  # type: ignore[override]
        self, batch: tuple[int, Batch], batch_idx: int
    ) -> None:
        """Run each circuit of a task on one of its batches, as the verifier does."""
        place, one = batch
        runs = self.parts[place].references.runs([one])
        for name, circuit, run in each_run(runs, self._masks_of[place]):
            self._found[place][name].update(circuit, run.full, run.batch)

    def on_validation_epoch_end(self) -> None:
        """Log the KL of each task at each size, and their mean at the size that is shown."""
        shown = []
        for part, found in zip(self.parts, self._found, strict=True):
            for name, evaluation in found.items():
                kl = evaluation.evidence().kl
                self.log(f"by_size/KL_log10/{part.name}/{name}", log10_kl(kl))
                shown += [kl] if name == self.shown_size else []
        self.log("val_kl", sum(shown) / len(shown), prog_bar=True, logger=False)
