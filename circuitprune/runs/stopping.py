"""Signals that ask a command to stop: Ctrl-C, SIGTERM of a scheduler, SLURM's SIGUSR1 before it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop, and what was done until then is on disk.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class _Request:
    """What is asked of the process; signals belong to the process, so there is one."""

    number: int | None = None
    """The signal that came, once one has."""
    held: bool = False
    """Whether a unit of work is being finished first."""


_REQUEST = _Request()


@contextmanager
def stoppable(last: bool = False) -> Iterator[None]:
    """While it lasts, these signals raise `Stopped`: at once, or at the end of what is `held`.

    Files are whole or absent, so the unit of work that is cut short is just not there. Outside the
    main thread, where no handler can be set, nothing changes.

    Args:
        last: Nothing but the end of the process follows. It may take seconds, and a signal then
            would make what is done look failed: from here on signals are passed over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _REQUEST.number = None
    before = {number: signal.signal(number, _stop) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    again, _REQUEST.number = _REQUEST.number is not None, number
    if not _REQUEST.held or again:  # who asks twice does not want to wait
        raise Stopped(number)


@contextmanager
def held() -> Iterator[None]:
    """Within, a signal waits; at its end `Stopped` is raised if one came.

    The work inside looks at `asked` at each place where it can stop.
    """
    _REQUEST.held = True
    try:
        yield
    except BaseException as error:  # such as Lightning's own of a signal
        if _REQUEST.number is None or isinstance(error, Exception):
            raise
    finally:
        _REQUEST.held = False
    if _REQUEST.number is not None:
        raise Stopped(_REQUEST.number)


def asked() -> bool:
    """Whether a signal has asked to stop."""
    return _REQUEST.number is not None
