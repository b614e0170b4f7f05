"""A circuit polished by exact runs: edges are exchanged as long as the KL on the pairs falls.

Whatever found a circuit looked at edges by gradients, or one at a time. Here a circuit of at most n
edges is changed by four moves, each decided by the KL of the circuits themselves:

- *add*: an edge between nodes of the circuit, or two edges by which a node joins it;
- *remove*: an edge, with all that then lies on no path;
- *exchange*: k edges are added and as many removed. k starts large and is halved when an exchange
  of k does not help, down to single edges, each of which is tried with each removal;
- *replace*: where no single edge helps, a node goes with all its edges and one comes by as many at
  most. A node of three edges in the place of another is a circuit that single exchanges reach only
  through worse ones.

What is worth trying is told by the slopes of the KL in the gates, so the cost does not grow with
the edges of the model: of each kind the `tries` most promising are run. With as many tries as the
model has edges nothing is left out, and the circuit that the search ends with cannot be improved
by any addition, removal or exchange of one edge, nor by a node in the place of another with the
edges that the slopes choose for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from circuitprune.circuits.reachability import joinable_edges, live_edges
from circuitprune.engine.progress import Progress, silent
from circuitprune.patching.circuit_kl import CircuitKL
from circuitprune.patching.joining import Edges, Joining, Mask, Slopes

FIRST_EXCHANGE = 0.25
"""Edges in the first exchange, as a share of the circuit's."""
NODES = 0.25
"""Nodes that are tried to join the circuit, that leave it and that take the place of each, as a
share of `tries`."""
EXCHANGED = 0.25
"""Additions that are tried with each removal, as a share of `tries`."""


class Refinement:
    """The search for one circuit.

    Args:
        kl: Of circuits on the training pairs.
        n_edges: Most edges of the circuit.
        tries: Of each kind of change, how many are run exactly in a round.
        least_gain: Share of the KL by which a change must lower it.
    """

    def __init__(self, kl: CircuitKL, n_edges: int, tries: int, least_gain: float) -> None:
        self.kl, self.graph = kl, kl.graph
        self.n_edges, self.tries, self.least_gain = n_edges, tries, least_gain
        self.joining = Joining(self.graph)

    def better(self, mask: Mask, kl: float, size: int) -> tuple[Mask, float] | None:
        """A circuit with a lower KL, and its KL by a run of its own, by exchanging `size` edges.

        None if none of those tried has one.
        """
        slopes = self.kl.slopes(mask)
        for changed in self._proposals(mask, slopes, size):
            if bool((changed != mask).any()):
                now = self.kl.of(changed)
                if now < kl * (1 - self.least_gain):
                    return changed, now
        return None

    # ---------------------------------------------------------------- proposals

    def _proposals(self, mask: Mask, slopes: Slopes, size: int) -> Iterator[Mask]:
        """Circuits of at most `n_edges` edges to try, the most promising first."""
        additions = self._additions(mask, slopes, size)
        if size > 1:
            chosen = mask.clone()
            for edges in additions:
                if int(chosen.sum()) + len(edges) > int(mask.sum()) + size:
                    break
                chosen[edges] = True
            yield self.contracted(chosen, self.n_edges)
            return
        if mask.any():
            yield self._without_least(mask, slopes, 1)
        for edges in additions[: self._share(EXCHANGED)]:
            yield self.contracted(_with(mask, edges), self.n_edges, slopes)
        yield from self._with_a_node_replaced(mask, slopes)

    def _share(self, share: float) -> int:
        return max(1, int(share * self.tries))

    def _additions(self, mask: Mask, slopes: Slopes, size: int) -> list[Edges]:
        """Edges, and pairs of edges that make a node join, in the order of the KL with them.

        More than `tries` at once go by their slopes alone.
        """
        ready = (joinable_edges(self.graph, mask) & ~mask).nonzero().flatten()
        ready = ready[slopes[ready].argsort(stable=True)]
        if size > self.tries:
            return list(ready[:size].unsqueeze(1))
        single = ready[: self.tries]
        found = list(zip(self.kl.changed(mask, single).tolist(), single.unsqueeze(1), strict=True))
        joining = self.joining.outside(mask, slopes)[: self._share(NODES)]
        found += zip(
            self.kl.each(_with(mask, one) for one in joining).tolist(), joining, strict=True
        )
        return [edges for _, edges in sorted(found, key=lambda one: one[0])]

    # ---------------------------------------------------------------- removals

    def contracted(self, mask: Mask, n_edges: int, slopes: Slopes | None = None) -> Mask:
        """The circuit cut down to at most so many live edges, those that are missed least first.

        Half of what is too much goes at a time, and is then judged anew.
        """
        mask = live_edges(self.graph, mask)
        while (surplus := int(mask.sum()) - n_edges) > 0:
            if slopes is None:
                slopes = self.kl.slopes(mask)
            mask, slopes = self._without_least(mask, slopes, max(1, surplus // 2)), None
        return mask

    def _without_least(self, mask: Mask, slopes: Slopes, n: int) -> Mask:
        """The circuit without the n edges that are missed least, and what then is on no path."""
        kept = mask.nonzero().flatten()
        kept = kept[slopes[kept].argsort(descending=True, stable=True)]
        if n <= self.tries:
            kept = kept[: self.tries]
            kept = kept[self.kl.changed(mask, kept).argsort(stable=True)]
        smaller = mask.clone()
        smaller[kept[:n]] = False
        return live_edges(self.graph, smaller)

    # ---------------------------------------------------------------- nodes

    def _with_a_node_replaced(self, mask: Mask, slopes: Slopes) -> Iterator[Mask]:
        """The best circuit in which one node has gone with its edges and one has come, if any.

        Of the nodes that are missed least, `NODES` of `tries`, each place is offered to as many
        nodes that the slopes without it promise most of: `tries` exact runs to see who is missed,
        then at most `(NODES * tries) ** 2`.
        """
        share, changed = self._share(NODES), list[Mask]()
        for rest in self._without_a_node(mask, slopes)[:share]:
            free = self.n_edges - int(rest.sum())
            for edges in self.joining.anywhere(rest, self.kl.slopes(rest), free)[:share]:
                changed.append(live_edges(self.graph, _with(rest, edges)))
        if changed:
            yield changed[int(self.kl.each(changed).argmin())]

    def _without_a_node(self, mask: Mask, slopes: Slopes) -> list[Mask]:
        """The circuit without each node and what then is on no path, the least missed node first.

        Only the `tries` nodes whose edges have the highest slopes in sum.
        """
        writers = self.graph.edge_writer[mask]
        sums = torch.zeros(self.graph.n_writers, dtype=torch.float64)
        sums.index_add_(0, writers, slopes[mask])
        nodes = writers.unique()
        nodes = nodes[sums[nodes].argsort(descending=True, stable=True)][: self.tries]
        rests = [live_edges(self.graph, mask & (self.graph.edge_writer != node)) for node in nodes]
        return [rests[i] for i in self.kl.each(rests).argsort(stable=True)]


def _with(mask: Mask, edges: Edges) -> Mask:
    """A circuit and some edges more."""
    larger = mask.clone()
    larger[edges] = True
    return larger


# ---------------------------------------------------------------- the search


@dataclass(frozen=True)
class Round:
    """A circuit that the search passed through."""

    n_edges: int
    """Edges that it keeps."""
    exchanged: int
    """Edges that were to be exchanged at once, 1 also where a node was; 0 at the start."""
    kl: float
    """On the training pairs, by a run of its own; in nats."""
    validation_kl: float | None
    """On the validation pairs; None without such pairs."""


@dataclass(frozen=True)
class Refined:
    """Where the search for one circuit stands, and all that going on needs."""

    edges: tuple[int, ...]
    """Of the last circuit, by their positions in the flat order."""
    exchange: int
    """Edges to be exchanged at once in the next round; 0: nothing that is tried helps."""
    best: tuple[int, ...]
    """Of the circuit with the lowest KL on the validation pairs; without such, of the last one."""
    rounds: tuple[Round, ...]
    """The circuit at the start, then each that was accepted."""

    def judged(self, number: int) -> float:
        """What the circuit of a round is chosen by."""
        found = self.rounds[number]
        return found.kl if found.validation_kl is None else found.validation_kl


def refine(
    search: Refinement,
    start: Mask,
    validation: CircuitKL | None = None,
    most_rounds: int = 100,
    state: Refined | None = None,
    on_round: Callable[[Refined], None] | None = None,
    progress: Progress = silent,
) -> Refined:
    """Exchange edges of a circuit as long as its KL on the training pairs falls.

    Args:
        search: What to try, and on which pairs.
        start: The circuit to begin with.
        validation: KL on pairs that decide which of the circuits passed through is taken.
        most_rounds: Changes accepted at most.
        state: Where to go on; None begins with `start`.
        on_round: Called with the state after each round, to save it or to stop by raising.
        progress: Told the rounds, of `most_rounds`.
    """
    if state is None:
        start = live_edges(search.graph, start)
        state = _begun(search, start, validation)
    while state.exchange and len(state.rounds) <= most_rounds:
        state = _next(search, state, validation)
        if on_round is not None:
            on_round(state)
        progress(len(state.rounds) - 1, most_rounds)
    progress(most_rounds, most_rounds)
    return state


def _begun(search: Refinement, start: Mask, validation: CircuitKL | None) -> Refined:
    edges = tuple(start.nonzero().flatten().tolist())
    exchange = max(1, int(FIRST_EXCHANGE * search.n_edges))
    first = Round(len(edges), 0, search.kl.of(start), _of(validation, start))
    return Refined(edges, exchange, edges, (first,))


def _next(search: Refinement, state: Refined, validation: CircuitKL | None) -> Refined:
    """The state after one more round: a better circuit, or fewer edges to exchange."""
    mask = search.graph.no_edges()
    mask[list(state.edges)] = True
    found = search.better(mask, state.rounds[-1].kl, state.exchange)
    if found is None:
        return replace(state, exchange=state.exchange // 2)
    mask, kl = found
    edges = tuple(mask.nonzero().flatten().tolist())
    rounds = (*state.rounds, Round(len(edges), state.exchange, kl, _of(validation, mask)))
    state = replace(state, edges=edges, rounds=rounds)
    lowest = min(range(len(rounds)), key=state.judged)
    return replace(state, best=edges) if lowest == len(rounds) - 1 else state


def _of(validation: CircuitKL | None, mask: Mask) -> float | None:
    return None if validation is None else validation.of(mask)
