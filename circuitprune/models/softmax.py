"""Hugging Face's eager attention, and a rule in the place of its softmax while a run lasts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from circuitprune.errors import ModelError
from circuitprune.files.text import counted
from circuitprune.models.changes import Branch, Change, Output
from circuitprune.models.ports import Ports

Softmax = Callable[[Tensor], Tensor]
"""Scores to pattern, as the model would have it."""
Rule = Callable[[int, Softmax, Tensor], Tensor]
"""`(layer, softmax, scores) -> pattern`; scores are `[batch, head, query, key]`, capped and masked,
with columns for sinks behind the keys in families that have them."""

_SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """The only attention of Hugging Face that has its weights as a tensor; restored afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def through_softmax(ports: Ports, rule: Rule) -> Iterator[None]:
    """Inside, each layer's attention is eager, and where it calls softmax it gets what a rule says.

    A ModelError is raised by a run in which an attention calls it not once.
    """
    changes: list[Change] = [
        (layer.attention, "forward", _attending(number, layer.attention.forward, rule))
        for number, layer in enumerate(ports.layers)
    ]
    with eager_attention(ports.model), ports.intercept(changes):
        yield


def _attending(layer: int, forward: Branch, rule: Rule) -> Branch:
    def attention(*args: object, **kwargs: object) -> Output:
        with _Intercepted(layer, rule) as mode:
            result = forward(*args, **kwargs)
        if mode.n_calls != 1:
            raise ModelError(
                f"the attention of layer {layer} called softmax {counted(mode.n_calls, 'time')}, "
                "not once, so no rule can stand in for it. Use a method without one, such as eap "
                "or attn_lrp"
            )
        return result

    return attention


class _Intercepted(TorchFunctionMode):
    """Gives a rule the word wherever softmax is called."""

    def __init__(self, layer: int, rule: Rule) -> None:
        super().__init__()
        self.layer, self.rule, self.n_calls = layer, rule, 0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = dict(kwargs or {})
        if func not in _SOFTMAXES:
            return func(*args, **named)
        self.n_calls += 1
        scores, *rest = args if args else (named.pop("input"),)
        assert isinstance(scores, Tensor)
        if isinstance(
            asked := named.get("dtype"), torch.dtype
        ):  # float64 is not rounded on its way
            named["dtype"] = torch.promote_types(asked, scores.dtype)
        return self.rule(self.layer, lambda x: func(x, *rest, **named), scores)  # type: ignore[arg-type]
