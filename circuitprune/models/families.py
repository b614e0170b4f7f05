"""One declaration per model family: which module is which port. A family is names, not code.

To add one, name the modules, add the line to `FAMILIES`, and let the self-check and the laws in
`tests/test_laws.py` decide whether the declaration is true. See docs/extending.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PretrainedConfig

from circuitprune.errors import ModelError


def _sequential(_config: PretrainedConfig) -> bool:
    return False


@dataclass(frozen=True)
class Family:
    """Where an unmodified Hugging Face model of one `model_type` keeps its ports.

    Paths are dotted, from the model (`layers`, `final_norm`), from a layer (`attention`, `mlp`,
    the norms) or from the attention module (`projections`, `output`). The defaults are Llama's.
    """

    layers: str = "model.layers"
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    mlp: str = "mlp"
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """The q, k and v projections, or the one module that holds all three."""
    fused: Literal["no", "blocks", "per_head"] = "no"
    """Layout of a single projection's output: `q|k|v` blocks, or (q, k, v) for each head."""
    output: str = "o_proj"
    attention_norm: str = "input_layernorm"
    """Norm between the residual stream and q, k, v."""
    attention_post_norm: str | None = None
    """Norm on the attention's output before it is added (sandwich norms)."""
    mlp_norm: str = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    parallel: Callable[[PretrainedConfig], bool] = _sequential
    """Whether the MLP reads the block's input instead of the attention's result."""
    attention_implementation: str = "sdpa"
    """Attention code of transformers: the fastest that is right for the family."""


LLAMA = Family()
GPT2 = Family(
    layers="transformer.h",
    final_norm="transformer.ln_f",
    attention="attn",
    projections=("c_attn",),
    fused="blocks",
    output="c_proj",
    attention_norm="ln_1",
    mlp_norm="ln_2",
)
GPT_NEOX = Family(
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    attention="attention",
    projections=("query_key_value",),
    fused="per_head",
    output="dense",
    parallel=lambda config: config.use_parallel_residual,
)
GEMMA2 = replace(
    LLAMA,
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    attention_implementation="eager",  # sdpa drops the soft cap of the attention scores
)

FAMILIES: dict[str, Family] = {
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gemma2": GEMMA2,
}
"""Declared families by the `model_type` of their config."""


def family_of(model_type: str) -> Family:
    """The declaration of a `model_type`. Raises ModelError with the declared ones."""
    if model_type not in FAMILIES:
        fields = ", ".join(Family.__dataclass_fields__)
        raise ModelError(
            f"model family {model_type!r} is not declared, so its edges are unknown. Declared: "
            f"{', '.join(sorted(FAMILIES))}. To add it, fill in a `Family` ({fields}) as "
            "docs/extending.md shows."
        )
    return FAMILIES[model_type]
