"""Where a model is read from: the shipped one, a folder, a GGUF file, an adapter, or the hub."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from circuitprune.errors import ModelError
from circuitprune.models.adapters import base_of, is_adapter, refuse_beside
from circuitprune.models.gguf import is_gguf, refuse_without_reader
from circuitprune.models.zoo import zoo_path

HubOptions = dict[str, Any]
"""What `from_pretrained` is told of the hub."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TAKES = "model.name takes a shipped model (zoo/small), a folder, a .gguf file or a hub id"


@dataclass(frozen=True)
class Source:
    """Where weights and tokenizer are read from."""

    name: str
    """As the user calls it; of an adapter, the name of its base model."""
    path: str
    """A folder, a GGUF file, or a hub id."""
    hub: HubOptions
    adapter: Path | None = None
    """Folder of the adapter that is merged into the weights."""

    @property
    def gguf(self) -> Path | None:
        """The file, if it is one of GGUF."""
        return Path(self.path).absolute() if Path(self.path).is_file() else None

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer is read from: an adapter may bring its own."""
        own = self.adapter and (self.adapter / "tokenizer_config.json").is_file()
        return str(self.adapter) if own else self.path

    @property
    def wanted(self) -> str:
        """What should have been there."""
        if self.gguf:
            return "every tensor of one model in the file"
        return "config.json and model.safetensors of one model"


def find_source(name: str, revision: str | None = None) -> Source:
    """Where the model that `model.name` names is read from; nothing is loaded.

    Args:
        name: `zoo/small`, a folder with a model or with an adapter, a GGUF file, or a hub id.
        revision: Commit or tag of a hub id.

    Raises:
        ModelError: no such folder or file, one that holds no model or two, or one that needs a
            package which is not installed.
    """
    path = Path(os.path.expanduser(name))  # a user that is not there is no error
    local: HubOptions = {"local_files_only": False} | ({"revision": revision} if revision else {})
    if name.startswith("zoo/"):
        return Source(name, str(zoo_path(name)), local)
    if path.is_dir():
        return _folder(name, path, local)
    if path.is_file() or path.suffix == ".gguf":
        return Source(name, str(_gguf_file(name, path)), {})
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no folder {name!r}; {_TAKES}")
    return Source(name, name, local | {"local_files_only": not hub_reachable()})


def _folder(name: str, path: Path, local: HubOptions) -> Source:
    whole = (path / "config.json").is_file()
    if is_adapter(path):
        if whole:
            refuse_beside(name)
        base, revision = base_of(name, path)
        with _prefixed(f"adapter {name!r}, whose base model is {base!r}: "):
            return replace(find_source(base, revision), adapter=path)
    if not whole:
        raise ModelError(
            f"folder {name!r} has no config.json; expected a Hugging Face model folder with "
            "config.json, model.safetensors and tokenizer.json"
        )
    return Source(name, str(path), local)


def _gguf_file(name: str, path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"no file {name!r}; {_TAKES}")
    if not is_gguf(path):
        raise ModelError(
            f"{name!r} is a file, and not one of GGUF; {_TAKES}. Of safetensors it is the folder, "
            "with config.json and tokenizer.json"
        )
    refuse_without_reader(name)
    return path


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn whatever transformers raises while loading into one message."""
    of = f"adapter {str(source.adapter)!r}, whose base model is {source.name!r}: "
    with _prefixed(of if source.adapter else ""):
        try:
            yield
        except (ModelError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a damaged file leads transformers and tokenizers to
            raise ModelError(_explain(source, error)) from error


@contextmanager
def _prefixed(text: str) -> Iterator[None]:
    """Say in front of what is refused what it is a part of."""
    try:
        yield
    except ModelError as error:
        if not text or str(error).startswith(text):
            raise
        raise ModelError(f"{text}{error}") from error


def _explain(source: Source, error: Exception) -> str:
    """One message for whatever transformers said while loading."""
    name, reason = source.name, type(error).__name__
    if str(error).strip():
        reason = str(error).strip().splitlines()[0]
    if source.gguf:
        return (
            f"GGUF file {name!r} could not be loaded: {reason} It must be whole, one file, and of "
            "an architecture that transformers reads from GGUF; else take the model that it was "
            "made from, as a folder or a hub id."
        )
    if Path(source.path).is_dir():
        return (
            f"folder {name!r} could not be loaded as a causal language model: {reason} Expected "
            "config.json of a causal language model, model.safetensors and tokenizer.json."
        )
    offline = f" ({_offline()} is set)" if _offline() else ""
    return (
        f"there is no folder {name!r} in {str(Path.cwd())!r}, and hub model {name!r} is neither "
        f"cached nor reachable{offline}: {reason} A folder elsewhere goes by its whole path, "
        f"model.name=/path/to/{Path(name).name}. For the hub's, on a machine with a network run "
        f"`hf download {name} --include '*.json' '*.safetensors' '*.txt' "
        f"--local-dir models/{name}`, copy that folder here and set model.name=models/{name}."
    )


def hub_reachable() -> bool:
    """Whether the hub's name resolves: without this, each file is retried for half a minute."""
    if _offline():
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # the proxy resolves names
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _offline() -> str | None:
    """The variable by which the network is not to be used, if one says so, as the hub reads it."""
    said = (
        one for one in _OFFLINE if os.environ.get(one, "").upper() in ("1", "ON", "YES", "TRUE")
    )
    return next(said, None)
