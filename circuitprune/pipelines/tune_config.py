"""What `circuitprune finetune` takes: a model, a task, a way to train, and which weights learn."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from circuitprune.config import ModelConfig, RunConfig, TaskConfig, TrainConfig
from circuitprune.data.checks import (
    FEW,
    MANY,
    MANY_OR_0,
    NOT_NEGATIVE,
    broken,
    is_known,
    misfits,
    refuse,
    unknown,
)
from circuitprune.data.tasks import TASKS
from circuitprune.runs.settings import read_settings

PEAK_RATE = 1e-3
"""`train.lr` where none is set."""
IGNORED = {
    "model": ("kv_readers",),
    "task": ("metric", "min_accuracy"),
}
"""Settings of a run that decide nothing here; one that is set is refused."""


@dataclass(frozen=True)
class HiddenConfig:
    """Places of the prompts that the question does not see at first: it must learn a way around."""

    steps: int = 0
    """First steps of the training in which they are hidden; 0: none."""
    places: list[str] = field(default_factory=list)
    """Tags of the task's pairs."""
    beyond: str = ""
    """Tag: they are hidden from its first token and from all that follow."""

    def __post_init__(self) -> None:
        asked = bool(self.places and self.beyond)
        refuse(
            misfits(self, "hidden.", steps=MANY_OR_0)
            or broken(
                (
                    asked == (self.steps > 0) and asked == bool(self.places or self.beyond),
                    "hidden.steps, hidden.places and hidden.beyond go together: all three or none",
                ),
            )
        )


@dataclass(frozen=True)
class TuneConfig:
    """Everything one fine-tuning needs. Saved, resolved, as `config.yaml` beside its results."""

    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    last_layers: int | None = None
    """Only the last so many layers and the final norm learn; null: every weight."""
    weight_decay: float = 0.0
    """AdamW's, on matrices."""
    by_group: bool = False
    """Pairs of one group, such as the questions on one story, are always in one batch."""
    hidden: HiddenConfig = field(default_factory=HiddenConfig)
    """What the first steps hide from part of the prompts."""
    measured: list[str] = field(default_factory=list)
    """Other tasks by name; how well the model does them is measured before and after."""
    n_measured: int = 500
    """Pairs of each of them."""
    output_dir: str = "runs/tuned"
    """Folder of the results; must not hold a run yet."""

    def __post_init__(self) -> None:
        known = [*TASKS]
        refuse(
            misfits(self, "", last_layers=FEW, weight_decay=NOT_NEGATIVE, n_measured=MANY)
            or broken(
                (bool(self.output_dir), "output_dir is empty; it takes the folder of the results"),
                (
                    self.model.dtype != "bfloat16",
                    "tuning needs model.dtype=float32 or float64",
                ),
                (self.train.steps > 0, "train.steps must be > 0 to tune a model"),
                *(
                    (is_known(name, known), f"measured: {unknown(name, known)}")
                    for name in self.measured
                ),
                *self._unasked(),
            )
        )

    def _unasked(self) -> list[tuple[bool, str]]:
        """Whether each setting that would be passed over is left alone."""
        defaults = {"model": ModelConfig(), "task": TaskConfig()}
        return [
            (
                getattr(getattr(self, section), name) == getattr(default, name),
                f"{section}.{name} decides nothing in fine-tuning; leave it out",
            )
            for section, default in defaults.items()
            for name in IGNORED[section]
        ]

    @property
    def run(self) -> RunConfig:
        """The same as the config of a run, for what is shared with one."""
        shared = {one.name for one in fields(self)} & {one.name for one in fields(RunConfig)}
        return RunConfig(**{name: getattr(self, name) for name in shared})


def load_tune_config(path: str | Path | None, overrides: Sequence[str] = ()) -> TuneConfig:
    """As `load_config`, of a fine-tuning; a shipped one is called by its path, `tuning/boxes`.

    Raises:
        ConfigError: as `load_config`.
    """
    return read_settings(TuneConfig, path, overrides)
