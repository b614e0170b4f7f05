"""A model and its tokenizer by name: the shipped one, a local folder, or a hub id."""

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from circuitprune.errors import ModelError
from circuitprune.models.families import family_of
from circuitprune.zoo import zoo_path

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def load_model(
    name: str, dtype: str = "float32", revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode and its tokenizer.

    Args:
        name: `zoo/small`, a folder with a Hugging Face model, or a hub id such as `gpt2`.
        dtype: `float32`, `float64` or `bfloat16`; always explicit, never the checkpoint's own.
        revision: Commit or tag of a hub id.

    Raises:
        ModelError: no such model, not a causal language model, an undeclared family, or weights
            that are only available as pickle. The message says what to download and where to.
    """
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    source = _source(name)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hub: dict[str, Any] = {"revision": revision} if revision else {}
    hub["local_files_only"] = not Path(source).is_dir() and not _hub_reachable()
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
        family = family_of(config.get_text_config().model_type)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=family.attention_implementations[0],
            trust_remote_code=False,
            use_safetensors=True,
            **hub,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(_explain(name, source, error)) from error
    return model.eval(), tokenizer


def _hub_reachable() -> bool:
    """Whether the hub's name resolves: without this, each file is retried for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE"):
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # the proxy resolves names
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _source(name: str) -> str:
    """A local path where there is one, else the name as a hub id."""
    if name.startswith("zoo/"):
        return str(zoo_path(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"folder {name!r} has no config.json; expected a Hugging Face model folder with "
                "config.json, model.safetensors and tokenizer.json"
            )
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no folder {name!r}; model.name takes a folder, 'zoo/small' or a hub id")
    return name


def _explain(name: str, source: str, error: Exception) -> str:
    """One message for whatever transformers said while loading."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(source).is_dir():
        return (
            f"folder {name!r} could not be loaded as a causal language model: {reason} Expected "
            "config.json of a causal language model, model.safetensors and tokenizer.json."
        )
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return (
        f"hub model {name!r} is neither cached nor reachable{offline}: {reason} On a machine with "
        f"a network run `hf download {name} --include '*.json' '*.safetensors' '*.txt' "
        f"--local-dir models/{name}`, copy that folder here and set model.name=models/{name}."
    )
