"""What a run over several tasks found of them all: `together.json`."""

from dataclasses import dataclass
from pathlib import Path

from circuitprune.errors import RunError
from circuitprune.files.records import from_json
from circuitprune.files.whole import read_json
from circuitprune.runs.manifest import check_seal

FILE = "together.json"
SHARED = "shared"
"""Where a task's circuit file names those of its edges that all tasks share: in `provenance`."""


@dataclass(frozen=True)
class TaskShare:
    """The circuit of one task at one size."""

    name: str
    """The task's folder inside the run's."""
    n_edges: int
    """Edges of its circuit, shared ones included."""
    n_private: int
    """Those that are not shared."""
    file: str
    """Where the circuit lies, from the run's folder."""
    kl: float
    """On the task's held-out pairs, in nats."""
    accuracy: float
    """On the same, as a fraction."""
    faithfulness: float | None
    """On the same; None where it is undefined."""
    val_kl: float | None
    """On its validation pairs; None without any."""


@dataclass(frozen=True)
class TogetherRow:
    """A circuit of each task, made of shared and private edges."""

    size: float
    """Edges in all that were asked for, as a fraction of the model's; of the target, what it took.
    """
    n_edges: int
    """Edges in all: a shared one counts once, a private one once for each task that has it."""
    n_shared: int
    """Shared ones that are in some circuit."""
    n_union: int
    """Edges that are in any circuit, whoever has them."""
    file: str
    """Where the shared edges lie, as a circuit file."""
    tasks: tuple[TaskShare, ...]
    """Each task's part."""


@dataclass(frozen=True)
class TogetherFile:
    """`together.json`."""

    schema: int
    """Of this file: 1."""
    model: str
    """Name of the model."""
    ablation: str
    """What cut edges carry."""
    n_edges_total: int
    """Edges of the model."""
    shared_cost: float
    """What a shared edge took from training's budgets."""
    tasks: tuple[str, ...]
    """The tasks' folders."""
    chosen: int
    """Place among `rows` of the one that is looked at first: see `choice`."""
    choice: str
    """Why, in words."""
    rows: tuple[TogetherRow, ...]
    """From small to large."""
    target: str | None = None
    """`gates.target`, where it is set."""
    unit: str = "edge"
    """What one gate stands on: `edge`, `node` or `part`; each counts as an edge."""


@dataclass(frozen=True)
class TaskAgainstApart:
    """One task's circuit learned with others beside the one learned alone."""

    name: str
    """The task's folder inside the run's."""
    apart: str
    """The run of this task alone."""
    n_edges_apart: int
    """Edges of that run's circuit."""
    kl_apart: float
    """Of it on the held-out pairs, in nats."""
    n_edges: int
    """Edges of the circuit learned with others, shared ones included."""
    n_private: int
    """Those that are not shared."""
    kl: float
    """Of it on the same pairs."""


@dataclass(frozen=True)
class _Together:
    together: str
    """The run over several tasks."""


@dataclass(frozen=True)
class AgainstApart(_Together):
    """Circuits of several tasks learned together beside circuits learned apart, at equal KL."""

    target: str
    """What every circuit reaches on its validation pairs with the fewest edges found."""
    n_edges: int
    """Edges in all, together: a shared one counts once."""
    n_shared: int
    """Shared ones of them."""
    n_edges_apart: int
    """The sum over tasks of the circuits apart."""
    n_counted_apart: int
    """The same, an edge that every task has counted once."""
    n_union_apart: int
    """Different edges of these circuits."""
    tasks: tuple[TaskAgainstApart, ...]
    """Task by task."""


@dataclass(frozen=True)
class NotAgainstApart(_Together):
    """Why a run over several tasks is not set beside circuits apart."""

    skipped: str
    """The reason."""


def read_together(folder: str | Path) -> TogetherFile:
    """`together.json` of a finished run over several tasks.

    Raises:
        RunError: not such a run, not finished, changed since, or a damaged file.
    """
    path = Path(folder) / FILE
    if not path.is_file() or not (Path(folder) / "COMPLETE").exists():
        raise RunError(
            f"{str(folder)!r} is not a finished run over several tasks: it needs {FILE} and "
            "COMPLETE; give the output_dir of `train` with `tasks`"
        )
    check_seal(Path(folder))
    found = from_json(TogetherFile, read_json(path), str(path))
    inside = all(name not in ("", "..") and Path(name).name == name for name in found.tasks)
    whole = all(tuple(one.name for one in row.tasks) == found.tasks for row in found.rows)
    if not (found.tasks and inside and whole and 0 <= found.chosen < len(found.rows)):
        raise RunError(
            f"{path} is damaged: expected folders of tasks inside its own, each in every row, and "
            f"a chosen row; got tasks {found.tasks!r:.100} and row {found.chosen} of "
            f"{len(found.rows)}"
        )
    return found


def refuse_several(folder: str | Path) -> None:
    """Nothing, unless the folder is of a run over several tasks where one is wanted.

    Raises:
        RunError: it is; names the runs inside.
    """
    if tasks := tasks_in(folder):
        raise RunError(
            f"{str(folder)!r} is a run over several tasks; give one of them: "
            f"{', '.join(map(str, tasks))}"
        )


def tasks_in(folder: str | Path) -> list[Path]:
    """The runs of each task inside a run over several tasks; none of any other path."""
    if not (Path(folder) / FILE).is_file():
        return []
    return [Path(folder) / name for name in read_together(folder).tasks]
