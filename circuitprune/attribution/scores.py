"""Scores as an object to hold: what they are of, by which method, in which metric."""

import html
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.data.checks import whole_number
from circuitprune.errors import GraphError
from circuitprune.files.text import counted


@dataclass(frozen=True)
class Top:
    """The edges of largest magnitude with their scores, which show themselves as a table."""

    rows: tuple[tuple[str, float], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        width = max((len(edge) for edge, _ in self.rows), default=0)
        return "\n".join(f"{edge:{width}}  {score:+.4g}" for edge, score in self.rows)

    def _repr_html_(self) -> str:
        cells = (f"<td>{html.escape(edge)}</td><td>{s:+.4g}</td>" for edge, s in self.rows)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<table><tr><th>edge</th><th>score</th></tr>{body}</table>"


@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """What a method gives every edge of a graph.

    Args:
        graph: What the edges are edges of.
        values: In the metric's unit; NaN: not scored.
        method: A name of `METHODS`, or of your own method.
        metric: What was attributed, such as `logit_diff`; `none` if the method asks no metric.
        signed: Negative: the edge helps. Else magnitudes, larger is more important.

    Raises:
        GraphError: not one value per edge.

    Example:
        >>> import torch
        >>> from circuitprune.attribution import Scores
        >>> from circuitprune.circuits.graph import Graph
        >>> scores = Scores(Graph(1, 1, 1), torch.arange(8.0) - 6, "eap", "logit_diff")
        >>> scores
        Scores(8 edges by eap of logit_diff, signed)
        >>> scores.top(2)
        input->a0.h0<q>  -6
        input->a0.h0<k>  -5
    """

    graph: Graph
    values: Float[Tensor, " edge"]
    method: str
    metric: str
    signed: bool = True

    def __post_init__(self) -> None:
        if self.values.shape != (self.graph.n_edges,):
            raise GraphError(
                f"scores have shape {tuple(self.values.shape)}, expected ({self.graph.n_edges},) "
                f"for {self.graph.describe()}"
            )

    def __repr__(self) -> str:
        known, kind = int((~self.values.isnan()).sum()), "signed" if self.signed else "magnitudes"
        metric = "" if self.metric == "none" else f" of {self.metric}"
        return f"Scores({counted(known, self.graph.unit)} by {self.method}{metric}, {kind})"

    @property
    def ranking(self) -> Float[Tensor, " edge"]:
        """What circuits are cut from, higher first: the magnitudes; NaN is never kept."""
        return self.values.abs()

    def top(self, n: int = 10) -> Top:
        """The `n` edges of largest magnitude, largest first; edges without a score are left out.

        Raises:
            ConfigError: `n` is no whole number from 0 on.
        """
        n = whole_number(n, "n", 0, 10**9)
        order = self.ranking.nan_to_num(-1).argsort(descending=True, stable=True)
        known = [edge for edge in order[:n].tolist() if not self.values[edge].isnan()]
        return Top(tuple((self.graph.edge_name(edge), self.values[edge].item()) for edge in known))
