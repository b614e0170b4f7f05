"""How a run goes on behind tokens that were run before: by caches of Hugging Face's own kind."""

from collections.abc import Container

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from circuitprune.data.batches import Prefix


class Recorder(DynamicCache):
    """An empty cache that one run fills."""

    def __init__(self) -> None:
        super().__init__()

    def keys_values(self) -> Float[Tensor, "two_per_layer batch kv_head pos d_head"]:
        """What attention looked at, the keys and the values of each layer in turn."""
        layers = [layer for layer in self.layers if isinstance(layer, DynamicLayer)]
        assert len(layers) == len(self.layers)
        both = [part for layer in layers for part in (layer.keys, layer.values)]
        return torch.stack([part for part in both if part is not None])


class Past(DynamicCache):
    """A prefix as a cache, for any number of runs: none of them adds to it."""

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        pairs = prefix.keys_values.unflatten(0, (-1, 2))
        self.layers = [_PastLayer(keys, values) for keys, values in pairs]


class _PastLayer(DynamicLayer):
    """Keys and values in front of a run's own."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Both with these behind them; what is kept stays as it is."""
        assert self.keys is not None and self.values is not None
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(
    past: Float[Tensor, "batch kv_head prefix d_head"], own: Float[Tensor, "copies head pos d_head"]
) -> Float[Tensor, "copies head whole d_head"]:
    """The past, for each copy of the examples and each reader of its heads, and what follows."""
    past = past.repeat_interleave(own.shape[1] // past.shape[1], dim=1)
    return torch.cat([past.repeat(len(own) // len(past), 1, 1, 1), own], dim=-2)


def with_cache(cache: DynamicCache, accepted: Container[str]) -> dict[str, object]:
    """What Hugging Face's forward is given so that its attention uses a cache.

    Args:
        cache: Which.
        accepted: Names of the forward's arguments; before transformers 5.24 it had another one.
    """
    return {"cache" if "cache" in accepted else "past_key_values": cache, "use_cache": True}


def behind(
    prefix: Prefix, tokens: Int[Tensor, "copies pos"], accepted: Container[str]
) -> dict[str, object]:
    """What Hugging Face's forward is given so that it goes on behind a prefix.

    Only what stands in front of an example is hidden: what is padded behind it is seen by nothing
    real, and a window that holds padding alone would give NaN.

    Args:
        prefix: Of the run's examples; of several copies of them, one after the other, too.
        tokens: What follows.
        accepted: Names of the forward's arguments; without `position_ids` it counts the mask.
    """
    lengths = prefix.lengths.repeat(len(tokens) // len(prefix.lengths))[:, None]
    width = prefix.keys_values.shape[-2]
    before = torch.arange(width, device=tokens.device) >= width - lengths
    mask = torch.cat([before, torch.ones_like(tokens, dtype=torch.bool)], dim=1)
    call = with_cache(Past(prefix), accepted)
    call["attention_mask"] = None if bool(mask.all()) else mask.long()
    if "position_ids" in accepted:
        call["position_ids"] = lengths + torch.arange(tokens.shape[1], device=tokens.device)
    return call
