"""The unit of data: a prompt, its minimally changed partner, and what each answer should be."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, runtime_checkable

from circuitprune.data.own import blamed
from circuitprune.errors import DataError


@dataclass(frozen=True)
class Pair:
    """One clean prompt with its corrupt partner; text only, no tokenizer involved.

    `answers` and `wrong` are sets of single-token continuations of the *clean* prompt, spelled as
    they follow it (usually with a leading space).
    """

    id: str
    clean: str
    corrupt: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    kind: str = ""
    """Which corruption made `corrupt`."""
    group: str = ""
    """Template or entity; a split by group never puts one group on two sides."""
    meta: dict[str, str] = field(default_factory=dict, compare=False, hash=False)
    tags: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False, hash=False)
    """Named places of `clean`, each from its first character to behind its last: what
    `spans=tags` deals tokens by."""


CHOICES = "choices"
"""The entry of `Pair.meta` with all labels that a prompt asks to choose from, between bars: the
model is right where the right one is above each of them."""


@runtime_checkable
class Task(Protocol):
    """A source of pairs. Generated tasks are endless; files end.

    A task may also have a `metric`, the one of `metrics.TASK_METRICS` that it was published with:
    what `task.metric=auto` takes.
    """

    @property
    def name(self) -> str:
        """The key in `TASKS`, or `jsonl`."""
        ...

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Kinds of corruption on offer, the default first."""
        ...

    def pairs(self, rng: Random, corruption: str = "") -> Iterator[Pair]:
        """Yield pairs in an order that depends on `rng` alone; `""` is the default corruption."""
        ...


OneToken = Callable[[str, Sequence[str]], Collection[str]]
"""`one_token(prompt, texts)`: those of the texts that are one token of a tokenizer there."""


@runtime_checkable
class Fitting(Task, Protocol):
    """A task whose pairs depend on how the tokenizer cuts words or numbers."""

    def fitted(self, one_token: OneToken) -> Task:
        """The task for the tokenizer behind `one_token`."""
        ...


def fitted(task: Task, one_token: OneToken) -> Task:
    """The task as it is for a tokenizer: itself, unless that makes a difference to it.

    Raises:
        DataError: the tokenizer leaves it no words, or it gives something that is no task.
        ConfigError: the user's own code fails.
    """
    if not isinstance(task, Fitting):
        return task
    with blamed(f"task {task.name!r}"):
        found = task.fitted(one_token)
    if not isinstance(found, Task):
        raise DataError(f"`fitted` of task {task.name!r} must give a task, it gave {found!r}")
    return found


def pairs_of(task: Task, seed: int, corruption: str) -> Iterator[Pair]:
    """The pairs of a task in the order of a seed; a task of the user's own may be wrong.

    Raises:
        DataError: it gives something that is no `Pair`.
        ConfigError: its own code fails.
    """
    with blamed(f"task {task.name!r}"):
        for pair in task.pairs(Random(seed), corruption):
            if not isinstance(pair, Pair):
                raise DataError(
                    f"task {task.name!r} must give circuitprune.data.tasks.Pair, it gave {pair!r}"
                )
            yield pair


def choose_corruption(task: Task, corruption: str) -> str:
    """The corruption to use: the one asked for, or the task's default for `""`.

    Raises:
        DataError: the task does not offer it.
    """
    if corruption and corruption not in task.corruptions:
        raise DataError(
            f"task {task.name!r} has no corruption {corruption!r}; "
            f"choose one of: {', '.join(task.corruptions)}"
        )
    return corruption or task.corruptions[0]
