"""Adapters of `peft`: a folder with one is its base model with the adapter merged into it."""

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils.peft_utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    find_adapter_config_file,
)

from circuitprune.data.checks import fits
from circuitprune.errors import CircuitPruneError, ModelError
from circuitprune.files.whole import read_json


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (path / ADAPTER_CONFIG_NAME).is_file()


def base_of(name: str, path: Path) -> tuple[str, str | None]:
    """The base model of an adapter's folder, and its commit or tag, as its config names them.

    Raises:
        ModelError: `peft` is not installed, the config names no base model, or names an adapter.
    """
    if find_spec("peft") is None:
        raise ModelError(
            f"model {name!r} is an adapter ({ADAPTER_CONFIG_NAME}), and peft, which merges it into "
            f"its base model, is not installed: pip install 'circuitprune[peft]'. {_by_hand(name)}"
        )
    try:
        about = read_json(path / ADAPTER_CONFIG_NAME, "config")
    except CircuitPruneError as error:
        raise ModelError(f"adapter {name!r} cannot be read: {error}") from error
    base = about.get("base_model_name_or_path") if isinstance(about, dict) else None
    if not isinstance(about, dict) or not isinstance(base, str) or not base or not fits(base, str):
        raise ModelError(
            f"adapter {name!r} does not say what it adapts; write the base model's folder or hub "
            f"id into {ADAPTER_CONFIG_NAME}: base_model_name_or_path"
        )
    if is_adapter(Path(os.path.expanduser(base))):
        raise ModelError(f"the base model of adapter {name!r} is an adapter, {base!r}; merge that")
    revision = about.get("revision")
    return base, revision if isinstance(revision, str) else None


def merged(base: PreTrainedModel, path: Path) -> PreTrainedModel:
    """A base model with an adapter merged into its weights, by peft and in the model's own dtype.

    Raises:
        ModelError: weights that are missing, superfluous, only there as pickle, or of a kind of
            adapter that is no change of weights.
    """
    weights = path / ADAPTER_SAFE_WEIGHTS_NAME
    if not weights.is_file():
        raise ModelError(
            f"adapter {str(path)!r} has no {ADAPTER_SAFE_WEIGHTS_NAME}; weights that exist only as "
            "pickle are not read: load it with peft and save it again"
        )
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that do not fit: refused below
        model = peft.PeftModel.from_pretrained(base, str(path))
        takes = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
        if not hasattr(model, "merge_and_unload"):
            raise ModelError(
                f"adapter {str(path)!r} is of kind {model.active_peft_config.peft_type.value}, "
                "which is no change of weights, so there is nothing to merge"
            )
        _refuse_others(path, weights, takes)
        whole: PreTrainedModel = model.merge_and_unload()
    return whole


def _refuse_others(path: Path, weights: Path, takes: set[str]) -> None:
    """Peft leaves out what does not fit, and what is missing stays as it is drawn: no change."""
    with safe_open(weights, "pt") as file:
        holds = set(file.keys())
    if holds != takes:
        odd = min(holds ^ takes)
        where = "is not in its weights" if odd in takes else "has no place in its base model"
        raise ModelError(
            f"adapter {str(path)!r} does not fit: {odd} {where}, one of {len(holds ^ takes)}; "
            "expected adapter_config.json and adapter_model.safetensors of one adapter, and the "
            "base model that it was trained on"
        )


def refuse_beside(name: str) -> NoReturn:
    """An adapter beside whole weights: one name for two models."""
    raise ModelError(
        f"model {name!r} has an adapter beside it ({ADAPTER_CONFIG_NAME}), which changes its "
        f"weights. {_by_hand(name)}; for the model without it, take away {ADAPTER_CONFIG_NAME}"
    )


def refuse_adapter(name: str, path: str, hub: dict[str, object]) -> None:
    """With peft it would be loaded, without it left out."""
    if find_adapter_config_file(path, **hub) is not None:  # type: ignore[arg-type]
        refuse_beside(name)


def _by_hand(name: str) -> str:
    return (
        "Merge it first, in Python: AutoPeftModelForCausalLM.from_pretrained("
        f"{name!r}).merge_and_unload().save_pretrained('merged'), copy the tokenizer there and "
        "set model.name=merged"
    )
