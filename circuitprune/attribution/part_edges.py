"""Edges between parts: by how much one part moves the metric through another, directly."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches, require_steps
from circuitprune.attribution.parts import difference, of_parts
from circuitprune.attribution.scores import Top
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.data.pairs import Batch
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.references import References
from circuitprune.engine.sites import Edit
from circuitprune.errors import GraphError
from circuitprune.metrics import Metric

LOGITS = "logits"


@dataclass(frozen=True, eq=False)
class PartEdges:
    """Direct effects of all parts on some, and on the logits.

    Args:
        graph: Its edges are the parts.
        into: Positions of the parts that are moved, in the graph's order.
        values: In the metric's unit, by part moved (the logits last) and by part that moves it; 0
            where none lies before the other. Negative helps.
    """

    graph: PartGraph
    into: tuple[int, ...]
    values: Float[Tensor, "reader part"]

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of the rows."""
        return (*(self.graph.edges[part] for part in self.into), LOGITS)

    def stronger(self, threshold: float) -> Top:
        """All edges of at least so large a magnitude, strongest first, named `m0.f3->m2.f17`."""
        rows, parts = (self.values.abs() >= threshold).nonzero().unbind(1)
        order = self.values[rows, parts].abs().argsort(descending=True, stable=True).tolist()
        found = [(int(rows[i]), int(parts[i])) for i in order]
        names, readers = self.graph.edges, self.readers
        return Top(tuple((f"{names[p]}->{readers[r]}", float(self.values[r, p])) for r, p in found))


def part_edges(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    into: str | Sequence[str | int],
    steps: int = 10,
) -> PartEdges:
    """How much each part moves the metric through each of some parts, on no other way.

    For part i of an earlier place and j of a later one,

        w[i -> j] = sum over positions of <ablated_i - clean_i, d/d part_i  sum_t g_j(t) part_j(t)>

    where `g_j` is the gradient of the metric at part j, the mean over `steps` runs in which j's
    place alone moves from clean to ablated (left sum), and every place between counts as given, so
    that what i writes reaches j through the residual stream alone. Into the logits it is the
    metric's own gradient. With one step the edges out of a part, over *all* parts that it reaches
    and the logits, sum to its `eap`: this is the chain rule.

    Args:
        references: Of a model with gates on parts.
        batches: Pairs; the result is a mean over them.
        metric: Per-example worth of answer-position logits.
        into: Names or positions of the parts to look into, such as those of the largest effect, or
            one name.
        steps: Runs for each place that they are of; 1 takes the gradient of the clean run.

    Raises:
        GraphError: no such part.
        ConfigError: no steps.

    Source: the edges of Marks et al. 2024, "Sparse Feature Circuits" (arXiv 2403.19647), section 3
    and appendix A, positions summed, or those of a span where gates stand at spans.
    """
    require_steps(steps, "part_edges")
    gated = of_parts(references)
    graph = gated.graph
    assert isinstance(graph, PartGraph)
    readers = _positions(graph, into)
    score = partial(_edges, references, metric, readers, steps)
    flat = mean_over_batches(references.rests(batches), score)
    return PartEdges(graph, readers, flat.view(len(readers) + 1, graph.n_edges).cpu())


def _positions(graph: PartGraph, into: str | Sequence[str | int]) -> tuple[int, ...]:
    names = [into] if isinstance(into, str) else into
    if not isinstance(names, Iterable):
        raise GraphError(f"parts to look into are names, such as {graph.edges[-1]!r}, got {into!r}")
    found = [graph.edge_index(one) if isinstance(one, str) else one for one in names]
    for one in found:
        if not isinstance(one, Integral) or not 0 <= one < graph.n_edges:
            raise GraphError(f"no part at position {one!r:.80} of {graph.describe()}")
    return tuple(sorted(set(found)))


def _edges(
    references: References, metric: Metric, readers: tuple[int, ...], steps: int, batch: Batch
) -> Float[Tensor, " _"]:
    """All rows, one behind the other, summed over a batch."""
    gated, change = of_parts(references), difference(references, batch)
    places = {part: gated.place(part)[0] for part in readers}
    slopes = _slopes(gated, batch, metric, change, sorted(set(places.values())), steps)
    gates = torch.ones(gated.graph.n_edges, device=gated.device, dtype=gated.dtype)
    laid = gated.laid(gates.requires_grad_().unsqueeze(0), batch.spans)
    seen: dict[int, Tensor] = {}

    def given(number: int) -> Edit:
        """What passes this place is looked at, and passes on as given, under the gates."""
        site, own = gated.sites[number], laid(number)

        def moved(now: Tensor) -> Tensor:
            seen[number] = now
            return site.moved(now.detach(), own, change[..., gated.columns[number]])

        return moved

    with torch.enable_grad():
        worth = metric(_run(gated, batch, given), batch).sum()
        through = [
            (_part(gated, part, seen[number], batch.spans) * slopes[number]).sum()
            for part, number in places.items()
        ]
        rows = [_gradient(one, gates) for one in (*through, worth)]
    return -torch.cat(rows)


def _part(gated: GatedParts, part: int, now: Tensor, dealt: Tensor | None) -> Tensor:
    """One part of what passes its site, as it is added there: its number along its direction.

    At the tokens where its gate acts; 0 at others.
    """
    number, _ = gated.place(part)
    gates = torch.ones(2, gated.graph.n_edges, device=now.device, dtype=now.dtype)
    gates[1, part] = 0
    open_, but_one = (gated.laid(row.unsqueeze(0), dealt)(number) for row in gates)
    site, nothing = gated.sites[number], torch.zeros_like(now)
    parts = site.parts(now)
    return site.moved(nothing, but_one, parts) - site.moved(nothing, open_, parts)


def _gradient(value: Tensor, gates: Tensor) -> Tensor:
    """Of what may not depend on any gate, as in front of the first place."""
    if not value.requires_grad:
        return torch.zeros_like(gates)
    (found,) = torch.autograd.grad(value, gates, retain_graph=True, allow_unused=True)
    return torch.zeros_like(gates) if found is None else found


def _slopes(
    gated: GatedParts,
    batch: Batch,
    metric: Metric,
    change: Tensor,
    places: Sequence[int],
    steps: int,
) -> dict[int, Tensor]:
    """Gradient of the metric at each place, the mean while it alone moves from clean to ablated."""
    slopes: dict[int, Tensor] = {}
    for number in places:
        total = torch.zeros(())
        for k in range(steps):
            total = total + _slope(gated, batch, metric, change, number, k / steps)
        slopes[number] = total / steps
    return slopes


def _slope(
    gated: GatedParts, batch: Batch, metric: Metric, change: Tensor, number: int, share: float
) -> Tensor:
    """Gradient of the metric at one place that is moved by a share of its change."""
    leaf = torch.empty(0)

    def at(other: int) -> Edit:
        site = gated.sites[other]

        def same(now: Tensor) -> Tensor:
            """All parts open: an error without a gate, which is ablated always, is so here too."""
            open_ = torch.ones(1, 1, site.n, device=now.device, dtype=now.dtype)
            return site.moved(now, open_, change[..., gated.columns[other]])

        def moved(now: Tensor) -> Tensor:
            nonlocal leaf
            open_ = torch.full((1, 1, site.n), 1 - share, device=now.device, dtype=now.dtype)
            leaf = site.moved(now.detach(), open_, change[..., gated.columns[number]])
            leaf = leaf.detach().requires_grad_()
            return leaf

        return moved if other == number else same

    with torch.enable_grad():
        value = metric(_run(gated, batch, at), batch).sum()
        (slope,) = torch.autograd.grad(value, leaf)
    return slope


def _run(gated: GatedParts, batch: Batch, edit: Callable[[int], Edit]) -> Tensor:
    """Answer-position logits of the clean prompts with an edit at each place."""
    return gated.edited_run(edit, batch.clean_prompts)
