"""The declared model families, and those that are refused by name.

To add one, name the modules, add the line to `FAMILIES`, and let the self-check and the laws in
`tests/models/test_families.py` decide whether the declaration is true. See docs/extending.md.
"""

from collections.abc import Callable
from dataclasses import replace

from transformers import PretrainedConfig

from circuitprune.errors import ModelError
from circuitprune.models.family import Family, sequential

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
    down="c_proj",
)
GPT_NEOX = Family(
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    attention="attention",
    projections=("query_key_value",),
    fused="per_group",
    output="dense",
    down="dense_4h_to_h",
    parallel=lambda config: config.use_parallel_residual,
)
SANDWICH = replace(
    LLAMA,
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
GEMMA2 = replace(SANDWICH, attention_implementation="eager")  # sdpa drops the scores' soft cap
BEHIND = replace(SANDWICH, attention_norm=None, mlp_norm=None)
OLMO2 = replace(BEHIND, coupled=True, ungroup=())
ONE_NORM = replace(LLAMA, mlp_norm="input_layernorm", parallel=lambda _: True)
GPT_J = replace(
    ONE_NORM,
    layers="transformer.h",
    final_norm="transformer.ln_f",
    attention="attn",
    output="out_proj",
    attention_norm="ln_1",
    mlp_norm="ln_1",
    down="fc_out",
)
PHI3 = replace(
    LLAMA,
    projections=("qkv_proj",),
    fused="blocks",
    ungroup=("num_key_value_groups", "num_key_value_heads"),
)
GRANITE = replace(LLAMA, scale=lambda config: config.residual_multiplier)
BART = replace(
    LLAMA,
    mlp=("fc1", "activation_fn", "fc2"),
    output="out_proj",
    attention_norm="self_attn_layer_norm",
    mlp_norm="final_layer_norm",
    final_norm="model.layer_norm",
)
BLOOM = replace(
    GPT_NEOX,
    layers="transformer.h",
    final_norm="transformer.ln_f",
    attention="self_attention",
    mlp=("mlp.dense_h_to_4h", "mlp.gelu_impl", "mlp.dense_4h_to_h"),
    parallel=sequential,
    returns_tuple=True,
    attention_implementation="eager",
)


def _falcon(config: PretrainedConfig) -> Family:
    """7B: one norm, one KV head; 40B and 11B: groups of heads; RW: one block after the other."""
    grouped = config.new_decoder_architecture
    one = config.num_ln_in_parallel_attn == 1 or not grouped
    family = replace(
        BLOOM,
        mlp="mlp",
        fused="blocks" if config.multi_query and not grouped else "per_group",
        parallel=lambda config: config.parallel_attn,
        ungroup=("num_kv_heads",) if grouped else (),
        adds_in_place=True,
        attention_implementation="sdpa",
    )
    if not config.parallel_attn:
        return family
    norms = ("input_layernorm", "input_layernorm") if one else ("ln_attn", "ln_mlp")
    return replace(family, attention_norm=norms[0], mlp_norm=norms[1])


def _stablelm(config: PretrainedConfig) -> Family:
    """Sequential, or parallel behind one norm; a norm for each KV head keeps them as they are."""
    base = ONE_NORM if config.use_parallel_residual else LLAMA
    return replace(base, ungroup=() if config.qk_layernorm else PHI3.ungroup)


def _gpt_bigcode(config: PretrainedConfig) -> Family:
    """One KV head behind all queries, or (q, k, v) for each head."""
    if config.multi_query:
        return replace(GPT2, ungroup=())
    return replace(GPT2, fused="per_group")


def _cohere(config: PretrainedConfig) -> Family:
    """The norm of its keys has weights for each KV head."""
    return replace(ONE_NORM, ungroup=() if config.use_qk_norm else LLAMA.ungroup)


def _bloom(config: PretrainedConfig) -> Family:
    """Fused by head, ALiBi; refused where a layer replaces its stream by the normed one."""
    if config.apply_residual_connection_post_layernorm:
        raise ModelError(
            "apply_residual_connection_post_layernorm=True: its residual stream is replaced by its "
            "normed self in each layer, so it is no sum of what its parts wrote"
        )
    return BLOOM


def _opt(config: PretrainedConfig) -> Family:
    """q, k, v apart, no MLP module; refused where norms stand behind the additions (350m)."""
    if not config.do_layer_norm_before:
        raise ModelError(_NORM_AFTER + " (do_layer_norm_before=False, as in opt-350m)")
    layers, norm = "model.decoder.layers", "model.decoder.final_layer_norm"
    return replace(BART, layers=layers, final_norm=norm)


def _gemma4(config: PretrainedConfig) -> Family:
    """As gemma3_text; refused with inputs for each layer, shared KV heads, or scaled streams."""
    for name in ("hidden_size_per_layer_input", "num_kv_shared_layers", "enable_moe_block"):
        if getattr(config, name, 0):
            raise ModelError(
                f"{name}={getattr(config, name)}: its layers hand each other more than the "
                "residual stream, which the graph has no edges for"
            )
    return replace(SANDWICH, unit="layer_scalar")


_NORM_AFTER = "it norms the stream after each addition, so that is no sum of what its parts wrote"
_MIXERS = "its layers mix positions by a recurrence, not by heads with queries, keys and values"
_LATENT = "its keys and values are made from one latent vector, not by a projection for each head"
_TWO_MLPS = "its layers have a second MLP beside the experts, which the graph has no node for"

Declared = Family | Callable[[PretrainedConfig], Family]
FAMILIES: dict[str, Declared] = {
    "apertus": replace(
        LLAMA, attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm"
    ),
    "arcee": LLAMA,
    "biogpt": replace(BART, layers="biogpt.layers", final_norm="biogpt.layer_norm"),
    "bloom": _bloom,
    "codegen": replace(GPT_J, projections=("qkv_proj",), fused="shards"),
    "cohere": _cohere,
    "cohere2": ONE_NORM,
    "cwm": LLAMA,
    "dots1": LLAMA,
    "ernie4_5": LLAMA,
    "ernie4_5_moe": LLAMA,
    "exaone": LLAMA,
    "exaone4": replace(BEHIND, ungroup=LLAMA.ungroup),
    "falcon": _falcon,
    "flex_olmo": OLMO2,
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": SANDWICH,
    "gemma4_text": _gemma4,
    "glm": LLAMA,
    "glm4": replace(
        LLAMA,
        attention_post_norm="post_self_attn_layernorm",
        mlp_post_norm="post_mlp_layernorm",
    ),
    "glm4_moe": LLAMA,
    "gpt2": GPT2,
    "gpt_bigcode": _gpt_bigcode,
    "gpt_neo": replace(
        GPT2,
        attention="attn.attention",
        projections=LLAMA.projections,
        fused="no",
        output="out_proj",
        returns_tuple=True,
        attention_implementation="eager",
    ),
    "gpt_neox": GPT_NEOX,
    "gpt_oss": replace(LLAMA, sinks=True, attention_implementation="eager"),
    "gptj": GPT_J,
    "granite": GRANITE,
    "granitemoe": replace(GRANITE, mlp="block_sparse_moe"),
    "helium": LLAMA,
    "hunyuan_v1_dense": LLAMA,
    "hunyuan_v1_moe": LLAMA,
    "jais2": LLAMA,
    "llama": LLAMA,
    "llama4_text": replace(LLAMA, mlp="feed_forward", caches=False),  # scales queries by count
    "mellum": LLAMA,
    "minimax_m2": replace(LLAMA, coupled=True, ungroup=()),
    "ministral": LLAMA,
    "ministral3": LLAMA,
    "mistral": LLAMA,
    "mixtral": LLAMA,
    "mpt": replace(
        GPT2,
        layers="transformer.blocks",
        final_norm="transformer.norm_f",
        mlp=("ffn.up_proj", "ffn.act", "ffn.down_proj"),
        projections=("Wqkv",),
        output="out_proj",
        attention_norm="norm_1",
        mlp_norm="norm_2",
        returns_tuple=True,
        attention_implementation="eager",
    ),
    "nemotron": LLAMA,
    "olmo": LLAMA,
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    "olmoe": replace(LLAMA, coupled=True, ungroup=()),
    "opt": _opt,
    "persimmon": replace(
        GPT_NEOX,
        layers="model.layers",
        final_norm="model.final_layernorm",
        attention="self_attn",
        parallel=sequential,
    ),
    "phi": replace(ONE_NORM, final_norm="model.final_layernorm", output="dense", down="fc2"),
    "phi3": PHI3,
    "phimoe": LLAMA,
    "qwen2": LLAMA,
    "qwen2_moe": LLAMA,
    "qwen3": LLAMA,
    "qwen3_moe": LLAMA,
    "seed_oss": LLAMA,
    "smollm3": LLAMA,
    "solar_open": LLAMA,
    "stablelm": _stablelm,
    "starcoder2": replace(LLAMA, down="c_proj"),
    "vaultgemma": replace(LLAMA, mlp_norm="pre_feedforward_layernorm"),
    "xglm": BART,
}
"""Declared families by the `model_type` of their config: a family, or what makes it of a config."""

REFUSED: dict[str, str] = {
    "afmoe": _TWO_MLPS,
    "bitnet": "its weights are ternary and norms lie between its heads and their output projection",
    "ctrl": _NORM_AFTER,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "diffllama": "two of its heads are subtracted from each other before they write",
    "dbrx": "its attention and both norms are one module, whose parts cannot be replaced alone",
    "gemma3n_text": "it carries four streams, and layers get more than any one of them",
    "gpt_neox_japanese": "its last layer adds a bias that its attention hands on apart",
    "granitemoeshared": _TWO_MLPS,
    "mamba": _MIXERS,
    "mamba2": _MIXERS,
    "nanochat": "its final norm also stands behind the embeddings, so its readers cannot be told",
    "openai-gpt": _NORM_AFTER,
    "qwen3_5_text": _MIXERS,
    "qwen3_next": _MIXERS,
    "rwkv": _MIXERS,
}
"""Families that the graph cannot express, with the reason."""


def family_of(config: PretrainedConfig) -> Family:
    """The declaration for a model with this config.

    Raises:
        ModelError: undeclared, with the declared ones; or one that cannot be, with the reason.
    """
    kind = config.model_type
    if kind in REFUSED:
        raise ModelError(f"model family {kind!r} has no edges to gate: {REFUSED[kind]}")
    if kind not in FAMILIES:
        fields = ", ".join(Family.__dataclass_fields__)
        raise ModelError(
            f"model family {kind!r} is not declared, so its edges are unknown. Declared: "
            f"{', '.join(sorted(FAMILIES))}. To add it, fill in a `Family` ({fields}) as "
            "docs/extending.md shows."
        )
    declared = FAMILIES[kind]
    if isinstance(declared, Family):
        return declared
    try:
        return declared(config)
    except ModelError as error:
        raise ModelError(f"this {kind!r} model has no edges to gate: {error}") from error
