"""What each layer's attention is called with beside its input: masks, rotary angles and others."""

from collections.abc import Callable
from typing import Never

from torch import Tensor

from circuitprune.data.batches import Prompts
from circuitprune.models.changes import Branch, Change, Output
from circuitprune.models.ports import Ports

Call = tuple[tuple[object, ...], dict[str, object]]
"""Positional arguments behind the input, and the others."""
KEPT = 3
"""Sizes of a stack whose calls are kept; passes alternate between a full stack and a rest."""


class _ReachedError(Exception):
    """The attention of a layer was called: no more of the layer needs to run."""


class Calls:
    """The calls of a model on a stack of copies of some prompts, asked of Hugging Face itself.

    Which argument has a row per example, per example and head, or none, is the family's affair, so
    a run with everything left out but the calls is made once for each size of the stack.

    Args:
        ports: Of the model.
        prompts: What is stacked.
    """

    def __init__(self, ports: Ports, prompts: Prompts) -> None:
        self.ports, self.prompts = ports, prompts
        self._by_size: dict[int, list[Call]] = {}

    def of(self, layer: int, n: int) -> Call:
        """What the attention of a layer gets when n copies are stacked."""
        if n not in self._by_size:
            while len(self._by_size) >= KEPT:
                del self._by_size[next(iter(self._by_size))]
            self._by_size[n] = self._ask(n)
        return self._by_size[n][layer]

    def _ask(self, n: int) -> list[Call]:
        calls: list[Call] = []

        def attention(*args: object, **kwargs: object) -> Never:
            others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            calls.append((args if "hidden_states" in kwargs else args[1:], others))
            raise _ReachedError

        def norm(hidden: Tensor) -> Tensor:
            return hidden

        changes: list[Change] = []
        for block, modules in zip(self.ports.blocks, self.ports.layers, strict=True):
            changes.append((modules.attention, "forward", attention))
            changes.append((modules.attention_norm, "forward", norm))
            changes.append((block, "forward", self._until_attention(block.forward)))
        with self.ports.intercept(changes):
            self.ports.run(*self.prompts.repeat(n))
        return calls

    def _until_attention(self, forward: Callable[..., object]) -> Branch:
        def block(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            try:
                forward(hidden, *args, **kwargs)
            except _ReachedError:
                return self.ports.pass_over(hidden)
            raise AssertionError("a layer ran without its attention")

        return block
