"""CPR and CMD: faithfulness integrated over circuit sizes, as the MIB benchmark computes it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import select
from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.evidence.bootstrap import UNDEFINED, Bootstrap, Interval, ratio, spell
from circuitprune.evidence.case import Case
from circuitprune.files.text import counted

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's ten sizes, as fractions of all edges, or of all nodes."""


@dataclass(frozen=True)
class CurvePoint:
    """One circuit of a curve."""

    size: float
    """Asked for, as a fraction of all edges, or of all nodes."""
    n_edges: int
    """Edges that it keeps."""
    faithfulness: Interval
    """Share of the full model's metric recovered: the ratio of means."""


@dataclass(frozen=True)
class Curve:
    """Faithfulness over MIB's sizes, by one order of edges or nodes."""

    cpr: Interval
    """Area under it; higher is better."""
    cmd: Interval
    """Area between it and 1; lower is better, 0 is ideal."""
    points: tuple[CurvePoint, ...]
    """At each of `SIZES`."""
    acc_auc: Interval | None = None
    """Area under accuracy over the logarithm of the size, in [0, 1]; higher is better."""


@dataclass(frozen=True)
class Mib:
    """The section `mib`."""

    n_pairs: int
    """Held-out pairs."""
    n_bootstrap: int
    """Resamples behind each interval."""
    n_edges_total: int
    """Edges of the model, in the run's convention of key and value readers."""
    n_edges_total_ungrouped: int
    """Edges of the model by query head, as MIB counts."""
    signed_scores: bool
    """Whether scores with a sign are there; else one ranking serves for both orders."""
    nodes_left_out: str | None
    """Why there are no curves of nodes; None if there are."""
    cpr: Interval
    """Of edges by signed scores."""
    cmd: Interval
    """Of edges by the magnitude of their scores."""
    curves: Mapping[str, Curve]
    """`edges_signed`, `edges_absolute`, and the same of nodes where they have scores."""
    sentence: str
    """The same in words."""


def cpr(faithfulness: Float64[Tensor, "*any size"]) -> Float64[Tensor, "*any"]:
    """Area under faithfulness over `SIZES`, by trapezoids on the linear axis; higher is better.

    Unbounded: a circuit that leaves out what works against the task has faithfulness above 1. The
    step from size 0.5 to 1 has half of the weight; sizes below 0.001 have none.

    Source: Mueller et al. 2025, "MIB" (arXiv 2504.13151), circuit performance ratio.
    """
    return torch.trapezoid(faithfulness, faithfulness.new_tensor(SIZES))


def cmd(faithfulness: Float64[Tensor, "*any size"]) -> Float64[Tensor, "*any"]:
    """Area of `|1 - faithfulness|` over `SIZES`, by trapezoids; lower is better, 0 is ideal.

    Source: as `cpr`; circuit-model distance.
    """
    return cpr((1 - faithfulness).abs())


def acc_auc(accuracy: Float64[Tensor, "*any size"]) -> Float64[Tensor, "*any"]:
    """Area under accuracy over `ln(size)`, by trapezoids, as a share of the axis; in [0, 1].

    Bounded, and each size ratio counts alike, where half of CPR lies above half of the edges. An
    order that is right only with all edges gets `ln(2) / 2 / ln(1000)` = 0.05.

    Source: the compactness of Arora et al. 2026, "MAttr" (arXiv 2609.25518).
    """
    sizes = accuracy.new_tensor(SIZES).log()
    return torch.trapezoid(accuracy, sizes) / (sizes[-1] - sizes[0])


def edge_circuits(
    graph: Graph, ranking: Float[Tensor, " edge"]
) -> dict[float, Bool[Tensor, " edge"]]:
    """At each size the `int(size * n_edges)` best edges, then without those that dangle.

    No edge at all where that number is 0, as on small graphs.
    """
    return {s: select(graph, ranking, int(s * graph.n_edges), "top_n_raw") for s in SIZES}


def node_circuits(
    graph: Graph, ranking: Float[Tensor, " writer"]
) -> dict[float, Bool[Tensor, " edge"]]:
    """At each size the `int(size * n_writers)` best nodes, all edges among them and to `logits`.

    `input` is ranked among the others, so a circuit without it is empty. Equal scores keep the
    graph's order.
    """
    order = ranking.argsort(descending=True, stable=True)
    circuits = {}
    for size in SIZES:
        kept = torch.zeros(graph.n_writers, dtype=torch.bool)
        kept[order[: int(size * graph.n_writers)]] = True
        circuits[size] = live_edges(graph, kept[graph.edge_writer])
    return circuits


def mib(case: Case) -> Mib:
    """CPR and CMD of the edges, and of the nodes where they have scores of their own.

    CPR is cut by signed scores, what helps most first; CMD by their magnitude; and both areas are
    given for both. Without signed scores (`Case.scores` is None) the case's ranking serves for
    both. Without `Case.nodes` the curves of nodes are left out, and `nodes_left_out` says why.
    `n_edges` of a node circuit is MIB's weighted edge count: an edge counts with the share of its
    writer's neurons in the circuit, which is 1 for whole nodes.

    Differs from MIB's own runs in the metric (the case's instead of always the logit difference),
    and, if key/value readers belong to KV heads, in what one edge is: `n_edges_total` against
    `n_edges_total_ungrouped`.
    """
    families = circuits_of(case)
    masks = {f"{f}/{s}": m for f, sizes in families.items() for s, m in sizes.items()}
    unique = {mask.numpy().tobytes(): mask for mask in (case.empty_mask, *masks.values())}
    names = {key: str(i) for i, key in enumerate(unique)}
    found = evaluate_each(
        case.references,
        {names[key]: mask for key, mask in unique.items()},
        case.batches,
        case.task_metric,
        case.watch("", "runs"),
    )
    of = {name: found[names[mask.numpy().tobytes()]] for name, mask in masks.items()}
    empty = found[names[case.empty_mask.numpy().tobytes()]]
    full = evaluate_full_each(case.references, case.batches, case.task_metric)
    bootstrap = Bootstrap.draw(case.n_examples, case.n_bootstrap, case.generator("mib"))
    curves = {
        family: _curve(bootstrap, sizes, [of[f"{family}/{s}"] for s in sizes], full, empty)
        for family, sizes in families.items()
    }
    return Mib(
        n_pairs=case.n_examples,
        n_bootstrap=case.n_bootstrap,
        n_edges_total=case.graph.n_edges,
        n_edges_total_ungrouped=case.graph.n_edges_ungrouped,
        signed_scores=case.scores is not None,
        nodes_left_out=_why_no_nodes(case),
        cpr=curves["edges_signed"].cpr,
        cmd=curves["edges_absolute"].cmd,
        curves=curves,
        sentence=_sentence(case, curves),
    )


def circuits_of(case: Case) -> dict[str, dict[float, Bool[Tensor, " edge"]]]:
    """The circuits of each curve: `edges_signed`, `edges_absolute`, and the same of nodes."""
    graph, scores, nodes = case.graph, case.scores, case.nodes
    if scores is None:
        by_ranking = edge_circuits(graph, case.ranking)
        return {"edges_signed": by_ranking, "edges_absolute": by_ranking}
    circuits = {
        "edges_signed": edge_circuits(graph, -scores),
        "edges_absolute": edge_circuits(graph, scores.abs()),
    }
    if nodes is not None:
        circuits["nodes_signed"] = node_circuits(graph, -nodes)
        circuits["nodes_absolute"] = node_circuits(graph, nodes.abs())
    return circuits


def _why_no_nodes(case: Case) -> str | None:
    if case.scores is None:
        return (
            "the ranking has no sign and orders edges alone; neither a sum nor the best of a "
            "node's edges is the effect of the node"
        )
    if case.nodes is None:
        return (
            "the run scored edges alone; they add up to scores of nodes only where the method is "
            "linear in a gradient and scored all of them"
        )
    return None


def _curve(
    bootstrap: Bootstrap,
    circuits: dict[float, Bool[Tensor, " edge"]],
    found: list[Examples],
    full: Examples,
    empty: Examples,
) -> Curve:
    gained = torch.stack([examples.metric - empty.metric for examples in found], dim=1)
    span = (full.metric - empty.metric).unsqueeze(1)
    size = (full.metric.abs() + empty.metric.abs()).unsqueeze(1)
    here = ratio(*(part.mean(dim=0) for part in (gained, span, size)))
    resampled = ratio(*(bootstrap.weights @ part for part in (gained, span, size)))
    right = torch.stack([examples.accuracy for examples in found], dim=1)
    intervals = map(bootstrap.interval, here.tolist(), resampled.unbind(-1))
    points = tuple(
        CurvePoint(size, int(mask.sum()), interval)
        for (size, mask), interval in zip(circuits.items(), intervals, strict=True)
    )
    return Curve(
        cpr=bootstrap.interval(cpr(here).item(), cpr(resampled)),
        cmd=bootstrap.interval(cmd(here).item(), cmd(resampled)),
        points=points,
        acc_auc=bootstrap.interval(
            acc_auc(right.mean(dim=0)).item(), acc_auc(bootstrap.weights @ right)
        ),
    )


def _area(curve: Curve) -> Interval:
    return curve.acc_auc or UNDEFINED


def _sentence(case: Case, curves: Mapping[str, Curve]) -> str:
    signed, absolute = curves["edges_signed"], curves["edges_absolute"]
    how = "by signed scores" if case.scores is not None else "by one ranking without a sign"
    small = sum(point.n_edges == 0 for point in signed.points)
    text = (
        f"Over MIB's ten sizes, {counted(case.n_examples, 'pair')}, edges cut {how}: CPR "
        f"{spell(signed.cpr)} (about 1 if every size did as the model, more where circuits "
        f"overshoot), CMD {spell(absolute.cmd, 3)} (0 if every size did as the model). Half of "
        f"both areas lies between half of the edges and all of them. Accuracy over the logarithm "
        f"of the size: {spell(_area(absolute))} (1 if every size were right on every pair)."
    )
    if small:
        text += f" {small} of the ten sizes leave no edge on a path, with faithfulness 0."
    return text
