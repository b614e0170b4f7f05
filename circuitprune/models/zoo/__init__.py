"""Models that come with the package, so that nothing needs a download."""

import difflib
from importlib.resources import files
from pathlib import Path

from circuitprune.errors import ModelError

ZOO = {"zoo/small": "small", "zoo/boxes": "boxes"}
"""Name -> folder beside this file. Each folder has a model card, `README.md`."""


def zoo_path(name: str) -> Path:
    """The folder of a shipped model, in Hugging Face format.

    Raises:
        ModelError: no shipped model has this name.
    """
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelError(f"no shipped model {name!r}.{hint} Shipped models: {', '.join(ZOO)}")
    return Path(str(files(__name__))) / ZOO[name]


def dictionary_path(name: str) -> Path:
    """The shipped dictionaries of a shipped model by the model's name; else the path itself.

    Raises:
        ModelError: this shipped model has none.
    """
    if name not in ZOO:
        return Path(name)
    folder = zoo_path(name)
    path = folder.with_name(f"{folder.name}_dictionaries.safetensors")
    if not path.is_file():
        raise ModelError(
            f"{name} comes without dictionaries; make one with scripts/train_dictionary.py {name} "
            "NODE -o FILE and name the file"
        )
    return path
