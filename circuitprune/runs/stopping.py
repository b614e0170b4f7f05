"""Signals that ask a command to stop: Ctrl-C, and what schedulers and closed terminals send.

SIGTERM is a scheduler's, SIGUSR1 comes before SLURM's, SIGHUP of a terminal that is gone.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from circuitprune.runs.launched import passes_signals_on

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


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
    heard: bool = False
    """Whether signals are heard at all."""


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
    before = {number: signal.signal(number, _stop) for number in _heard()}
    _REQUEST.heard = True
    try:
        yield
    finally:
        _REQUEST.heard = False
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


def _heard() -> tuple[signal.Signals, ...]:
    """All of `NUMBERS`, but not a closed terminal where nohup has it passed over."""
    deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(one for one in NUMBERS if not (deaf and one == signal.SIGHUP))


def _stop(number: int, _frame: FrameType | None) -> None:
    again = _REQUEST.number is not None and not passes_signals_on()
    _REQUEST.number = number
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


def listen_again() -> None:
    """Set these handlers once more: Lightning puts one of its own before them.

    Under several processes that one waits for the others inside the handler, who know of nothing.
    """
    if _REQUEST.heard and threading.current_thread() is threading.main_thread():
        for number in _heard():
            signal.signal(number, _stop)


def asked() -> bool:
    """Whether a signal has asked to stop."""
    return _REQUEST.number is not None


def number_asked() -> int:
    """The signal that has asked to stop, 0 if none has."""
    return _REQUEST.number or 0


def ask(number: int) -> None:
    """As if this signal had come: another process got it."""
    _REQUEST.number = number
