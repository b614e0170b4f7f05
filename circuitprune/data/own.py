"""The user's own tasks, methods and metrics, named as `FILE.py:NAME`, and their faults in words."""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from sysconfig import get_path
from types import ModuleType

from circuitprune.errors import CircuitPruneError, ConfigError

_HASH = "__circuitprune_sha256__"


def is_own(name: str) -> bool:
    """Whether a name says `FILE.py:NAME`, an object of the user's own, and not one of ours."""
    path, _, inside = name.rpartition(":")
    return path.endswith(".py") and inside.isidentifier()


def user_object(name: str) -> object:
    """What `FILE.py:NAME` names; the file is run as Python, once in a process.

    Args:
        name: The file, relative to where the command runs, and a name at its top level.

    Raises:
        ConfigError: no such file, a file that fails when it runs, or no such name in it.
    """
    path, _, inside = name.rpartition(":")
    module = _module(Path(path).resolve())
    if not hasattr(module, inside):
        known = ", ".join(one for one in vars(module) if not one.startswith("_"))
        raise ConfigError(f"{path} has no {inside!r}; at its top level are {known or 'no names'}")
    return getattr(module, inside)


def user_hash(name: str) -> str:
    """SHA-256 of the file that `FILE.py:NAME` names, as it was when it was run."""
    found: str = getattr(_module(Path(name.rpartition(":")[0]).resolve()), _HASH)
    return found


def check_function(found: object, name: str, takes: Sequence[str]) -> Callable[..., object]:
    """A function of the user's own, once it is seen to be one that can be called so.

    Args:
        found: What should be a function.
        name: What it is called, for messages.
        takes: Names of the arguments that it is called with, by position.

    Raises:
        ConfigError: it is none, or takes other arguments.
    """
    call = f"({', '.join(takes)})"
    if not callable(found) or isinstance(found, type):
        raise ConfigError(f"{name} is no function of {call}: it is {found!r}")
    try:
        signature = inspect.signature(found)
    except ValueError:  # of some functions written in C, nothing is known
        return found
    try:
        signature.bind(*takes)
    except TypeError as error:
        raise ConfigError(f"{name}{signature} is called with {call}: {error}") from None
    return found


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Whatever the user's own code raises, said of it in one sentence, with its line.

    Our errors pass through as they are.
    """
    try:
        yield
    except (CircuitPruneError, MemoryError):
        raise
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        theirs = [line for line in lines if not line.filename.startswith(_LIBRARIES)]
        where = f" at line {theirs[-1].lineno} of {theirs[-1].filename}" if theirs else ""
        raise ConfigError(f"{name} fails{where}: {type(error).__name__}: {error}") from error


_LIBRARIES = (str(Path(__file__).parents[1]), *map(get_path, ("stdlib", "purelib", "platlib")))
"""Where lines of packages stand, ours among them: these are not the user's."""


def _module(path: Path) -> ModuleType:
    name = f"circuitprune_own:{path}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"no Python file {str(path)!r}")
    module = sys.modules[name] = module_from_spec(spec)  # dataclasses look their module up there
    try:
        with blamed(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    setattr(module, _HASH, hashlib.sha256(path.read_bytes()).hexdigest())
    return module
