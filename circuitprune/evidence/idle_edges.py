"""Is an edge of the circuit idle? Each against edges that were added at random: Shi et al. 2024."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.span_graph import SpanGraph, flow_of
from circuitprune.data.batches import FEW_PAIRS, Batch, few_pairs
from circuitprune.engine.evaluation import Examples, evaluate_each
from circuitprune.evidence.case import Case
from circuitprune.evidence.minimality import MOST_RUNS, drawn, removals
from circuitprune.evidence.statistics import ALPHA, Verdict, holm, share_test, verdict_of
from circuitprune.files.text import counted

Q = 0.9
"""An edge should matter more than this share of random edges: the paper's choice."""
LEAST_PAIRS = 8
"""Edges are judged on no fewer pairs, however many they are."""
AT_ONCE = 16
"""Inflated circuits that are held together."""


@dataclass(frozen=True)
class EdgeTest:
    """One edge of the circuit against the random ones."""

    edge: str
    """Its name."""
    effect: float
    """Mean over pairs of `|metric without it - metric|`, in the metric's unit."""
    statistic: float
    """Share of random effects that it exceeds, in [0, 1]."""
    p: float
    """Of so small a share, in [0, 1]."""
    p_holm: float
    """The same, corrected for the number of edges."""


@dataclass(frozen=True)
class IdleEdges:
    """Which edges of the circuit matter no more than edges that were added at random."""

    n_pairs: int
    """Held-out pairs, few of them."""
    n_inflated: int
    """Random edges that it was compared with."""
    quantile: float
    """Share of random effects that an edge should exceed."""
    n_edges: int
    """Edges of the circuit that were judged: all, or those that `minimality` removes."""
    n_idle: int
    """Of these, for how many it is rejected that they do."""
    idle: tuple[str, ...]
    """Their names."""
    random_effects: tuple[float, ...]
    """Effects of the random edges, in the metric's unit."""
    edges: tuple[EdgeTest, ...]
    """Each of them, in the graph's order."""
    p: float
    """The smallest of all, corrected."""
    verdict: Verdict
    """Whether an edge is idle."""
    sentence: str
    """The same in words."""


@dataclass(frozen=True)
class NoIdleEdges:
    """Why that was not tested."""

    verdict: Verdict
    """`undecided`."""
    edges: tuple[EdgeTest, ...]
    """None."""
    sentence: str
    """The reason."""


def idle_edges(case: Case) -> IdleEdges | NoIdleEdges:
    """Does each edge matter more than most edges that were added to the circuit at random?

    An edge's effect is the mean over pairs of `|metric without it - metric|`. For comparison the
    circuit is inflated by a random path from `input` to `logits`, `n_random` times, and one of the
    added edges, at random, is knocked out again. H0 for an edge: its effect exceeds that of more
    than `Q` of those. The number of them that it exceeds is binomial at the border, and p is the
    chance of so few; Holm's correction for the number of edges. An edge that is rejected is idle.

    The paper averages squares of the change of a score; its paths share no edge with the circuit,
    while these do where the circuit leaves no other way on. Few pairs are used: see `few_pairs`;
    fewer yet where these, times the edges, would be more than `MOST_RUNS`.
    """
    chosen = drawn(case)
    edges = chosen.tolist()
    most = MOST_RUNS // max(1, len(edges))
    batches = few_pairs(case.batches, max(LEAST_PAIRS, min(FEW_PAIRS, most)))
    random = _random_effects(case, batches) if edges else []
    if not random:
        reason = "the circuit keeps no edge" if not edges else "no edge can be added to the circuit"
        return NoIdleEdges("undecided", (), f"Not tested: {reason}.")
    progress = case.watch("removing each edge", "runs")
    found = removals(case.references, case.mask, batches, case.task_metric, progress, chosen)
    effects = found.metric.abs().mean(dim=1).tolist()
    return _judge(case, edges, effects, random, sum(map(len, batches)))


def _judge(
    case: Case, edges: list[int], effects: list[float], random: list[float], n_pairs: int
) -> IdleEdges:
    exceeded = [sum(effect > other for other in random) for effect in effects]
    p_values = [share_test(count, len(random), Q) for count in exceeded]
    corrected = holm(p_values)
    idle = [case.graph.edges[e] for e, p in zip(edges, corrected, strict=True) if p < ALPHA]
    rows = zip(edges, effects, exceeded, p_values, corrected, strict=True)
    worst, least = min(corrected), len(edges) * share_test(0, len(random), Q)
    too_few = " It could not have: there are too few random edges." if least >= ALPHA else ""
    sentence = (
        f"On {counted(n_pairs, 'pair')}, {len(idle)} of {counted(len(edges), 'edge')} matter no "
        f"more than edges added at random: for them it is rejected (Holm-corrected p < {ALPHA:g}) "
        f"that they exceed more than {Q:.0%} of {counted(len(random), 'random edge')}. The "
        f"smallest corrected p is {worst:.3g}; the circuit is minimal by this test if none falls "
        f"below {ALPHA:g}.{too_few}"
    )
    return IdleEdges(
        n_pairs=n_pairs,
        n_inflated=len(random),
        quantile=Q,
        n_edges=len(edges),
        n_idle=len(idle),
        idle=tuple(idle),
        random_effects=tuple(random),
        edges=tuple(
            EdgeTest(case.graph.edges[edge], effect, count / len(random), p, p_holm)
            for edge, effect, count, p, p_holm in rows
        ),
        p=worst,
        verdict=verdict_of(worst, least),
        sentence=sentence,
    )


def _random_effects(case: Case, batches: Sequence[Batch]) -> list[float]:
    """Effects of edges that were added at random, on the inflated circuits: `AT_ONCE` in memory."""
    inflations, effects = _inflations(case), list[float]()
    progress = case.watch("random edges", "edges")
    while some := list(islice(inflations, AT_ONCE)):
        masks: dict[str, Tensor] = {}
        for i, (mask, edge) in enumerate(some):
            masks |= {f"inflated {i}": mask, f"deflated {i}": _without(mask, edge)}
        found = evaluate_each(case.references, masks, batches, case.task_metric)
        effects += [_effect(found, f"inflated {i}", f"deflated {i}") for i in range(len(some))]
        progress(len(effects), case.n_random)
    return effects


def _effect(found: Mapping[str, Examples], before: str, after: str) -> float:
    return (found[after].metric - found[before].metric).abs().mean().item()


def _without(mask: Bool[Tensor, " edge"], edge: int) -> Bool[Tensor, " edge"]:
    mask = mask.clone()
    mask[edge] = False
    return mask


def _inflations(case: Case) -> Iterator[tuple[Bool[Tensor, " edge"], int]]:
    """`n_random` inflated circuits, each with one of the edges that were added."""
    generator = case.generator("minimality")
    for _ in range(case.n_random):
        added = random_path(case.graph, case.mask, generator)
        if len(added):
            inflated = case.mask.clone()
            inflated[added] = True
            yield inflated, _pick(added, generator)


def random_path(
    graph: Graph, mask: Bool[Tensor, " edge"], generator: torch.Generator, tries: int = 100
) -> list[int]:
    """The new edges of a random path from `input` to `logits`, in forward order.

    A random walk: of each node on the way, one of the out-edges that `mask` lacks, all alike
    likely, or one that it has if it lacks none. Walks without a new edge are drawn again; empty if
    there are none to be had. At spans, it goes on at the span where it is, or from a key or value
    at one that sees it. In a graph of parts, a path is one of them.
    """
    if isinstance(graph, PartGraph):
        others = (~mask).nonzero().flatten().tolist()
        return [_pick(others, generator)] if others else []
    spans = graph.edge_span if isinstance(graph, SpanGraph) else torch.zeros_like(graph.edge_reader)
    flow = flow_of(graph)
    for _ in range(tries):
        path, writer, seen_from = [], 0, flow.enters
        while True:
            choices = (graph.edge_writer == writer) & seen_from[spans]
            new = choices & ~mask
            edge = _pick((new if new.any() else choices).nonzero().flatten().tolist(), generator)
            path.append(edge)
            reader, span = int(graph.edge_reader[edge]), int(spans[edge])
            feeds = graph.heads_of_reader(reader)
            if not feeds:
                break
            writer = _pick(list(feeds), generator)
            alone = torch.arange(len(flow.enters)) == span
            seen_from = flow.sees[:, span] if graph.reader_kind[reader] in ("k", "v") else alone
        if added := [edge for edge in path if not mask[edge]]:
            return added
    return []


def _pick(choices: list[int], generator: torch.Generator) -> int:
    return choices[int(torch.randint(len(choices), (), generator=generator))]
