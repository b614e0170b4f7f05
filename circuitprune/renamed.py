"""Old names in modules that kept their own: they work until 0.3, with a warning."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module

PACKAGE, _, _ = __name__.partition(".")


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
