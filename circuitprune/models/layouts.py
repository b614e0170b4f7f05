"""Where queries, keys and values lie in the output of a projection that makes all three."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

Fused = Literal["no", "blocks", "per_group", "shards"]
"""How they are fused: not at all; `q|k|v`; (queries, key, value) of each KV head; CodeGen's."""


@dataclass(frozen=True)
class Layout:
    """Groups of heads one after the other; in each its queries, keys and values, in some order."""

    n_groups: int
    order: tuple[int, int, int]
    """Of q (0), k (1) and v (2) in a group."""
    sizes: tuple[int, int, int]
    """Queries, keys and values in a group."""
    d_head: int

    def split(
        self, columns: Shaped[Tensor, "*any width"]
    ) -> tuple[Shaped[Tensor, "*any _ d_head"], ...]:
        """The queries, keys and values of a projection's columns, by head; views where they can."""
        grouped = columns.unflatten(-1, (self.n_groups, -1, self.d_head))
        found = grouped.split([self.sizes[port] for port in self.order], dim=-2)
        by_port = dict(zip(self.order, found, strict=True))
        return tuple(by_port[port].flatten(-3, -2) for port in range(3))

    def join(
        self, parts: tuple[Shaped[Tensor, "*any _ d_head"], ...]
    ) -> Shaped[Tensor, "*any width"]:
        """Undoes `split`."""
        grouped = [parts[port].unflatten(-2, (self.n_groups, -1)) for port in self.order]
        return torch.cat(grouped, dim=-2).flatten(-3)


def layout(fused: Fused, n_heads: int, n_kv: int, d_head: int) -> Layout:
    """The layout of a fused projection of so many query and KV heads."""
    n_groups = {"blocks": 1, "per_group": n_kv, "shards": 4}[fused]
    order = (0, 2, 1) if fused == "shards" else (0, 1, 2)  # CodeGen: values before keys
    return Layout(
        n_groups, order, (n_heads // n_groups, n_kv // n_groups, n_kv // n_groups), d_head
    )
