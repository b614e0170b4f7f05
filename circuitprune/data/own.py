"""The user's own tasks, methods and metrics, named as `FILE.py:NAME`."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from circuitprune.errors import ConfigError


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


def _module(path: Path) -> ModuleType:
    name = f"circuitprune_own:{path}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"no Python file {str(path)!r}")
    module = sys.modules[name] = module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} fails when it runs: {type(error).__name__}: {error}") from error
    return module
