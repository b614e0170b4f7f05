"""What a circuit's file holds, whichever its form."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph


class Parts(NamedTuple):
    """What a circuit is made of, in the order of `Circuit`'s fields."""

    graph: Graph
    mask: Bool[Tensor, " edge"]
    scores: Float[Tensor, " edge"] | None
    provenance: Mapping[str, object]
    ranking: Float[Tensor, " edge"] | None = None
    method: str | None = None

    @property
    def own_ranking(self) -> Float[Tensor, " edge"] | None:
        """The ranking, if the scores do not say it: theirs is their magnitudes."""
        if self.ranking is None or self.scores is None:
            return self.ranking
        same = self.ranking.dtype == self.scores.dtype
        if same and torch.allclose(self.ranking, self.scores.abs(), 0, 0, equal_nan=True):
            return None
        return self.ranking
