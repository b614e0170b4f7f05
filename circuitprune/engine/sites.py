"""Places in a model whose activations are cut into parts, and the arithmetic of one of them.

Under a gate per part, what passes a site is `now + sum_j (1 - gate_j) * (ablated_j - now_j)`, where
`now_j` is part j in this run: a head's values in front of the output projection, a neuron's
activation in front of the MLP's last linear map, or the whole of what an MLP or the embeddings
write. With all gates at 1 the model's own numbers pass, to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from circuitprune.circuits.part_graph import Cut, PartGraph, part_graph
from circuitprune.errors import ModelError
from circuitprune.models.changes import Branch, Forward, Output, output_of, with_output
from circuitprune.models.ports import Ports

Side = Literal["input", "output"]
Edit = Callable[[Float[Tensor, "batch pos width"]], Float[Tensor, "batch pos width"]]
"""What is done to an activation while a run lasts; may only look at it."""


@runtime_checkable
class Site(Protocol):
    """One place, and how its activation is a sum of parts."""

    @property
    def module(self) -> nn.Module:
        """Whose input or output it is."""
        ...

    @property
    def side(self) -> Side:
        """Which of both."""
        ...

    @property
    def n(self) -> int:
        """Parts that have a gate."""
        ...

    @property
    def width(self) -> int:
        """Numbers at each position that say all parts."""
        ...

    def parts(self, now: Float[Tensor, "batch pos _"]) -> Float[Tensor, "batch pos width"]:
        """All parts of an activation."""
        ...

    def moved(
        self,
        now: Float[Tensor, "batch pos _"],
        gates: Float[Tensor, "#batch #pos part"],
        change: Float[Tensor, "#batch pos width"],
    ) -> Float[Tensor, "batch pos _"]:
        """The activation with `1 - gate` of each part's change added to it.

        Args:
            now: The activation.
            gates: For all examples or for each, at all tokens or at each.
            change: What each part would be instead, minus what it is.
        """
        ...


@dataclass(frozen=True)
class Slices:
    """An activation whose parts are slices of equal width: heads, neurons, or the whole of it."""

    module: nn.Module
    side: Side
    n: int
    width: int

    def parts(self, now: Float[Tensor, "batch pos _"]) -> Float[Tensor, "batch pos width"]:
        """The activation itself."""
        return now

    def moved(
        self,
        now: Float[Tensor, "batch pos _"],
        gates: Float[Tensor, "#batch #pos part"],
        change: Float[Tensor, "#batch pos width"],
    ) -> Float[Tensor, "batch pos _"]:
        """`now + (1 - gates) * change`, a gate for each slice."""
        closed = (1 - gates).unsqueeze(-1)
        moved: Tensor = (change.unflatten(-1, (self.n, -1)) * closed).flatten(-2)
        return now + moved


def whole_sites(ports: Ports) -> list[list[Slices]]:
    """For the input, then each layer's heads and its MLP, where whole nodes pass."""
    graph = ports.graph
    sites = [Slices(ports.first_layer, "input", 1, graph.d_model)]
    for layer in ports.layers:
        mlp = layer.mlp if layer.mlp_post_norm is None else layer.mlp_post_norm
        sites.append(Slices(layer.output, "input", graph.n_heads, graph.n_heads * ports.d_head))
        sites.append(Slices(mlp, "output", 1, graph.d_model))
    return [sites[:1], *(sites[i : i + 2] for i in range(1, len(sites), 2))]


def nodes(ports: Ports) -> tuple[PartGraph, list[Site]]:
    """A gate for each node: the input, heads, MLPs."""
    graph = ports.graph
    cuts = [Cut(name, writer) for writer, name in enumerate(graph.writers)]
    sites: list[Site] = [site for group in whole_sites(ports) for site in group]
    return part_graph(graph, "node", tuple(cuts)), sites


def neurons(ports: Ports) -> tuple[PartGraph, list[Site]]:
    """A gate for each hidden neuron of every MLP, for each head, and for the input.

    Raises:
        ModelError: an MLP whose output is not one linear map of its hidden neurons.
    """
    graph, (entry, *layers) = ports.graph, whole_sites(ports)
    cuts, sites = [Cut("input", 0)], list[Site](entry)
    for number, (heads, _) in enumerate(layers):
        down, writer = ports.layers[number].down, graph.mlp_writer(number)
        if down is None:
            family = ports.model.config.get_text_config().model_type
            raise ModelError(
                f"{type(ports.layers[number].mlp).__name__}, the MLP of layer {number} of family "
                f"{family!r}, has no neurons of its own: it is a mixture of experts, or its family "
                "names no last linear map. Take level=node or level=edge"
            )
        n = in_features(down)
        cuts += [Cut(graph.writers[w], w) for w in range(*graph.heads(number).indices(writer))]
        cuts.append(Cut(f"m{number}", writer, "neuron", n))
        sites += [heads, Slices(down, "input", n, n)]
    return part_graph(graph, "neuron", tuple(cuts)), sites


def in_features(down: nn.Module) -> int:
    """Numbers that a linear map takes at each position, in either of Hugging Face's forms."""
    weight = down.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[1] if isinstance(down, nn.Linear) else weight.shape[0])


def edited(site: Site, forward: Forward | Branch, n_batch: int, edit: Edit) -> Branch:
    """A module's forward with something done to its input or to its output.

    Some families lay examples and positions out flat: they are told apart while it is done.
    """

    def at(hidden: Tensor) -> Tensor:
        if hidden.ndim == 3:
            return edit(hidden)
        return edit(hidden.unflatten(0, (n_batch, -1))).flatten(0, 1)

    def before(hidden: Tensor, *args: object, **kwargs: object) -> Output:
        return forward(at(hidden), *args, **kwargs)

    def behind(*args: object, **kwargs: object) -> Output:
        result = forward(*args, **kwargs)
        return with_output(result, at(output_of(result)))

    return before if site.side == "input" else behind
