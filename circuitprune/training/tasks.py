"""Several tasks in one run: which settings go with that; nothing of torch."""

from collections.abc import Sequence
from pathlib import Path

from circuitprune.data.checks import is_known, unknown
from circuitprune.data.own import is_own
from circuitprune.data.tasks import TASKS

PAIR_FILES = (".jsonl", ".csv")


def is_pair_file(task: str) -> bool:
    """Whether an entry of `tasks` is a file of pairs, not a name."""
    return Path(task).suffix in PAIR_FILES


def folder_of(task: str) -> str:
    """What the folder of a task is called inside the run's."""
    if is_own(task):
        return task.rpartition(":")[2]
    return Path(task).stem if is_pair_file(task) else task


def several_rules(
    tasks: Sequence[str],
    learner: str,
    count: str,
    budgets: str,
    selection: str,
    refine: bool,
    reference: str | None,
) -> list[tuple[bool, str]]:
    """Whether other settings go with several tasks, and what to say if not.

    Args:
        tasks: The setting of that name; empty for an ordinary run.
        learner, count, budgets: Of `gates`.
        selection, reference: Of `verify`.
        refine: The setting of that name.
    """
    if not tasks:
        return []
    names = [folder_of(task) for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    taken = [
        ("verify.selection", selection, "top_n"),
        ("refine", refine, False),
        ("verify.reference", reference, None),
    ]
    return [
        (
            len(tasks) > 1,
            f"tasks names one, {tasks[0]}, which has nothing to share: name another or set "
            f"task.name={tasks[0]} instead",
        ),
        (twice is None, f"tasks names {twice} twice; each gets a folder of that name"),
        *(
            (
                is_pair_file(task) or is_known(task, [*TASKS]),
                f"tasks={unknown(task, [*TASKS])}, or a .jsonl or .csv file of pairs",
            )
            for task in tasks
        ),
        *gate_rules(learner, count, budgets),
        *map(_only, taken),
    ]


def gate_rules(learner: str, count: str, budgets: str) -> list[tuple[bool, str]]:
    """Whether settings of `gates` go with several tasks, and what to say if not."""
    return [
        (
            budgets not in ("log_both", "at_sizes"),
            f"gates.budgets={budgets} does not go with tasks; take log_uniform",
        ),
        *map(_only, [("gates.learner", learner, "topk"), ("gates.count", count, "raw")]),
    ]


def _only(taken: tuple[str, object, object]) -> tuple[bool, str]:
    """A setting that several tasks take one value of."""
    key, got, want = taken
    return got == want, f"{key}={got} does not go with tasks; set {want}"
