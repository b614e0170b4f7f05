"""Every default and every constant of the package, as lines of `tests/defaults.txt`.

    python -m tests.defaults      # write them anew, after a change that was meant

A default decides a result as much as a formula does, and tests of a file that take its constants
from it would go along with any value.
"""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import circuitprune

WRITTEN = Path(__file__).with_name("defaults.txt")


def is_plain(value: object) -> bool:
    """Whether a value is told by its spelling: a number, a flag, a text, or a tuple of numbers."""
    return isinstance(value, str) or is_number(value)


def is_number(value: object) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return parts != () and all(isinstance(part, int | float) for part in parts)


def defaults() -> list[str]:
    """A line for each, in the order of the alphabet."""
    return sorted({line for module in modules() for line in [*constants(module), *given(module)]})


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(circuitprune.__path__, "circuitprune."):
        if not found.name.endswith("__main__"):
            yield import_module(found.name)


def constants(module: ModuleType) -> Iterator[str]:
    """Numbers at the top of a file, by the rules of style in capitals."""
    own = set(re.findall(r"^([A-Z_]+)\b.*=", inspect.getsource(module), re.MULTILINE))
    for name, value in vars(module).items():
        if name in own and is_number(value):
            yield f"{module.__name__}.{name} = {value!r}"


def given(module: ModuleType) -> Iterator[str]:
    """What functions, methods and dataclasses of a file take where nothing is given."""
    for owner in vars(module).values():
        if getattr(owner, "__module__", None) != module.__name__ or not callable(owner):
            continue
        yield from given_to(owner)
        methods = vars(owner) if inspect.isclass(owner) else {}
        for name, method in methods.items():
            if inspect.isfunction(method) and name != "__init__":  # which is the class's own
                yield from given_to(method)


def given_to(of: object) -> Iterator[str]:
    try:
        parameters = inspect.signature(of).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a class without a signature, such as a protocol
        return
    for parameter in parameters:
        if parameter.default is not parameter.empty and is_plain(parameter.default):
            name = f"{of.__module__}.{of.__qualname__}"  # type: ignore[attr-defined]
            yield f"{name}({parameter.name}={parameter.default!r})"


if __name__ == "__main__":
    WRITTEN.write_text("\n".join(defaults()) + "\n")
