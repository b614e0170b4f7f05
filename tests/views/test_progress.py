"""Bars on a terminal, lines elsewhere, by a clock that the test moves."""

import io
import re

import pytest
from rich.console import Console

from circuitprune.views.progress import EVERY, PATIENCE, Work, shown, spelled


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def console(terminal, width=100):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, legacy_windows=False)


def lines(out):
    return out.file.getvalue().splitlines()


def screen(out):
    """What a terminal was sent, without its colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.file.getvalue())


def advance(clock, progress, total, seconds, until=None):
    for done in range((until or total) + 1):
        progress(done, total)
        clock.now += seconds


# ---------------------------------------------------------------- the time left


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (40.0, "40 s"),
        (59.7, "1 min 0 s"),
        (100.0, "1 min 40 s"),
        (7500.0, "2 h 5 min"),
        (200_000.0, "55 h 33 min"),
    ],
)
def test_times_are_spelled(seconds, text):
    assert spelled(seconds) == text


def test_the_time_left_is_at_the_mean_pace_and_runs_down(clock):
    work = Work("attribution", "edges", str, clock)
    work.move(0, 100)
    assert work.left is None
    clock.now += 50
    work.move(25, 100)
    assert work.left == 150
    clock.now += 30
    assert work.left == 120
    clock.now += 500
    assert work.left == 0
    work.move(100, 100)
    assert work.left is None


def test_what_was_done_before_does_not_count_for_the_pace(clock):
    work = Work("training", "steps", str, clock)
    work.move(900, 1000)
    clock.now += 10
    work.move(910, 1000)
    assert work.left == 90


# ---------------------------------------------------------------- lines


def test_a_line_says_how_far_and_how_long(clock):
    out = console(False)
    with shown(True, out, clock) as watch:
        progress = watch("attribution", "edges")
        progress(0, 1479)
        clock.now += 33
        progress(370, 1479)
    assert lines(out) == ["attribution: 370 of 1,479 edges, 25 %, about 1 min 39 s left"]


def test_there_is_a_line_at_most_every_half_minute_whatever_the_work(clock):
    out = console(False)
    with shown(True, out, clock) as watch:
        for name in ("first", "second", "third"):
            advance(clock, watch(name, "runs"), 19, 1.0)
    assert [line.split(",")[0] for line in lines(out)] == [
        "second: 10 of 19 runs",
    ]
    assert EVERY == 30


def test_short_work_says_nothing(clock):
    out = console(False)
    with shown(True, out, clock) as watch:
        advance(clock, watch("verification", "runs"), 28, 1.0)
    assert out.file.getvalue() == ""


def test_the_end_has_no_time_left_and_notes_come_last(clock):
    out = console(False)
    with shown(True, out, clock) as watch:
        progress = watch("training", "steps", lambda: "loss 0.5")
        progress(0, 60)
        clock.now += 31
        progress(60, 60)
    assert lines(out) == ["training: 60 of 60 steps, 100 %, loss 0.5"]


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_shown_where_it_is_not_asked_for(clock, terminal):
    out = console(terminal)
    with shown(False, out, clock) as watch:
        advance(clock, watch("attribution", "edges"), 5, 60.0)
    assert out.file.getvalue() == ""


# ---------------------------------------------------------------- bars


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_has_name_parts_and_both_times(clock, width):
    out = console(True, width)
    with shown(True, out, clock) as watch:
        progress = watch("5/9 minimality, random edges", "edges")
        progress(0, 479)
        clock.now += 40
        progress(120, 479)
    last = screen(out).rstrip().splitlines()[-1]
    assert last.startswith("5/9 minimality, random edges")
    assert "120/479 edges 0:00:40 0:02:00 left" in last


def test_a_bar_shows_its_notes_at_any_width(clock):
    out = console(True, 80)
    with shown(True, out, clock) as watch:
        progress = watch("training", "steps", lambda: "loss 0.00763, 12,182 edges, KL 0.31")
        progress(0, 1000)
        clock.now += 40
        progress(120, 1000)
    text = screen(out)
    assert all(part in text for part in ("120/1000 steps", "0:04:53 left", "12,182", "KL 0.31"))


def test_work_of_less_than_a_second_has_no_bar(clock):
    out = console(True)
    with shown(True, out, clock) as watch:
        advance(clock, watch("self-check", "checks"), 6, PATIENCE / 10)
    assert out.file.getvalue() == ""


def test_the_next_work_takes_the_bar_over(clock):
    out = console(True)
    with shown(True, out, clock) as watch:
        for name in ("first", "second"):
            advance(clock, watch(name, "runs"), 3, 2.0)
        watch("short", "runs")(1, 1)
    shown_last = screen(out).rstrip().splitlines()[-1]
    assert shown_last.startswith("second") and "3/3 runs" in shown_last
    assert "first" in screen(out) and "short" not in screen(out)


def test_the_bar_is_closed_when_work_fails(clock):
    out = console(True)

    def fail(watch):
        advance(clock, watch("attribution", "edges"), 10, 2.0, until=4)
        raise KeyError

    with pytest.raises(KeyError), shown(True, out, clock) as watch:
        fail(watch)
    assert out.file.getvalue().endswith("\x1b[?25h")  # the cursor is back
