"""Signals: at once, or at the end of what is held; handlers are put back."""

import os
import signal
import threading

import pytest

from circuitprune.runs.stopping import NUMBERS, Stopped, asked, held, stoppable

every_signal = pytest.mark.parametrize("number", NUMBERS)


@pytest.fixture(autouse=True)
def closed_terminal_is_heard():
    """Also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number):
    os.kill(os.getpid(), number)


@every_signal
def test_a_signal_stops_at_once_and_says_which(number):
    before = [signal.getsignal(one) for one in NUMBERS]
    with pytest.raises(Stopped) as caught, stoppable():
        send(number)
        raise AssertionError("it went on")
    assert caught.value.number == number
    assert [signal.getsignal(one) for one in NUMBERS] == before


@every_signal
def test_once_the_last_command_is_done_signals_are_passed_over(number):
    """The end of the process takes seconds; what is done must not look failed."""
    before = {one: signal.getsignal(one) for one in NUMBERS}
    try:
        with stoppable(last=True):
            pass
        send(number)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_a_closed_terminal_is_passed_over_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stoppable():
        send(signal.SIGHUP)
        assert not asked()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@every_signal
def test_what_is_held_is_finished_first(number):
    done = []
    with pytest.raises(Stopped) as caught, stoppable():
        with held():
            assert not asked()
            send(number)
            done.append(asked())
        done.append("went on")
    assert caught.value.number == number and done == [True]


def test_who_asks_twice_does_not_wait():
    with pytest.raises(Stopped), stoppable(), held():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        raise AssertionError("it went on")


def test_what_a_library_makes_of_the_signal_is_still_stopped():
    """Lightning ends a process that is told to stop by an exit of its own."""
    with pytest.raises(Stopped), stoppable(), held():
        send(signal.SIGTERM)
        raise SystemExit(1)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_errors_without_a_signal_pass(error):
    with pytest.raises(error), stoppable(), held():
        raise error


def test_an_error_of_the_work_itself_is_not_hidden_by_a_signal():
    with pytest.raises(ValueError, match="mine"), stoppable(), held():
        send(signal.SIGTERM)
        raise ValueError("mine")


def test_a_stop_is_forgotten_by_the_next_command():
    with pytest.raises(Stopped), stoppable():
        send(signal.SIGTERM)
    with stoppable():
        assert not asked()


def test_outside_the_main_thread_nothing_changes():
    seen = []

    def work():
        with stoppable(), held():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
