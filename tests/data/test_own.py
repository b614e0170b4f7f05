"""Tasks and functions in files of the user's own: found, run once, blamed for their faults."""

import hashlib
from random import Random

import pytest
from pairs import TOKENIZER

from circuitprune.data.own import blamed, check_function, is_own, user_hash, user_object
from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import get_task
from circuitprune.errors import ConfigError, DataError

TASK = """
from itertools import product
from circuitprune.data.tasks import Pair

class Letters:
    name, corruptions = "letters", ("swap",)

    def pairs(self, rng, corruption=""):
        for n, (a, b, c) in enumerate(product("abcd", repeat=3)):
            yield Pair(str(n), f"{a} {b} {c} Mary", f"{a} {b} {c} John", (" she",), (" he",))

made = Letters()
number = 3
"""


@pytest.fixture
def write(tmp_path):
    """Writes a file of Python and returns its path."""

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mine.py:Task", True),
        ("a/b c/mine.py:f", True),
        ("C:/x/mine.py:f", True),
        ("ioi", False),
        ("mine.py", False),
        ("mine.py:", False),
        ("mine.py:1", False),
        ("mine:f", False),
    ],
)
def test_own_names_say_a_file_and_what_is_in_it(name, own):
    assert is_own(name) == own


@pytest.mark.parametrize("inside", ["Letters", "made"])
def test_a_task_in_a_file_of_python_is_a_task(write, inside):
    task = get_task(f"{write(TASK)}:{inside}")
    assert task.name == "letters" and next(task.pairs(Random(0))).clean == "a a a Mary"
    data = prepare(task, TOKENIZER, n_train=20, n_val=0, n_test=10, seed=0)
    assert data.report.kept == {"train": 20, "val": 0, "test": 10}


def test_a_file_is_run_once_and_known_by_its_hash(write, tmp_path):
    path = write(
        f"from pathlib import Path\nlog = Path({str(tmp_path / 'log')!r})\n"
        "log.write_text((log.read_text() if log.exists() else '') + 'x')\na = b = 1\n"
    )
    user_object(f"{path}:a"), user_object(f"{path}:b")
    assert (tmp_path / "log").read_text() == "x"
    text = (tmp_path / "mine.py").read_bytes()
    assert user_hash(f"{path}:a") == hashlib.sha256(text).hexdigest()


def test_a_relative_file_is_looked_for_where_the_command_runs(write, tmp_path, monkeypatch):
    write("a = 5\n", "near.py")
    monkeypatch.chdir(tmp_path)
    assert user_object("near.py:a") == 5


@pytest.mark.parametrize(
    ("text", "inside", "words"),
    [
        (None, "Letters", "no Python file"),
        (TASK, "Leters", "has no 'Leters'; at its top level are .*Letters, made, number"),
        (TASK, "number", "is no task: it needs `name`, `corruptions` and `pairs"),
        ("x = 1\nraise KeyError('y')\n", "x", "fails at line 2 of .*mine.py: KeyError: 'y'"),
        ("def f(:\n", "f", "SyntaxError"),
        ("class T:\n    def __init__(self):\n        1 / 0\n", "T", "line 3 .*ZeroDivisionError"),
    ],
)
def test_what_is_no_task_is_refused_in_words(write, tmp_path, text, inside, words):
    path = tmp_path / "absent.py" if text is None else write(text)
    with pytest.raises(ConfigError, match=words):
        get_task(f"{path}:{inside}")


def test_a_file_that_failed_is_run_again_when_it_is_mended(write):
    path = write("1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        user_object(f"{path}:a")
    write("a = 2\n")
    assert user_object(f"{path}:a") == 2


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("yield 5", DataError, "must give circuitprune.data.tasks.Pair, it gave 5"),
        ("yield {}['x']", ConfigError, r"task 'bad' fails at line 4 of .*mine.py: KeyError: 'x'"),
    ],
)
def test_a_task_that_fails_while_it_makes_pairs_is_blamed(write, body, error, words):
    text = "class Bad:\n    name, corruptions = 'bad', ('x',)\n    def pairs(self, rng, c=''):\n"
    task = get_task(f"{write(text + '        ' + body)}:Bad")
    with pytest.raises(error, match=words):
        prepare(task, TOKENIZER, n_train=2, n_val=0, n_test=0, seed=0)


def test_our_own_errors_pass_through():
    with pytest.raises(DataError, match="as it is"), blamed("mine"):
        raise DataError("as it is")


def test_a_function_is_one_that_can_be_called_so():
    takes = ("a", "b")
    assert check_function(max, "mine", takes) is max
    for found in (lambda a, b: 0, lambda a, b, c=1: 0, lambda *all_of_them: 0):
        assert check_function(found, "mine", takes) is found
    for found, words in (
        (5, r"mine is no function of \(a, b\): it is 5"),
        (int, "is no function"),
        (lambda a: 0, r"mine\(a\) is called with \(a, b\): too many"),
        (lambda a, b, c: 0, "missing a required argument: 'c'"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_function(found, "mine", takes)
