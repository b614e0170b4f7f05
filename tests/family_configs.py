"""A tiny random model of every family and variant, with every option that changes the function on.

3 layers, 4 heads, width 32, 53 tokens. Where a family has them: 2 KV heads or 1, heads of 12
instead of 8, windows of 4, partial rotary, NoPE layers, biases, multipliers, soft caps, clipping,
4 experts of which 2 run. What stays at its default proves nothing about a declaration.
"""

import zlib
from collections.abc import Callable
from functools import cache

import torch
from reference import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

VOCAB = 53
SPECIAL = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0)
SIZES = dict(
    num_hidden_layers=3,
    num_attention_heads=4,
    hidden_size=32,
    max_position_embeddings=32,
    **SPECIAL,
)
MHA = dict(SIZES, intermediate_size=48)
GQA = dict(MHA, num_key_value_heads=2)
WIDE = dict(GQA, head_dim=12)
OLD = dict(n_layer=3, n_head=4, n_embd=32, n_positions=32, **SPECIAL)
LOCAL, GLOBAL = "sliding_attention", "full_attention"
WINDOWS = dict(sliding_window=4, layer_types=[LOCAL, GLOBAL, LOCAL])
"""On prompts of 9 tokens."""
SOME_WINDOWS = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)
EXPERTS = dict(num_experts_per_tok=2, num_local_experts=4)
ROUTED = dict(
    num_experts_per_tok=2,
    n_routed_experts=4,
    n_shared_experts=1,
    moe_intermediate_size=24,
    n_group=2,
    topk_group=1,
    routed_scaling_factor=1.5,
)
"""Grouped routers with a shared expert, as of DeepSeek-V3."""
MULTIPLIERS = dict(
    embedding_multiplier=1.5,
    logits_scaling=2.0,
    residual_multiplier=0.6,
    attention_multiplier=0.4,
)

Config = Callable[[], PreTrainedConfig]


def of(model_type: str, *parts: dict[str, object], **options: object) -> Config:
    """A config of a `model_type`, from shared parts and its own options."""
    merged: dict[str, object] = {}
    for part in (*parts, options):
        merged |= part
    return lambda: AutoConfig.for_model(model_type, **merged)


def experts(model_type: str, *parts: dict[str, object], **options: object) -> Config:
    """The same with HF's own loop over experts: its grouped product refuses float64."""
    return of(model_type, dict(experts_implementation="eager"), *parts, **options)


def rotary(**options: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **options}}


HALF = rotary(partial_rotary_factor=0.5)

GEMMA2 = dict(
    WIDE,
    query_pre_attn_scalar=10,
    attention_bias=True,
    sliding_window=4,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=3.0,
    attn_implementation="eager",  # sdpa drops the soft cap of the attention scores
)

DENSE: dict[str, Config] = {
    "gpt2": of("gpt2", OLD),
    "gpt_neox": of("gpt_neox", MHA, HALF, intermediate_size=64, use_parallel_residual=True),
    "gpt_neox_sequential": of(
        "gpt_neox", MHA, HALF, intermediate_size=64, use_parallel_residual=False
    ),
    "llama": of("llama", GQA, attention_bias=True, mlp_bias=True),
    "qwen2": of("qwen2", GQA, SOME_WINDOWS),
    "gemma2": of("gemma2", GEMMA2),
    "mistral": of("mistral", WIDE, sliding_window=4),
    "ministral": of("ministral", WIDE, WINDOWS),
    "ministral3": of(
        "ministral3",
        WIDE,
        sliding_window=4,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 3,
            "llama_4_scaling_beta": 0.5,
        },
    ),
    "qwen3": of("qwen3", WIDE, SOME_WINDOWS, attention_bias=True),
    "gemma": of("gemma", WIDE, num_key_value_heads=1, attention_bias=True),
    "gemma3_text": of(
        "gemma3_text",
        WIDE,
        WINDOWS,
        query_pre_attn_scalar=10,
        attention_bias=True,
        final_logit_softcapping=3.0,
    ),
    "gemma4_text": of(
        "gemma4_text",
        WIDE,
        layer_types=[GLOBAL, LOCAL, GLOBAL],
        sliding_window=4,
        global_head_dim=12,
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        attention_bias=True,
        final_logit_softcapping=3.0,
    ),
    "vaultgemma": of("vaultgemma", GEMMA2, WINDOWS),
    "phi": of("phi", GQA, HALF),
    "phi_qk_layernorm": of("phi", GQA, HALF, qk_layernorm=True),
    "phi3": of("phi3", GQA, HALF, sliding_window=4, original_max_position_embeddings=32),
    "starcoder2": of("starcoder2", GQA, sliding_window=4, use_bias=True),
    "smollm3": of(
        "smollm3", GQA, SOME_WINDOWS, attention_bias=True, mlp_bias=True, no_rope_layers=[1, 0, 1]
    ),
    "cohere": of("cohere", GQA, attention_bias=True, logit_scale=0.5),
    "cohere_qk_norm": of("cohere", GQA, use_qk_norm=True, logit_scale=0.5),
    "cohere2": of("cohere2", WIDE, WINDOWS, attention_bias=True, logit_scale=0.5),
    "gptj": of("gptj", OLD, rotary_dim=4),
    "codegen": of("codegen", OLD, rotary_dim=4),
    "glm": of("glm", WIDE, HALF),
    "glm4": of("glm4", WIDE, HALF),
    "stablelm": of("stablelm", GQA, HALF, use_qkv_bias=True),
    "stablelm_parallel": of("stablelm", GQA, HALF, use_parallel_residual=True),
    "stablelm_qk_layernorm": of("stablelm", GQA, HALF, qk_layernorm=True),
    "gpt_neo": of(
        "gpt_neo",
        SPECIAL,
        num_layers=3,
        num_heads=4,
        hidden_size=32,
        intermediate_size=48,
        max_position_embeddings=32,
        window_size=4,
        attention_types=[[["global", "local", "global"], 1]],
    ),
    "granite": of("granite", GQA, MULTIPLIERS, attention_bias=True, mlp_bias=True),
    "olmo": of("olmo", GQA, clip_qkv=1.0),
    "olmo2": of("olmo2", GQA),
    "olmo3": of("olmo3", GQA, WINDOWS),
    "exaone": of("exaone", GQA, attention_bias=True, mlp_bias=True),
    "exaone4": of("exaone4", WIDE, WINDOWS),
    "nemotron": of("nemotron", WIDE, HALF, attention_bias=True, mlp_bias=True),
    "gpt_bigcode_mqa": of("gpt_bigcode", OLD, multi_query=True),
    "gpt_bigcode_mha": of("gpt_bigcode", OLD, multi_query=False),
    "falcon_7b": of("falcon", MHA, multi_query=True, parallel_attn=True),
    "falcon_11b": of(
        "falcon",
        MHA,
        new_decoder_architecture=True,
        num_kv_heads=2,
        num_ln_in_parallel_attn=1,
        bias=True,
    ),
    "falcon_40b": of("falcon", MHA, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_rw": of("falcon", MHA, multi_query=False, parallel_attn=False, alibi=True, bias=True),
    "bloom": of("bloom", SPECIAL, n_layer=3, n_head=4, hidden_size=32),
    "mpt": of("mpt", SPECIAL, d_model=32, n_heads=4, n_layers=3, max_seq_len=32),
    "mpt_clipped": of(
        "mpt",
        SPECIAL,
        d_model=32,
        n_heads=4,
        n_layers=3,
        max_seq_len=32,
        attn_config={"clip_qkv": 1.0, "softmax_scale": 0.6, "alibi_bias_max": 4},
    ),
    "opt": of("opt", SIZES, ffn_dim=48, word_embed_proj_dim=32),
    "opt_projected": of("opt", SIZES, ffn_dim=48, word_embed_proj_dim=16),
    "xglm": of(
        "xglm",
        SPECIAL,
        num_layers=3,
        attention_heads=4,
        d_model=32,
        ffn_dim=48,
        max_position_embeddings=32,
    ),
    "biogpt": of("biogpt", MHA),
    "ernie4_5": of("ernie4_5", WIDE, use_bias=True),
    "hunyuan_v1_dense": of("hunyuan_v1_dense", WIDE, attention_bias=True),
    "apertus": of("apertus", GQA, attention_bias=True),
    "arcee": of("arcee", WIDE, attention_bias=True, mlp_bias=True),
    "helium": of("helium", GQA, head_dim=8, attention_bias=True, mlp_bias=True),
    "seed_oss": of("seed_oss", WIDE, attention_out_bias=True, mlp_bias=True),
    "cwm": of("cwm", WIDE, WINDOWS, mlp_bias=True),
    "jais2": of("jais2", WIDE),
    "persimmon": of("persimmon", MHA, HALF),
}

SPARSE: dict[str, Config] = {
    "llama4_text": experts(
        "llama4_text",
        WIDE,
        EXPERTS,
        intermediate_size_mlp=40,
        interleave_moe_layer_step=2,
        no_rope_layers=[1, 0, 1],
        layer_types=["chunked_attention", GLOBAL, "chunked_attention"],
        attention_chunk_size=5,
        floor_scale=3,
        attention_bias=True,
    ),
    "qwen3_moe": experts(
        "qwen3_moe",
        WIDE,
        EXPERTS,
        attention_bias=True,
        moe_intermediate_size=24,
        mlp_only_layers=[1],
    ),
    "mixtral": experts("mixtral", WIDE, EXPERTS, sliding_window=4),
    "gpt_oss": experts("gpt_oss", WIDE, EXPERTS, WINDOWS),
    "qwen2_moe": experts(
        "qwen2_moe",
        GQA,
        SOME_WINDOWS,
        num_experts_per_tok=2,
        num_experts=4,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=20,
        mlp_only_layers=[1],
    ),
    "olmoe": experts("olmoe", GQA, clip_qkv=1.0, num_experts_per_tok=2, num_experts=4),
    "flex_olmo": experts("flex_olmo", GQA, num_experts_per_tok=2, num_experts=4),
    "granitemoe": experts("granitemoe", GQA, EXPERTS, MULTIPLIERS, attention_bias=True),
    "phimoe": experts(
        "phimoe", GQA, EXPERTS, attention_bias=True, lm_head_bias=True, sliding_window=4
    ),
    "minimax_m2": experts("minimax_m2", WIDE, EXPERTS, rotary_dim=6),
    "mellum": experts(
        "mellum",
        WIDE,
        EXPERTS,
        WINDOWS,
        attention_bias=True,
        moe_intermediate_size=24,
        mlp_layer_types=["sparse", "dense", "sparse"],
    ),
    "solar_open": experts("solar_open", WIDE, ROUTED, attention_bias=True),
    "glm4_moe": experts("glm4_moe", WIDE, HALF, ROUTED, attention_bias=True),
    "glm4_moe_qk_norm": experts("glm4_moe", WIDE, HALF, ROUTED, use_qk_norm=True),
    "dots1": experts("dots1", WIDE, ROUTED, WINDOWS, attention_bias=True, first_k_dense_replace=1),
    "ernie4_5_moe": experts(
        "ernie4_5_moe",
        WIDE,
        use_bias=True,
        moe_intermediate_size=24,
        moe_k=2,
        moe_num_experts=4,
        moe_num_shared_experts=1,
        moe_layer_end_index=2,
    ),
    "hunyuan_v1_moe": experts(
        "hunyuan_v1_moe", WIDE, attention_bias=True, num_experts=4, moe_topk=2
    ),
}
"""Mixtures of experts."""

CONFIGS = DENSE | SPARSE
"""A config of every family and variant whose edges are known."""

REFUSED: dict[str, Config] = {
    "mamba": of("mamba", SPECIAL, hidden_size=32, num_hidden_layers=3),
    "mamba2": of("mamba2", SPECIAL, hidden_size=32, num_hidden_layers=3, num_heads=4, head_dim=16),
    "rwkv": of("rwkv", SPECIAL, hidden_size=32, attention_hidden_size=32, num_hidden_layers=3),
    "qwen3_next": of(
        "qwen3_next", WIDE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "qwen3_5_text": of("qwen3_5_text", WIDE),
    "deepseek_v2": of("deepseek_v2", MHA, first_k_dense_replace=3),
    "deepseek_v3": of("deepseek_v3", MHA, first_k_dense_replace=3),
    "gemma3n_text": of(
        "gemma3n_text",
        WIDE,
        intermediate_size=[48] * 3,
        activation_sparsity_pattern=[0.0] * 3,
        num_kv_shared_layers=0,
        vocab_size_per_layer_input=VOCAB,
        hidden_size_per_layer_input=8,
    ),
    "openai-gpt": of("openai-gpt", OLD),
    "gpt_neox_japanese": of("gpt_neox_japanese", SIZES, HALF, intermediate_multiple_size=2),
    "ctrl": of("ctrl", OLD, dff=48),
    "opt_350m": of("opt", SIZES, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False),
    "bloom_post_layernorm": of(
        "bloom",
        SPECIAL,
        n_layer=3,
        n_head=4,
        hidden_size=32,
        apply_residual_connection_post_layernorm=True,
    ),
    "gemma4_per_layer_inputs": of(
        "gemma4_text",
        WIDE,
        global_head_dim=12,
        vocab_size_per_layer_input=VOCAB,
        hidden_size_per_layer_input=8,
    ),
    "gemma4_shared_kv": of(
        "gemma4_text",
        WIDE,
        global_head_dim=12,
        layer_types=[GLOBAL] * 3,
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=1,
    ),
    "afmoe": of("afmoe", WIDE, num_experts=4, moe_intermediate_size=24),
    "granitemoeshared": of("granitemoeshared", GQA, EXPERTS, shared_intermediate_size=24),
    "diffllama": of("diffllama", GQA),
    "bitnet": of("bitnet", GQA),
    "nanochat": of("nanochat", GQA),
    "dbrx": of(
        "dbrx",
        SPECIAL,
        d_model=32,
        n_heads=4,
        n_layers=3,
        max_seq_len=32,
        attn_config={"rope_theta": 10000.0},
    ),
}
"""Families, and options of families, that are refused by name and with a reason."""

SINGLE = ("xglm",)
"""Hugging Face's own code of these fails in float64."""

EXACT = (
    *("gpt2", "gpt_neox", "gpt_neox_sequential", "phi", "phi_qk_layernorm", "starcoder2"),
    *("gptj", "codegen", "stablelm", "stablelm_parallel", "stablelm_qk_layernorm", "nemotron"),
    *("gpt_bigcode_mqa", "gpt_bigcode_mha", "falcon_7b", "falcon_11b", "falcon_40b", "falcon_rw"),
    *("opt", "opt_projected", "biogpt", "jais2", "persimmon", "phimoe"),
)
"""Hugging Face rounds to float32 inside its RMSNorms and eager softmaxes, but nowhere in these."""

TOLERANCE = {name: 1e-10 if name in EXACT else 1e-5 for name in CONFIGS}
"""Error of logits, relative and absolute."""

MOVED = ("e_score_correction_bias",)
"""Buffers that choose experts, and are learned."""


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights so large that every component matters; norms and biases moved off their defaults."""
    generator = torch.Generator().manual_seed(seed)
    moved = [buffer for name, buffer in model.named_buffers() if name.endswith(MOVED)]
    for values in (*model.parameters(), *moved):
        noise = torch.randn(values.shape, generator=generator)
        drawn = values.ndim > 1 and bool((values != values.flatten()[0]).any())
        kept = torch.zeros_like(noise) if drawn else values.data
        values.data = kept + (0.2 if drawn else 0.3) * noise


@cache
def build(name: str) -> PreTrainedModel:
    """The model of a config: float64 but for `SINGLE`, eval; one object for the whole session."""
    seed = FAMILIES.index(name) if name in FAMILIES else zlib.crc32(name.encode())
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
    randomise(model, seed)
    return model.to(torch.float32 if name in SINGLE else torch.float64).eval().requires_grad_(False)
