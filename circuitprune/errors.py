"""Every error that a user can cause; each says what was seen, what was expected, what to do.

Beside them the one warning: of an old name.
"""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module

PACKAGE, _, _ = __name__.partition(".")


class CircuitPruneError(Exception):
    """Base of all errors raised on purpose; scripts print them without a traceback."""

    exit_code = 1


class ConfigError(CircuitPruneError, ValueError):
    """A config file or override that cannot be used."""

    exit_code = 2


class NonFiniteError(CircuitPruneError, ArithmeticError):
    """A loss, gradient or metric became NaN or infinite."""

    exit_code = 3


class DataError(CircuitPruneError, ValueError):
    """Prompt pairs that cannot be read, aligned or split as asked."""

    exit_code = 4


class ModelError(CircuitPruneError, ValueError):
    """A model that is missing, of an unsupported family, or that fails the self-check."""

    exit_code = 5


class GraphError(CircuitPruneError, ValueError):
    """An unknown node or edge name, or tensors that do not fit the graph."""


class MetricError(CircuitPruneError, ValueError):
    """A metric that is undefined on these numbers, such as a division by zero."""


class RunError(CircuitPruneError, RuntimeError):
    """An output folder or checkpoint that cannot be used."""


_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this machine, or its GPU, had no memory left: torch says so in words alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    ours = isinstance(error, CircuitPruneError)
    return isinstance(error, RuntimeError) and not ours and any(w in str(error) for w in _MEMORY)


def old_names(module: str, now: Mapping[str, str]) -> Callable[[str], object]:
    """A `__getattr__` for a module: hands its old names on.

    Args:
        module: The module's `__name__`.
        now: Old name -> where the thing is, `folder.module.name` without the package's name.
    """

    def handed_on(name: str) -> object:
        if name not in now:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = f"{PACKAGE}.{now[name]}".rpartition(".")
        warnings.warn(
            f"{module}.{name} is now {place}.{new}; its old name goes with 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(place), new)

    return handed_on
