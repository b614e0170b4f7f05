"""Shapes of every function's first calls in each test, by checks that are made once for each `def`.

The tests check every annotation of the package by jaxtyping and beartype, which write a checker for
each `def`. Python passes a `def` inside a function at every call of that function, and a hook of
a layer would get two new checkers at each forward: a third of the time of the tests of the engine.
Here the checkers of a `def` are kept, and made again only for other annotations or defaults.

A test calls the same function with the same shapes over and over, and half of what was left of its
time went to looking at them again. So a function's first `FIRST` calls in each test are checked.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any, get_args, get_origin

import jaxtyping

Decorator = Callable[[Any], Any]
FIRST = 4
"""Calls of a function in each test that are checked."""


class _Test:
    """Which test runs, as a number: `begin` is told of each."""

    now = 0

    def begin(self) -> None:
        self.now += 1


test = _Test()


class _Running(threading.local):
    def __init__(self) -> None:
        self.functions: list[Callable[..., Any]] = []


def checked_once(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """`jaxtyped`, whose checks of functions inside functions are made once for each `def`."""
    running, checks = _Running(), {}

    def kept(decorate: Decorator, function: Any) -> Any:
        key = _key(function)
        if key is None:
            return decorate(function)
        if key not in checks:
            checks[key] = decorate(_stand_in(function, running))
        check = checks[key]

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            running.functions.append(function)
            try:
                return check(*args, **kwargs)
            finally:
                running.functions.pop()

        return checked

    def remembering(*function: Any, **options: Any) -> Any:
        if function:
            return jaxtyped(*function, **options)
        decorate = jaxtyped(**options)
        return lambda function: first_calls(function, kept(decorate, function))

    return remembering


def first_calls(function: Any, check: Any) -> Any:
    """`check` at the first calls in each test and `function` itself after them."""
    if not isinstance(function, FunctionType):
        return check
    seen_in, calls = -1, 0

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal seen_in, calls
        seen_in, calls = test.now, (calls + 1 if seen_in == test.now else 1)
        return (check if calls <= FIRST else function)(*args, **kwargs)

    return checked


def _key(function: Any) -> Hashable | None:
    """What decides the checks of a function inside a function; None of anything else."""
    if not isinstance(function, FunctionType) or "<locals>" not in function.__qualname__:
        return None
    hints = tuple((name, _hint(hint)) for name, hint in function.__annotations__.items())
    defaults = function.__defaults__, *(function.__kwdefaults__ or {}).items()
    key = function.__code__, hints, defaults
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _hint(hint: Any) -> Any:
    """What two annotations of equal meaning share: jaxtyping makes a new class at each `[...]`."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return hint.__name__, hint.array_type, hint.dim_str, hint.dtypes
    if isinstance(hint, list):  # the arguments of a Callable
        return tuple(map(_hint, hint))
    parts = get_args(hint)
    return (get_origin(hint), *map(_hint, parts)) if parts else hint


def _stand_in(function: FunctionType, running: _Running) -> FunctionType:
    """A function of the same signature that calls the one that runs, and keeps none alive."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return running.functions[-1](*args, **kwargs)

    copy = FunctionType(call.__code__, function.__globals__, None, None, call.__closure__)
    functools.update_wrapper(copy, function)
    del copy.__wrapped__  # would keep what the first of them closes over
    copy.__signature__ = inspect.signature(function)
    return copy


jaxtyping.jaxtyped = checked_once(jaxtyping.jaxtyped)  # what the import hook writes over each `def`
