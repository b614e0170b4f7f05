"""What a model family declares: which module is which port. A family is names, not code."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PretrainedConfig

from circuitprune.models.layouts import Fused


def sequential(_config: PretrainedConfig) -> bool:
    """The MLP reads what attention wrote."""
    return False


def _unscaled(_config: PretrainedConfig) -> float:
    return 1.0


@dataclass(frozen=True)
class Family:
    """Where an unmodified Hugging Face model of one `model_type` keeps its ports.

    Paths are dotted, from the model (`layers`, `final_norm`), from a layer (`attention`, `mlp`,
    the norms) or from the attention module (`projections`, `output`). The defaults are Llama's.
    """

    layers: str = "model.layers"
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    mlp: str | tuple[str, str, str] = "mlp"
    """One module, or its first linear map, its activation and its second linear map: where there
    is no such module, or it adds the residual stream itself."""
    down: str = "down_proj"
    """From the MLP: its last linear map, whose input is the hidden neurons. Mixtures of experts
    have none of that name, and so no neurons of their own."""
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """The q, k and v projections, or the one module that holds all three."""
    fused: Fused = "no"
    """Layout of a single projection's output: see `models/layouts.py`."""
    output: str = "o_proj"
    attention_norm: str | None = "input_layernorm"
    """Norm between the residual stream and q, k, v; None where they read the stream itself."""
    attention_post_norm: str | None = None
    """Norm on the attention's output before it is added (sandwich norms)."""
    mlp_norm: str | None = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    parallel: Callable[[PretrainedConfig], bool] = sequential
    """Whether the MLP reads the block's input instead of the attention's result."""
    scale: Callable[[PretrainedConfig], float] = _unscaled
    """What attention and MLP outputs are multiplied by when they join the stream."""
    coupled: bool = False
    """Whether one norm spans the queries (keys) of all heads: then each of them moves all heads."""
    caches: bool = True
    """Whether attention can go on behind keys and values in Hugging Face's usual cache."""
    sinks: bool = False
    """Whether attention has a place to go beside the positions, so that the first one chooses."""
    ungroup: tuple[str, ...] = ("num_key_value_groups",)
    """Numbers of the attention module that must say "one KV head per query head" if readers are
    counted by query head; empty where that cannot be."""
    returns_tuple: bool = False
    """Whether a layer returns a tuple whose first part is the stream."""
    adds_in_place: bool = False
    """Whether a layer adds into what its MLP returned."""
    unit: str | None = None
    """A number of each layer that multiplies the whole stream, and must be 1."""
    attention_implementation: str = "sdpa"
    """Attention code of transformers: the fastest that is right for the family."""
