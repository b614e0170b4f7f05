"""The tasks by name. To add one, write a file like `pronoun.py` and list it in `TASKS`."""

import difflib
from pathlib import Path

from circuitprune.data.own import blamed, is_own, user_object
from circuitprune.data.tasks.arithmetic import Arithmetic
from circuitprune.data.tasks.boxes import HELD_OUT, Boxes
from circuitprune.data.tasks.boxes_lesson import BoxesLesson, called_by_label
from circuitprune.data.tasks.colored_objects import ColoredObjects
from circuitprune.data.tasks.greater_than import GreaterThan
from circuitprune.data.tasks.ioi import Ioi
from circuitprune.data.tasks.jsonl import JsonlTask
from circuitprune.data.tasks.mcqa import Mcqa
from circuitprune.data.tasks.mib_ioi import MibIoi
from circuitprune.data.tasks.mood_stories import MoodStories
from circuitprune.data.tasks.pair import Pair, Task
from circuitprune.data.tasks.pronoun import Pronoun
from circuitprune.data.tasks.sentiment import Sentiment
from circuitprune.data.tasks.sva import SubjectVerbAgreement
from circuitprune.errors import ConfigError, DataError

__all__ = ["TASKS", "JsonlTask", "Pair", "Task", "get_task"]

TASKS: dict[str, Task] = {
    "ioi": Ioi(),
    "greater_than": GreaterThan(),
    "sva": SubjectVerbAgreement(),
    "pronoun": Pronoun(),
    "sentiment": Sentiment(),
    "colored_objects": ColoredObjects(),
    "mib_ioi": MibIoi(),
    "mib_mcqa": Mcqa(),
    "mib_addition": Arithmetic("plus"),
    "mib_subtraction": Arithmetic("minus"),
    "mood_stories": MoodStories(),
    "boxes": Boxes(),
    "boxes_held_out": Boxes(HELD_OUT, name="boxes_held_out"),
    "boxes_labels": BoxesLesson(called_by_label(), "boxes_labels"),
    "boxes_lesson": BoxesLesson(),
}


def get_task(name: str, path: str | Path | None = None) -> Task:
    """The task of this name; `jsonl` reads pairs from `path`, `FILE.py:NAME` is the user's own.

    Raises:
        DataError: no such task, `jsonl` without a path, or a path for a generated task.
        ConfigError: the user's file does not hold a task.
    """
    if is_own(name):
        return _own_task(name)
    if name == "jsonl":
        if path is None:
            raise DataError("task 'jsonl' reads pairs from a file: give its path")
        if Path(path).is_fifo():
            raise DataError(
                f"{path} is a pipe, which can be read once, and a run reads its pairs again; save "
                "them to a file"
            )
        return JsonlTask(path)
    if name not in TASKS:
        known = [*TASKS, "jsonl"]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"no task {name!r}.{hint} Known tasks: {', '.join(known)}")
    if path is not None:
        raise DataError(
            f"task {name!r} generates its pairs and takes no file, got {path}; "
            "use task 'jsonl' to read one"
        )
    return TASKS[name]


def _own_task(name: str) -> Task:
    """The task in a file of the user's own: an object, or a class that is called for one."""
    found = user_object(name)
    with blamed(name):
        task = found() if isinstance(found, type) else found
    if not isinstance(task, Task):
        raise ConfigError(
            f"{name} is no task: it needs `name`, `corruptions` and `pairs(rng, kind)`"
        )
    return task
