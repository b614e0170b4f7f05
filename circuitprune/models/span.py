"""An MLP that Hugging Face has no module for, or whose module adds the residual stream itself."""

from collections.abc import Callable

from torch import Tensor, nn

from circuitprune.models.changes import Branch, Change, output_of


class Span(nn.Module):
    """`second(activation(first(x)))` as one module: runs by itself, and its `forward` can be set.

    Hugging Face calls the three in turn. While `forward` is replaced, what it gives the first goes
    to the replacement, and what that returns is the second's output; see `bridge`.

    Args:
        first, activation, second: The model's own modules.
    """

    def __init__(self, first: nn.Module, activation: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.modules_of_model = (first, activation, second)  # in a tuple: none becomes a submodule
        self.expand, self.activate, self.contract = (
            first.forward,
            activation.forward,
            second.forward,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """The model's own MLP, whatever takes the place of its parts at the moment."""
        output: Tensor = self.contract(self.activate(self.expand(hidden)))
        return output

    def bridge(self, forward: Branch, n_batch: Callable[[], int]) -> list[Change]:
        """Changes of the model's modules that make its three calls one of `forward`.

        Args:
            forward: Takes `[batch, pos, d_model]`.
            n_batch: Examples of the run: some families flatten them with their positions.
        """
        seen: list[Tensor] = []

        def enter(hidden: Tensor) -> Tensor:
            seen.append(hidden)
            return hidden

        def leave(_: Tensor) -> Tensor:
            hidden = seen.pop()
            if hidden.ndim == 3:
                return output_of(forward(hidden))
            return output_of(forward(hidden.unflatten(0, (n_batch(), -1)))).flatten(0, 1)

        first, activation, second = self.modules_of_model
        return [
            (first, "forward", enter),
            (activation, "forward", lambda hidden: hidden),
            (second, "forward", leave),
        ]
