"""Features of dictionaries as parts: what passes a site is features, their directions, an error.

`x = sum_j f_j d_j + b_dec + error` is exact whatever the dictionary's quality: gates add what a
closed feature would be instead, `(1 - gate_j) (f'_j - f_j) d_j`, to the model's own x. So with all
gates at 1 nothing is added, and gradients pass a site as if no dictionary stood there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitprune.circuits.part_graph import Cut, PartGraph, part_graph
from circuitprune.engine.sites import Side, Site, whole_sites
from circuitprune.errors import ModelError
from circuitprune.files.text import counted
from circuitprune.models.dictionary import Dictionary
from circuitprune.models.ports import Ports

Errors = Literal["node", "clean", "corrupt"]
"""What a dictionary's error does: has a gate of its own, stays as it is, or is always ablated."""


@dataclass(frozen=True, eq=False)
class FeatureSite:
    """An activation whose parts are a dictionary's features and, with a gate or not, the error."""

    module: nn.Module
    side: Side
    dictionary: Dictionary
    errors: Errors

    @property
    def n(self) -> int:
        """Features, and the error where it has a gate."""
        return self.dictionary.n_features + (self.errors == "node")

    @property
    def width(self) -> int:
        """Numbers that say all features, and the error."""
        return self.dictionary.n_features + self.dictionary.d_model

    def parts(self, now: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos width"]:
        """Features, and behind them the error."""
        features = self.dictionary.encode(now)
        return torch.cat([features, now - self.dictionary.decode(features)], dim=-1)

    def moved(
        self,
        now: Float[Tensor, "batch pos d_model"],
        gates: Float[Tensor, "#batch #pos part"],
        change: Float[Tensor, "#batch pos width"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """`now` with the changes of closed features along their directions, and of the error."""
        n = self.dictionary.n_features
        closed = 1 - gates
        moved = now + (closed[..., :n] * change[..., :n]) @ self.dictionary.w_dec
        if self.errors == "clean":
            return moved
        left = change[..., n:]
        return moved + (left if self.errors == "corrupt" else closed[..., n:] * left)


def places_of(ports: Ports) -> dict[str, tuple[nn.Module, Side]]:
    """Where dictionaries can stand, by name: whose input or output it is."""
    places: dict[str, tuple[nn.Module, Side]] = {"input": (ports.first_layer, "input")}
    for layer, modules in enumerate(ports.layers):
        mlp = modules.mlp if modules.mlp_post_norm is None else modules.mlp_post_norm
        places[f"a{layer}"] = (modules.attention_post_norm or modules.output, "output")
        places[f"m{layer}"] = (mlp, "output")
        places[f"resid{layer}"] = (ports.blocks[layer], "output")
    return places


def features(
    ports: Ports, dictionaries: Sequence[Dictionary], errors: Errors = "node"
) -> tuple[PartGraph, list[Site]]:
    """A gate for each feature of some dictionaries, for their errors, and for each other node.

    A dictionary at `m3` stands for that MLP, one at `a3` for that layer's heads, one at `input` for
    the embeddings; one at `resid3` cuts the stream behind the layer, beside what is written to it.

    Raises:
        ModelError: no dictionaries, two at one place, or one that does not fit the model.
    """
    graph, by_site = ports.graph, {one.site: one for one in dictionaries}
    if not dictionaries or len(by_site) < len(dictionaries):
        raise ModelError(
            "level=feature needs dictionaries, one at each place: features.dictionaries"
        )
    like = torch.zeros((), dtype=ports.model.dtype, device=ports.model.device)
    places, cuts, sites = places_of(ports), list[Cut](), list[Site]()

    def take(name: str, writer: int) -> bool:
        """The dictionary of that name, if there is one."""
        found = by_site.pop(name, None)
        if found is None:
            return False
        if found.d_model != graph.d_model:
            raise ModelError(
                f"the dictionary of {name} is of width {found.d_model:,}, and the model's stream "
                f"of {graph.d_model:,}: it is another model's"
            )
        site = FeatureSite(*places[name], found.to(like), errors)
        sites.append(site)
        cuts.append(Cut(name, writer, "feature", site.n, errors == "node"))
        return True

    entry, *layers = whole_sites(ports)
    if not take("input", 0):
        sites += entry
        cuts.append(Cut("input", 0))
    for layer, (heads, mlp) in enumerate(layers):
        writer = graph.mlp_writer(layer)
        if not take(f"a{layer}", graph.head_writer(layer, 0)):
            sites.append(heads)
            cuts += [Cut(graph.writers[w], w) for w in range(*graph.heads(layer).indices(writer))]
        if not take(f"m{layer}", writer):
            sites.append(mlp)
            cuts.append(Cut(f"m{layer}", writer))
        take(f"resid{layer}", writer)
    if by_site:
        raise ModelError(
            f"no place {', '.join(by_site)} in a model of {counted(graph.n_layers, 'layer')} for "
            "a dictionary"
        )
    return part_graph(graph, "feature", tuple(cuts)), sites
