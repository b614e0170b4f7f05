"""What a checkpoint must be so that its numbers are the model's own: refused by name if not."""

import re
from collections.abc import Iterable, Mapping

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from circuitprune.errors import ModelError

_BUFFERS = re.compile(r"(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
"""Constants that old files hold beside the weights, and that models now make themselves."""


def refuse_quantised(name: str, config: PreTrainedConfig) -> None:
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


def refuse_composite(name: str, config: PreTrainedConfig) -> None:
    """A language model beside an encoder of images or sound: its text part is a model of its own.

    Transformers would load it with the encoder, or, as the text class, with random weights.
    """
    text = config.get_text_config()
    if text is config:
        return
    whole = (config.architectures or ["the whole model's class"])[0]
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type)
    if not isinstance(known, str):
        raise ModelError(
            f"model {name!r} is a {whole}, a language model with other parts beside it, and "
            f"transformers has no class for its text part ({text.model_type}) alone"
        )
    raise ModelError(
        f"model {name!r} is a {whole}, a language model with other parts beside it. Save its text "
        f"part, a {known}, in Python: whole = {whole}.from_pretrained({name!r}); text = "
        f"{known}(whole.config.get_text_config()); text.model = whole.get_decoder(); text.lm_head "
        "= whole.lm_head; text.save_pretrained('text'), copy the tokenizer there and set "
        "model.name=text"
    )


def refuse_other_kinds(name: str, config: PreTrainedConfig) -> None:
    """Encoders and classifiers have no next token."""
    if config.architectures and not set(config.architectures) & _causal():
        raise ModelError(
            f"model {name!r} is a {', '.join(config.architectures)}, not a causal language model "
            "such as LlamaForCausalLM; pass one that predicts the next token"
        )


def refuse_gaps(name: str, report: Mapping[str, Iterable[object]], wanted: str) -> None:
    """Hugging Face fills gaps with random numbers and drops the rest, so all would be noise.

    Args:
        name: Of the model.
        report: What transformers says of loading: keys that are missing, mismatched, unexpected.
        wanted: What should have been there.
    """
    mismatched = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
    homeless = [key for key in report["unexpected_keys"] if not _BUFFERS.search(str(key))]
    for keys, what in (
        (report["missing_keys"], "missing from its weights"),
        (mismatched, "of another shape than its config.json says"),
        (homeless, "in its weights, but config.json has no place for"),
    ):
        _refuse(name, sorted(map(str, keys)), what, wanted)


def _refuse(name: str, keys: list[str], what: str, wanted: str) -> None:
    if keys:
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        raise ModelError(
            f"model {name!r} is not whole: {shown} {'is' if len(keys) == 1 else 'are'} {what}; "
            f"expected {wanted}: fetch it again"
        )


def _causal() -> set[str]:
    """Class names of all causal language models that transformers knows."""
    found: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        found |= {names} if isinstance(names, str) else set(names)
    return found
