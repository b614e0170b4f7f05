"""A model and its tokenizer by name: the shipped one, a local folder, or a hub id."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from circuitprune.errors import ModelError
from circuitprune.models.families import family_of
from circuitprune.models.zoo import zoo_path

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
        ModelError: no such model, not a causal language model, an undeclared family, weights
            that are incomplete or only available as pickle, or no tokenizer. The message says
            what to download and where to.
    """
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()  # no report of weights: see _refuse
    source, hub = _where(name, revision)
    with _explained(name, source):
        model = _load(name, source, DTYPES[dtype], hub)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
    _check_tokenizer(name, tokenizer)
    return model.eval(), tokenizer


def load_tokenizer(
    name: str, revision: str | None = None
) -> tuple[PreTrainedTokenizerBase, int | None]:
    """The tokenizer of a model, and the longest prompt that it takes; no weights are read.

    Args:
        name, revision: As of `load_model`.

    Raises:
        ModelError: no such model, or no tokenizer.
    """
    source, hub = _where(name, revision)
    with _explained(name, source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
    _check_tokenizer(name, tokenizer)
    return tokenizer, longest_prompt(config)


def longest_prompt(config: PretrainedConfig) -> int | None:
    """Positions of a model, in tokens, BOS included; None if its config does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _where(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """Where a model is read from, and what the hub is asked."""
    source = _source(name)
    hub: dict[str, Any] = {"revision": revision} if revision else {}
    return source, hub | {"local_files_only": not Path(source).is_dir() and not _hub_reachable()}


@contextmanager
def _explained(name: str, source: str) -> Iterator[None]:
    """Turn whatever transformers raises while loading into one message."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(_explain(name, source, error)) from error


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"model {name!r} has no usable tokenizer: it encodes 'a b' to nothing, as one without "
            "a vocabulary does; add the model's own tokenizer.json"
        )


def _load(name: str, source: str, dtype: torch.dtype, hub: dict[str, Any]) -> PreTrainedModel:
    """The causal language model of a source, every weight of it from there."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
    family = family_of(config.get_text_config().model_type)
    if config.architectures and not set(config.architectures) & _causal():
        raise ModelError(
            f"model {name!r} is a {', '.join(config.architectures)}, not a causal language model "
            "such as LlamaForCausalLM; pass one that predicts the next token"
        )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        config=config,
        dtype=dtype,
        attn_implementation=family.attention_implementation,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # reported, and refused below by name
        output_loading_info=True,
        **hub,
    )
    model, report = loaded
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    _refuse(name, sorted(report["missing_keys"]), "missing from its weights")
    _refuse(name, sorted(mismatched), "of another shape than its config.json says")
    return model


def _causal() -> set[str]:
    """Class names of all causal language models that transformers knows."""
    found: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        found |= {names} if isinstance(names, str) else set(names)
    return found


def _refuse(name: str, keys: list[str], what: str) -> None:
    """Hugging Face fills such weights with random numbers, so every result would be noise."""
    if keys:
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        raise ModelError(
            f"model {name!r} is incomplete: {shown} {'is' if len(keys) == 1 else 'are'} {what}; "
            "expected config.json and model.safetensors of one model: fetch both again"
        )


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
