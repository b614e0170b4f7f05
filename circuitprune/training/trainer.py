"""Options of Lightning's Trainer: the few that are taken, what to set in place of the others."""

from dataclasses import dataclass
from typing import Literal

from circuitprune.data.checks import COUNT, POSITIVE, misfits, refuse

_STEPS = "train.steps says how long training is"
_SIDES = (
    "task.n_train and task.n_val say how many pairs there are, train.val_every when to validate"
)
_OPTIONS = {
    _STEPS: "max_steps min_steps max_epochs min_epochs limit_train_batches",
    f"{_STEPS}; to stop at a time, send SIGTERM and go on later with train.resume": "max_time",
    "train.steps=5 is a short run, and --dry-run tells what a run would be": "fast_dev_run",
    "train.batch_size says how many pairs a step sees": "accumulate_grad_batches",
    "torchrun says how many processes there are, train.device what each runs on": (
        "accelerator strategy devices num_nodes sync_batchnorm use_distributed_sampler plugins"
    ),
    _SIDES: (
        "limit_val_batches limit_test_batches limit_predict_batches overfit_batches "
        "val_check_interval check_val_every_n_epoch num_sanity_val_steps "
        "reload_dataloaders_every_n_epochs"
    ),
    "model.dtype says in what the model computes; gates stay in float32": "precision",
    "output_dir says where everything goes": "default_root_dir logger model_registry",
    "train.checkpoint_every says when checkpoints are written": "enable_checkpointing",
    "train.progress says whether there is a bar": "enable_progress_bar enable_model_summary",
    "it is no setting of a run": (
        "barebones benchmark callbacks inference_mode enable_autolog_hparams"
    ),
}
INSTEAD = {
    f"train.trainer.{option}": sentence
    for sentence, options in _OPTIONS.items()
    for option in options.split()
}
"""By the key of an option of Lightning's Trainer that is not taken, what to set in its place."""


@dataclass(frozen=True)
class TrainerConfig:
    """Options of Lightning's Trainer that change how training is watched or its gradient clipped.

    No other is taken: it would change what a run is behind the back of its settings. `INSTEAD` says
    what to set.
    """

    gradient_clip_val: float | None = None
    """Largest gradient, by `gradient_clip_algorithm`; null does not clip."""
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    """What `gradient_clip_val` bounds: the norm of the gradient, or each of its numbers."""
    log_every_n_steps: int = 10
    """Steps between points of the curves in TensorBoard."""
    detect_anomaly: bool = False
    """Stop at the operation that makes a gradient NaN; slow."""
    deterministic: bool = False
    """Use deterministic kernels on a GPU, where torch has them, and refuse where not."""
    profiler: Literal["simple", "advanced"] | None = None
    """Print where training spent its time."""

    def __post_init__(self) -> None:
        ranges = {"gradient_clip_val": POSITIVE, "log_every_n_steps": COUNT}
        refuse(misfits(self, "train.trainer.", **ranges))
