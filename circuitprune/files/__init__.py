"""What is written and read: files that are whole or absent, records as JSON, limits, clean text.

Everything that enters or leaves passes here: no half-written file, no number that JSON has no word
for, no file that fills the memory, no character that a terminal would obey. Imports only `errors`.
"""

from importlib import import_module


def __getattr__(name: str) -> object:
    """What `whole` has, by the path of 0.1; loaded when it is asked for, as it needs torch."""
    whole = import_module(f"{__name__}.whole")
    if name.startswith("__") or not hasattr(whole, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(whole, name)
