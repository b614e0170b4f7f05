"""Clusters of pairs by their own edge scores: does one circuit describe all of the data?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from circuitprune.attribution import gate_ig, per_example
from circuitprune.circuits.selection import select
from circuitprune.data.batches import Batch, few_pairs
from circuitprune.engine.evaluation import Examples, evaluate_each
from circuitprune.evidence.bootstrap import Bootstrap, Estimate, spell
from circuitprune.evidence.case import Case
from circuitprune.evidence.grouping import centres_of, directions, k_means, silhouette
from circuitprune.files.text import counted, nats
from circuitprune.metrics import kl_divergence

MOST = 4
"""Largest number of clusters that is tried."""
LEAST_PAIRS = 3
"""Smallest mean number of training pairs in a cluster."""
STEPS = 5
"""Points of the path that a pair's scores are integrated along."""
PART = 0.1
"""Share of the common circuit's KL that clusters must save for one circuit not to be enough."""


@dataclass(frozen=True)
class Cluster:
    """Pairs that use the edges alike, and a circuit from them alone."""

    n_train_pairs: int
    """Training pairs in it, which its circuit is found on."""
    n_pairs: int
    """Held-out pairs whose own scores are nearest to it."""
    n_shared: int
    """Edges that its circuit has of the circuit common to all pairs."""
    jaccard: float
    """These over the edges of either, in [0, 1]."""
    own_kl: float | None
    """KL of its circuit on its held-out pairs, in nats; None without any."""
    common_kl: float | None
    """KL of the common circuit on the same pairs."""
    other_kl: float | None
    """KL on them of the best circuit of another cluster."""
    examples: tuple[int, ...]
    """Indices of the held-out pairs in it, most typical first."""


@dataclass(frozen=True)
class Clusters:
    """The section `clusters`."""

    n_pairs: int
    """Held-out pairs, few of them, which KL is on."""
    n_train_pairs: int
    """Training pairs, few of them, which clusters and circuits are found on."""
    n_edges: int
    """Edges that every circuit here may have: those of the circuit under test."""
    silhouettes: dict[str, float]
    """By number of clusters that was tried: how well they are told apart, in [-1, 1]."""
    clusters: tuple[Cluster, ...]
    """With the number that is told apart best."""
    common_kl: Estimate
    """Of one circuit found on all training pairs by the same search, in nats."""
    own_kl: Estimate
    """With each held-out pair run in the circuit of its own cluster."""
    gain: Estimate
    """Common minus own, in nats."""
    one_is_enough: bool
    """Unless the gain is above 0 by its interval, and a tenth of the common circuit's KL."""
    sentence: str
    """The same in words."""


def clusters(case: Case) -> Clusters:
    """Pairs grouped by the direction of their own edge scores, and a circuit for each group.

    A pair's scores are gradients of its KL integrated along gates that open from 0 to 1; groups of
    training pairs (the held-out ones without such) are told apart by k-means on the directions of
    their magnitudes, as many as the silhouette prefers. From each group's mean scores a circuit of
    the size of the one under test is cut, and one from those of all. A held-out pair belongs to
    the group that its own scores are nearest to, so nothing here knows what kind of pair it is.

    Source: after "Data-Driven Circuit Discovery" (arXiv 2605.09129), which also clusters the edge
    scores of single examples; the comparison on held-out pairs with a common circuit is ours.
    """
    train, held_out = few_pairs(case.train_batches or case.batches), few_pairs(case.batches)
    scores = _scores(case, train, "training pairs")
    near = directions(_scores(case, held_out, "held-out pairs"))
    labels, told = _groups(directions(scores), case.generator("clusters"))
    n_groups = int(labels.max()) + 1
    n_edges = int(case.mask.sum())
    masks = {"common": select(case.graph, scores.mean(0), n_edges)}
    for i in range(n_groups):
        masks[str(i)] = select(case.graph, scores[labels == i].mean(0), n_edges)
    found = evaluate_each(
        case.references, masks, held_out, case.task_metric, case.watch("", "runs")
    )
    points = directions(scores)
    cosines = near @ centres_of(points, labels, points[:n_groups]).T
    draw = Bootstrap.draw(len(near), case.n_bootstrap, case.generator("clusters/draws"))
    return _section(case, masks, found, labels, cosines, _indices(held_out), told, draw)


def _section(
    case: Case,
    masks: dict[str, Bool[Tensor, " edge"]],
    found: dict[str, Examples],
    labels: Int[Tensor, " train"],
    cosines: Float64[Tensor, "example cluster"],
    index: Int[Tensor, " example"],
    told: dict[str, float],
    draw: Bootstrap,
) -> Clusters:
    kl = torch.stack([found[str(i)].kl for i in range(cosines.shape[1])], dim=1)
    own = kl.gather(1, cosines.argmax(dim=1, keepdim=True)).squeeze(1)
    common = found["common"].kl
    rows = tuple(
        _cluster(i, masks, int((labels == i).sum()), cosines, index, kl, common)
        for i in range(cosines.shape[1])
    )
    gain, common_kl, own_kl = draw.mean(common - own), draw.mean(common), draw.mean(own)
    enough = not (gain.exceeds(0.0) and gain.value > PART * common_kl.value)
    return Clusters(
        n_pairs=len(index),
        n_train_pairs=len(labels),
        n_edges=int(case.mask.sum()),
        silhouettes=told,
        clusters=rows,
        common_kl=common_kl,
        own_kl=own_kl,
        gain=gain,
        one_is_enough=enough,
        sentence=_sentence(rows, common_kl, own_kl, gain, enough),
    )


def _cluster(
    i: int,
    masks: dict[str, Bool[Tensor, " edge"]],
    n_train_pairs: int,
    cosines: Float64[Tensor, "example cluster"],
    index: Int[Tensor, " example"],
    kl: Float64[Tensor, "example cluster"],
    common: Float64[Tensor, " example"],
) -> Cluster:
    """One cluster, with the held-out pairs that are nearest to it."""
    here = (cosines.argmax(dim=1) == i).nonzero().flatten()
    here = here[cosines[here, i].argsort(descending=True, stable=True)]
    others = [kl[here, j].mean().item() for j in range(kl.shape[1]) if j != i and len(here)]
    n_shared = int((masks["common"] & masks[str(i)]).sum())
    n_either = int((masks["common"] | masks[str(i)]).sum())
    return Cluster(
        n_train_pairs=n_train_pairs,
        n_pairs=len(here),
        n_shared=n_shared,
        jaccard=n_shared / n_either if n_either else 0.0,
        own_kl=_mean(kl[here, i]),
        common_kl=_mean(common[here]),
        other_kl=min(others, default=None),
        examples=tuple(index[here].tolist()),
    )


def _scores(case: Case, batches: Sequence[Batch], what: str) -> Float64[Tensor, "example edge"]:
    """How much each edge lowers each pair's KL along the path, as a magnitude."""
    progress, n_pairs = case.watch(what, "pairs"), sum(map(len, batches))
    rows = list[Tensor]()

    def metric(logits: Tensor, alone: Batch) -> Tensor:
        return -kl_divergence(case.references.full_logits(alone), logits)

    for batch in batches:
        rows.append(per_example(gate_ig, case.references, [batch], metric, STEPS))
        progress(sum(map(len, rows)), n_pairs)
    return torch.cat(rows).double().cpu().abs()


def _groups(
    points: Float64[Tensor, "n edge"], generator: torch.Generator
) -> tuple[Int[Tensor, " n"], dict[str, float]]:
    """The groups of the number that is told apart best, and how well each number is."""
    best, told = torch.zeros(len(points), dtype=torch.long), dict[str, float]()
    for k in range(2, MOST + 1):
        if len(points) < k * LEAST_PAIRS:
            break
        labels = k_means(points, k, generator)
        value = silhouette(points, labels)
        if value > max(told.values(), default=-torch.inf):
            best = labels
        told[str(k)] = value
    return best, told


def _indices(batches: Sequence[Batch]) -> Int[Tensor, " example"]:
    return torch.cat([batch.index.cpu() for batch in batches])


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _sentence(
    rows: Sequence[Cluster], common: Estimate, own: Estimate, gain: Estimate, enough: bool
) -> str:
    if len(rows) < 2:
        return "Too few training pairs to tell clusters apart."
    sizes = ", ".join(f"{row.n_pairs:,}" for row in rows)
    told = (
        f"By their own edge scores the held-out pairs fall into {counted(len(rows), 'cluster')} "
        f"(of {sizes}). A circuit of each cluster's own has KL {spell(own, 3)} nats on them, one "
        f"of the same size common to all {nats(common.value)}; that saves {spell(gain, 3)}. "
    )
    if enough:
        return told + "One circuit describes the data as well as several do."
    return told + (
        "One circuit does not describe the data: the model does it in more than one way, and a "
        "circuit found on all pairs mixes them; find one for each cluster."
    )
