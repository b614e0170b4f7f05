"""How far long work is, and the time left: a bar on a terminal, else a line every half minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from circuitprune.engine.progress import Progress, silent
from circuitprune.files.text import line, tell
from circuitprune.runs.launched import leads

Clock = Callable[[], float]
"""Seconds, from any start."""

PATIENCE = 1.0
"""Seconds that a piece of work must last before it gets a bar."""
EVERY = 30.0
"""Seconds between two lines, and before the first."""
REFRESH = 0.5
"""Seconds between two looks at the notes beside a bar, which may have to wait for a GPU."""


class Work:
    """A piece of work under way, and how long the rest of it will take.

    Args:
        what: Its name.
        unit: Of its parts, in the plural.
        notes: Asked for what to show beside it.
        clock: Tells the time.
    """

    def __init__(self, what: str, unit: str, notes: Callable[[], str], clock: Clock) -> None:
        self.what, self.unit, self.notes, self.clock = line(what), unit, notes, clock
        self.done, self.total = 0, 0
        self.began = self.moved = clock()
        self.first: tuple[float, int] | None = None
        """When it first told of itself, and what was done by then, which may be a resumed run's."""

    def move(self, done: int, total: int) -> None:
        """Note how far it is."""
        self.done, self.total, self.moved = done, total, self.clock()
        self.first = self.first or (self.moved, done)

    @property
    def left(self) -> float | None:
        """Seconds, at the mean pace so far; None while there is none, and at the end."""
        start, done_before = self.first or (self.began, self.done)
        if not done_before < self.done < self.total:
            return None
        pace = (self.moved - start) / (self.done - done_before)
        return max(0.0, pace * (self.total - self.done) - (self.clock() - self.moved))

    @property
    def line(self) -> str:
        """How far it is and the time left, such as `120 of 479 edges, 25 %, about 40 s left`."""
        share = 100 * self.done // max(1, self.total)
        parts = [f"{self.done:,} of {self.total:,} {self.unit}", f"{share} %"]
        if self.left is not None:
            parts.append(f"about {spelled(self.left)} left")
        return f"{self.what}: {', '.join([*parts, *filter(None, [self.notes()])])}"


def spelled(seconds: float) -> str:
    """`40 s`, `1 min 40 s` or `2 h 5 min`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


class Shown(Protocol):
    """A `Watch` that also takes what to show beside the numbers."""

    def __call__(self, what: str, unit: str, notes: Callable[[], str] = str) -> Progress:
        """See `Watch`; `notes` is asked now and then."""
        ...


@contextmanager
def shown(
    show: bool, console: Console | None = None, clock: Clock = time.monotonic
) -> Iterator[Shown]:
    """Shows one piece of work after another while the block lasts.

    Args:
        show: Else nothing is shown; nor is it by processes of torchrun but the first.
        console: Standard output by default; bars are for terminals and notebooks.
        clock: Tells the time.
    """
    display = _display(console or Console(), clock) if show and leads() else None

    def watch(what: str, unit: str, notes: Callable[[], str] = str) -> Progress:
        if display is None:
            return silent
        work = Work(what, unit, notes, clock)

        def progress(done: int, total: int) -> None:
            work.move(done, total)
            display.tell(work)

        return progress

    try:
        yield watch
    finally:
        if display is not None:
            display.close()


def _display(console: Console, clock: Clock) -> "_Bar | _Lines":
    bars = console.is_interactive or console.is_jupyter
    return _Bar(console, clock) if bars else _Lines(console, clock)


class _Lines:
    """At most a line every `EVERY` seconds, of whichever work is under way by then."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self.console, self.clock, self.last = console, clock, clock()

    def tell(self, work: Work) -> None:
        if self.clock() - self.last >= EVERY:
            self.last = self.clock()
            tell(work.line, self.console.file)

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """One bar, which the next piece of work takes over; the last one stays on the screen."""

    def __init__(self, console: Console, clock: Clock) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[work].unit}"),
            TimeElapsedColumn(),
            _Left(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[notes]}", table_column=Column()),  # alone may take more lines
        )
        self.bars = RichProgress(*columns, console=console, get_time=clock)
        self.clock, self.looked = clock, 0.0
        self.work: Work | None = None
        self.task = TaskID(0)

    def tell(self, work: Work) -> None:
        if work is not self.work:
            if self.clock() - work.began < PATIENCE:
                return
            self._take_over(work)
        self.bars.update(self.task, completed=work.done, total=work.total)
        if self.clock() - self.looked >= REFRESH or work.done == work.total:
            self.looked = self.clock()
            self.bars.update(self.task, notes=work.notes())

    def _take_over(self, work: Work) -> None:
        if self.work is None:
            self.bars.start()
        else:
            self.bars.remove_task(self.task)
        self.work, self.looked = work, self.clock()
        self.task = self.bars.add_task(
            work.what, total=work.total, completed=work.done, work=work, notes=work.notes()
        )
        self.bars.tasks[-1].start_time = work.began

    def close(self) -> None:
        self.bars.stop()


class _Left(ProgressColumn):
    """The time that is left, counted down between two parts of the work."""

    def render(self, task: Task) -> Text:
        left = task.fields["work"].left
        text = "" if left is None else f"{timedelta(seconds=round(left))} left"
        return Text(text, style="progress.remaining")
