"""Tiny random models of every family, built from configs, and small batches of prompt pairs."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
from reference import FAMILIES
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

torch.set_num_threads(1)  # the models are too small for more threads to pay

VOCAB = 53
SIZES = dict(num_hidden_layers=3, num_attention_heads=4, hidden_size=32, vocab_size=VOCAB)
GATED = dict(SIZES, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=32)
SPECIAL = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(
        n_layer=3, n_head=4, n_embd=32, n_positions=32, vocab_size=VOCAB, **SPECIAL
    ),
    "gpt_neox": lambda: neox_config(parallel=True),
    "gpt_neox_sequential": lambda: neox_config(parallel=False),
    "llama": lambda: LlamaConfig(attention_bias=True, mlp_bias=True, **GATED, **SPECIAL),
    "qwen2": lambda: Qwen2Config(
        use_sliding_window=True, sliding_window=4, max_window_layers=1, **GATED, **SPECIAL
    ),
    "gemma2": lambda: Gemma2Config(
        head_dim=12,
        query_pre_attn_scalar=10,
        attention_bias=True,
        sliding_window=4,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        attn_implementation="eager",
        **GATED,
        **SPECIAL,
    ),
}

TOLERANCE = {
    "gpt2": 1e-10,
    "gpt_neox": 1e-10,
    "gpt_neox_sequential": 1e-10,
    "llama": 1e-5,
    "qwen2": 1e-5,
    "gemma2": 1e-5,
}
"""Error of logits in float64, relative and absolute; Hugging Face's RMSNorm works in float32."""


class Batch(NamedTuple):
    """Prompt pairs padded on the right; `mask` is True on real tokens, `last` the last of them."""

    clean: Tensor
    corrupt: Tensor
    mask: Tensor
    last: Tensor

    def real(self, values: Tensor) -> Tensor:
        """Rows of the real positions only, of a `[batch, pos, ...]` tensor."""
        return values[self.mask]


def neox_config(parallel: bool) -> GPTNeoXConfig:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return GPTNeoXConfig(
        **SIZES,
        intermediate_size=64,
        max_position_embeddings=32,
        rope_parameters=rope,
        use_parallel_residual=parallel,
        **SPECIAL,
    )


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights so large that every component matters; norms and biases moved off their defaults."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.2 if parameter.ndim > 1 else 0.3
        kept = torch.zeros_like(noise) if parameter.ndim > 1 else parameter.data
        parameter.data = kept + scale * noise


@cache
def build_tiny_model(family: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32)
    randomise(model, seed=FAMILIES.index(family))
    return model.double().eval().requires_grad_(False)


def random_batch(lengths: list[int], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, len(lengths), max(lengths))
    tokens = torch.randint(3, VOCAB, shape, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    clean, corrupt = tokens * mask
    return Batch(clean, corrupt, mask, torch.tensor(lengths) - 1)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], PreTrainedModel]:
    """`tiny_model(family)`: float64, eval, no gradients, the same object for the whole session."""
    return build_tiny_model


@pytest.fixture
def model(family: str) -> PreTrainedModel:
    return build_tiny_model(family)


@pytest.fixture
def tolerance(family: str) -> dict[str, float]:
    """Keyword arguments of `torch.testing.assert_close` for logits of this family."""
    return dict(rtol=TOLERANCE[family], atol=TOLERANCE[family])


@pytest.fixture(scope="session")
def padded_batch() -> Batch:
    return random_batch([9, 9, 7, 6], seed=0)


@pytest.fixture(scope="session")
def unpadded_batch() -> Batch:
    return random_batch([9, 9, 9, 9], seed=1)


@pytest.fixture(params=["padded", "unpadded"])
def batch(request: pytest.FixtureRequest) -> Batch:
    return request.getfixturevalue(f"{request.param}_batch")
