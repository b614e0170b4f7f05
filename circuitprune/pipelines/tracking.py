"""Entity tracking in a model, and in the one that it was tuned from: groups, evidence, exchange."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from circuitprune.data.checks import (
    FEW,
    MANY,
    MANY_OR_0,
    NOT_NEGATIVE,
    SEED,
    SHARE,
    broken,
    misfits,
    refuse,
)
from circuitprune.data.tasks.boxes import Boxes
from circuitprune.engine.progress import Watch
from circuitprune.evidence.tracking import EntityTracking, head_groups, patched_rows, shared
from circuitprune.evidence.tracking_subject import Budget, Subject, subject
from circuitprune.files.text import show
from circuitprune.files.whole import write_atomic, write_json
from circuitprune.models.ports import Ports
from circuitprune.patching.across_heads import check_alike
from circuitprune.patching.head_groups import MEASURES
from circuitprune.pipelines.given import frozen_model
from circuitprune.pipelines.setup import Loaded, Print
from circuitprune.runs.folder import claim
from circuitprune.runs.lock import locked, unusable
from circuitprune.runs.settings import read_settings, to_yaml
from circuitprune.views.pages.tracking import tracking_page
from circuitprune.views.progress import shown


@dataclass(frozen=True)
class TrackingConfig(Budget):
    """How entity tracking is looked at, and in which models."""

    n_boxes: int = 3
    """Boxes of a prompt; the paper has 7."""
    seed: int = 0
    """Of pairs and of everything drawn."""
    dtype: str = "float32"
    """Type of weights and activations: float32 or float64."""
    device: str = "auto"
    """Where the models run; `auto` is CUDA where there is one."""
    progress: bool = True
    """Show how far work is: a bar on a terminal, else a line every 30 s."""

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("n_paths", "n_measured", "most"), MANY)
        refuse(
            misfits(
                self,
                "",
                n_masks=MANY,
                n_random=MANY_OR_0,
                n_boxes=FEW,
                least=SHARE,
                minimality=NOT_NEGATIVE,
                seed=SEED,
                **ranges,
            )
            or broken(
                (self.n_boxes >= 3, f"n_boxes must be at least 3, got {self.n_boxes}"),
                (self.n_masks > 1, f"n_masks must be at least 2, got {self.n_masks}"),
                (
                    self.metric in MEASURES,
                    f"metric={self.metric}: one of {', '.join(MEASURES)}",
                ),
                (self.dtype in ("float32", "float64"), f"dtype={self.dtype}: float32 or float64"),
                (self.device in ("auto", "cpu", "cuda"), f"device={self.device}: auto, cpu, cuda"),
            )
        )


def read_tracking(overrides: Sequence[str]) -> TrackingConfig:
    """The settings among `key=value`, checked.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range.
    """
    return read_settings(TrackingConfig, None, overrides)


def entity_tracking(
    model: str | Loaded, base: str | Loaded | None = None, config: TrackingConfig | None = None
) -> EntityTracking:
    """The four head groups of a model with their evidence; of its base too, and what they share.

    Args:
        model: What does the task: a name, a folder, a hub id, or a model with its tokenizer.
        base: The one that it was tuned from; None looks at the first alone.
        config: How much.

    Raises:
        ModelError, DataError: a model that cannot be used, or a tokenizer without the words.
        GraphError: models of two sizes, between which nothing can be exchanged.
    """
    config = config or TrackingConfig()
    with shown(config.progress) as watch, ExitStack() as held:
        tuned = _subject(model, config, watch, held)
        other = None if base is None else _subject(base, config, watch, held)
        if other is not None:
            check_alike(other.ports, tuned.ports)
        return _tracked(tuned, other, config, watch)


def _tracked(
    tuned: Subject, base: Subject | None, config: TrackingConfig, watch: Watch
) -> EntityTracking:
    first, groups = head_groups(tuned, config, config.seed, watch)
    if base is None:
        return EntityTracking(first, None, (), ())
    second, _ = head_groups(base, config, config.seed, watch)
    patched = (*patched_rows(base, tuned, groups), *patched_rows(tuned, base, groups))
    return EntityTracking(first, second, shared(first, second), patched)


def _subject(of: str | Loaded, config: TrackingConfig, watch: Watch, held: ExitStack) -> Subject:
    """A model with its pairs, where it shall run, frozen until `held` lets go."""
    frozen = frozen_model(of, config.dtype, config.device, watch)
    name, model, tokenizer = held.enter_context(frozen)
    task = Boxes(n_boxes=config.n_boxes)
    return subject(name, Ports(model), tokenizer, config, config.seed, task)


def track(
    model: str, base: str | None, config: TrackingConfig, folder: Path, say: Print = show
) -> EntityTracking:
    """`entity_tracking`, left in a folder as `tracking.json` and `tracking.md`.

    Raises:
        RunError: the folder cannot be used, or holds something.
        CircuitPruneError: as `entity_tracking`.
    """
    try:
        claim(folder, None)
    except OSError as error:
        raise unusable(folder, error) from None
    found = entity_tracking(model, base, config)
    with locked(folder):
        claim(folder, None)  # again: it took long
        write_json(folder / "tracking.json", asdict(found), checked=True)
        write_atomic(folder / "config.yaml", to_yaml(config))
        write_atomic(folder / "tracking.md", tracking_page(found))
    say(tracking_page(found))
    return found
