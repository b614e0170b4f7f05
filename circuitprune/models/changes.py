"""What takes a module's place while a run lasts, and the forms in which modules return things."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Change = tuple[object, str, object]
"""(module, attribute, replacement), such as a module's `forward` while a run lasts."""
Forward = Callable[..., Tensor]
"""What stands in for the `forward` of a module that returns one tensor."""
Output = Tensor | tuple[Tensor | None, ...]
"""What an attention or an MLP of Hugging Face returns: its output, in some with more behind it."""
Branch = Callable[..., Output]
"""What stands in for the `forward` of an attention, an MLP or a whole layer."""


def output_of(result: Output) -> Tensor:
    """The output in what a branch returned."""
    if isinstance(result, Tensor):
        return result
    output = result[0]
    assert output is not None
    return output


def with_output(result: Output, output: Tensor) -> Output:
    """What a branch returned, with another output in it."""
    return output if isinstance(result, Tensor) else (output, *result[1:])


def counted(branch: nn.Module, found: dict[nn.Module, int]) -> Branch:
    """A branch's forward that notes how many things it returns behind its output, if a tuple."""
    own: Branch = branch.forward

    def forward(*args: object, **kwargs: object) -> Output:
        result = own(*args, **kwargs)
        if isinstance(result, tuple):
            found[branch] = len(result) - 1
        return result

    return forward


def narrow(forward: Forward, last: Tensor | None) -> Forward:
    """A final norm that computes only position `last` and returns it at every position.

    The repetition is a stride-0 view: HF's own `logits_to_keep=1` then unembeds one position.
    """

    def final_norm(hidden: Tensor) -> Tensor:
        if last is None:
            return forward(hidden)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return forward(hidden[rows, last]).unsqueeze(1).expand_as(hidden)

    return final_norm
