"""A model and its tokenizer by name: the shipped one, a local folder, or a hub id."""

import os
import re
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging
from transformers.utils.peft_utils import find_adapter_config_file

from circuitprune.errors import ModelError
from circuitprune.models.families import family_of
from circuitprune.models.zoo import zoo_path

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
_BUFFERS = re.compile(r"(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
"""Constants that old files hold beside the weights, and that models now make themselves."""
HubOptions = dict[str, Any]
"""What `from_pretrained` is told of the hub."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def load_model(
    name: str,
    dtype: str = "float32",
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode and its tokenizer.

    Args:
        name: `zoo/small`, a folder with a Hugging Face model, or a hub id such as `gpt2`.
        dtype: `float32`, `float64` or `bfloat16`; always explicit, never the checkpoint's own.
        revision: Commit or tag of a hub id.
        progress: Told the weights that are loaded, and all of them; transformers shows no bar.

    Raises:
        ModelError: no such model, not a causal language model, an undeclared family, quantised,
            with an adapter beside it, weights that are missing, of another shape, without a place
            in the config or only available as pickle, or no tokenizer. The message says what to
            do, or what to download and where to.
    """
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()  # no report of weights: see _refuse
    source, hub = _where(name, revision)
    with _explained(name, source):
        _refuse_adapter(name, source, hub)
        with _telling(progress):
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


def longest_prompt(config: PreTrainedConfig) -> int | None:
    """Positions of a model, in tokens, BOS included; None if its config does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _where(name: str, revision: str | None) -> tuple[str, HubOptions]:
    """Where a model is read from, and what the hub is asked."""
    source = _source(name)
    hub: HubOptions = {"revision": revision} if revision else {}
    return source, hub | {"local_files_only": not Path(source).is_dir() and not _hub_reachable()}


@contextmanager
def _explained(name: str, source: str) -> Iterator[None]:
    """Turn whatever transformers raises while loading into one message."""
    try:
        yield
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a damaged file leads transformers and tokenizers to
        raise ModelError(_explain(name, source, error)) from error


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"model {name!r} has no usable tokenizer: it encodes 'a b' to nothing, as one without "
            "a vocabulary does; add the model's own tokenizer.json"
        )


def _load(name: str, source: str, dtype: torch.dtype, hub: HubOptions) -> PreTrainedModel:
    """The causal language model of a source, every weight of it from there."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
    _refuse_quantised(name, config)
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
    model: PreTrainedModel
    model, report = loaded
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    homeless = [key for key in report["unexpected_keys"] if not _BUFFERS.search(key)]
    _refuse(name, sorted(report["missing_keys"]), "missing from its weights")
    _refuse(name, sorted(mismatched), "of another shape than its config.json says")
    _refuse(name, sorted(homeless), "in its weights, but config.json has no place for")
    return model


@contextmanager
def _telling(progress: Callable[[int, int], None] | None) -> Iterator[None]:
    """Where transformers would show its bar of weights, tell how many are loaded."""

    def instead(
        bar: Callable[..., object], args: tuple[Collection[object], ...], options: dict[str, object]
    ) -> object:
        return _told(args[0], progress) if args and progress else bar(*args, **options)

    before = hf_logging.set_tqdm_hook(instead)
    try:
        yield
    finally:
        hf_logging.set_tqdm_hook(before)


def _told(weights: Collection[object], progress: Callable[[int, int], None]) -> Iterator[object]:
    for done, weight in enumerate(weights):
        progress(done, len(weights))
        yield weight
    progress(len(weights), len(weights))


def _refuse_adapter(name: str, source: str, hub: HubOptions) -> None:
    """An adapter would be left out, or loaded, by whether `peft` is installed."""
    if find_adapter_config_file(source, **hub) is not None:
        raise ModelError(
            f"model {name!r} has an adapter beside it (adapter_config.json), which changes its "
            "weights. Merge it first, in Python: AutoPeftModelForCausalLM.from_pretrained("
            f"{name!r}).merge_and_unload().save_pretrained('merged'), copy the tokenizer there and "
            "set model.name=merged; for the model without it, take away adapter_config.json"
        )


def _refuse_quantised(name: str, config: PreTrainedConfig) -> None:
    """Quantised weights are no numbers that gates and gradients could work on."""
    found = getattr(config, "quantization_config", None)
    found = found or getattr(config.get_text_config(), "quantization_config", None)
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    raise ModelError(
        f"model {name!r} is quantised ({method}, quantization_config of its config.json), and "
        "circuits are of full weights. Take the model that it was made from, or save it "
        "dequantised: model.dequantize().save_pretrained('full'), model.name=full"
    )


def _causal() -> set[str]:
    """Class names of all causal language models that transformers knows."""
    found: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        found |= {names} if isinstance(names, str) else set(names)
    return found


def _refuse(name: str, keys: list[str], what: str) -> None:
    """Hugging Face fills gaps with random numbers and drops the rest, so all would be noise."""
    if keys:
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        raise ModelError(
            f"model {name!r} is not whole: {shown} {'is' if len(keys) == 1 else 'are'} {what}; "
            "expected config.json and model.safetensors of one model: fetch both again"
        )


def _hub_reachable() -> bool:
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


def _source(name: str) -> str:
    """A local path where there is one, else the name as a hub id."""
    if name.startswith("zoo/"):
        return str(zoo_path(name))
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_adapter(name, str(path), {})
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
    offline = f" ({_offline()} is set)" if _offline() else ""
    return (
        f"there is no folder {name!r} in {str(Path.cwd())!r}, and hub model {name!r} is neither "
        f"cached nor reachable{offline}: {reason} A folder elsewhere goes by its whole path, "
        f"model.name=/path/to/{Path(name).name}. For the hub's, on a machine with a network run "
        f"`hf download {name} --include '*.json' '*.safetensors' '*.txt' "
        f"--local-dir models/{name}`, copy that folder here and set model.name=models/{name}."
    )
