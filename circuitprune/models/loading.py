"""A model and its tokenizer by name: the shipped one, a folder, a GGUF file, or a hub id."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from circuitprune.errors import ModelError
from circuitprune.models.adapters import merged, refuse_adapter
from circuitprune.models.families import family_of
from circuitprune.models.gguf import complete, dequantising, gguf_options, unpacking
from circuitprune.models.refusals import (
    refuse_composite,
    refuse_gaps,
    refuse_other_kinds,
    refuse_quantised,
)
from circuitprune.models.sources import HubOptions, Source, explained, find_source

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
Told = Callable[[int, int], None]


def load_model(
    name: str,
    dtype: str = "float32",
    revision: str | None = None,
    progress: Told | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode and its tokenizer; see docs/loading.md for what is done to each form.

    Args:
        name: `zoo/small`, a folder with a Hugging Face model or an adapter of peft, a GGUF file, or
            a hub id such as `gpt2`.
        dtype: `float32`, `float64` or `bfloat16`; always explicit, never the checkpoint's own.
        revision: Commit or tag of a hub id.
        progress: Told the weights that are loaded, and all of them; transformers shows no bar.

    Raises:
        ModelError: no such model, not a causal language model or one with other parts beside it, an
            undeclared family, quantised, with an adapter beside it, weights that are missing, of
            another shape, without a place in the config or only available as pickle, no tokenizer,
            or a package that is not installed. The message says what to do, or what to download and
            where to.
    """
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()  # no report of weights: see refuse_gaps
    source = find_source(name, revision)
    with explained(source), _opened(source) as (path, options):
        with _telling(progress, source):
            model = _load(source, path, DTYPES[dtype], options)
        tokenizer = _tokenizer(source, path, model.config, options)
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
    source = find_source(name, revision)
    with explained(source), _opened(source) as (path, options):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **options)
        tokenizer = _tokenizer(source, path, config, options)
    _check_tokenizer(name, tokenizer)
    return tokenizer, longest_prompt(config)


def longest_prompt(config: PreTrainedConfig) -> int | None:
    """Positions of a model, in tokens, BOS included; None if its config does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


@contextmanager
def _opened(source: Source) -> Iterator[tuple[str, HubOptions]]:
    """The path and the options by which `from_pretrained` reads a source."""
    if source.gguf is None:
        yield source.path, source.hub
        return
    with gguf_options(source.gguf) as found:
        yield found


def _load(source: Source, path: str, dtype: torch.dtype, options: HubOptions) -> PreTrainedModel:
    """The causal language model of a source, every weight of it from there."""
    name = source.name
    refuse_adapter(name, path, source.hub)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, **options)
    refuse_quantised(name, config)
    family = family_of(config.get_text_config())
    refuse_composite(name, config)
    refuse_other_kinds(name, config)
    if dtype == torch.float64:  # the grouped product of experts takes no float64
        config._experts_implementation = "eager"
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        attn_implementation=family.attention_implementation,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # reported, and refused below by name
        output_loading_info=True,
        **options,
        **(dequantising() if source.gguf else {}),
    )
    model: PreTrainedModel
    model, report = loaded
    refuse_gaps(name, report, source.wanted)
    if source.gguf:
        complete(name, model, source.gguf)
        model.config.name_or_path = model.name_or_path = name
    return merged(model, source.adapter) if source.adapter else model


def _tokenizer(
    source: Source, path: str, config: PreTrainedConfig, options: HubOptions
) -> PreTrainedTokenizerBase:
    """The tokenizer of a source; the config says of which kind where the folder does not."""
    if source.adapter and source.tokenizer != source.path:
        path, options = source.tokenizer, {}
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, config=config, trust_remote_code=False, **options
    )
    return tokenizer


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"model {name!r} has no usable tokenizer: it encodes 'a b' to nothing, as one without "
            "a vocabulary does; add the model's own tokenizer.json"
        )


@contextmanager
def _telling(progress: Told | None, source: Source) -> Iterator[None]:
    """Where transformers would show its bars of weights, tell how many are loaded."""

    def instead(
        bar: Callable[..., object], args: tuple[Collection[object], ...], options: dict[str, object]
    ) -> object:
        return _told(args[0], progress) if args and progress else bar(*args, **options)

    before = hf_logging.set_tqdm_hook(instead)
    try:
        with unpacking(partial(_told, progress=progress)) if source.gguf else nullcontext():
            yield
    finally:
        hf_logging.set_tqdm_hook(before)


def _told(weights: Collection[object], progress: Told | None) -> Iterator[object]:
    for done, weight in enumerate(weights):
        if progress:
            progress(done, len(weights))
        yield weight
    if progress:
        progress(len(weights), len(weights))
