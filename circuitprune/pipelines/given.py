"""What a study is given in place of settings: a model or pairs that are there already."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.data.tasks import TASKS, Pair, Task, get_task
from circuitprune.data.tasks.given import GivenPairs
from circuitprune.errors import DataError, ModelError
from circuitprune.pipelines.setup import Loaded


def model_name(model: str | Path | PreTrainedModel) -> str:
    """What a config calls the model."""
    if isinstance(model, PreTrainedModel):
        return model.name_or_path or type(model).__name__
    return str(model)


def loaded_model(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> Loaded | None:
    """A model that is there already with its tokenizer; None if it is still to be loaded.

    Raises:
        ModelError: it comes without its tokenizer.
    """
    if not isinstance(model, PreTrainedModel):
        return None
    if tokenizer is None:
        raise ModelError(
            f"a model that is loaded already ({type(model).__name__}) comes with its tokenizer: "
            "Study(model, task, tokenizer=tokenizer)"
        )
    return model.eval(), tokenizer


def pairs_source(task: str | Path | Sequence[Pair] | Task) -> tuple[Task | None, str | None]:
    """Where pairs come from, and the file or the description that stands for it in a config.

    Nothing for a generated task: the config names it.
    """
    if isinstance(task, str) and task in TASKS:
        return None, None
    if isinstance(task, str | Path):
        return _from_text(task)
    if isinstance(task, Sequence):
        assert not isinstance(task, str)  # went above
        return GivenPairs(task), f"{len(task)} pairs in memory"
    if not isinstance(task, Task):
        raise DataError(f"a task is a name, a file, a list of Pair or a Task, got {task!r}")
    return task, None if task.name in TASKS else task.name


def _from_text(task: str | Path) -> tuple[Task | None, str | None]:
    if Path(task).is_file():
        return get_task("jsonl", task), str(task)
    if isinstance(task, Path):
        raise DataError(f"no file of pairs {str(task)!r}")
    return get_task(task), None  # refuses what is neither


def task_name(task: object) -> str:
    """What a config calls a generated task."""
    return task.name if isinstance(task, Task) else str(task)


def pair_counts(
    source: Task | None, n_train: int | None, n_val: int, n_test: int | None
) -> tuple[int, int]:
    """How many pairs to draw: 64 and 64, or, of pairs that are given, half and half."""
    if not isinstance(source, GivenPairs):
        return 64 if n_train is None else n_train, 64 if n_test is None else n_test
    left = len(source.all_pairs) - n_val
    if n_train is None:
        n_train = left // 2 if n_test is None else left - n_test
    return n_train, left - n_train if n_test is None else n_test
