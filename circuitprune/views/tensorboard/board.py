"""What TensorBoard shows of a run beside its curves: pictures, histograms, recovery, arrangement.

Drawing reads masks and scores and draws no random number, so a run is the same with and without.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from circuitprune.circuits.agreement import average_ranks
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.recovery import auroc, average_precision
from circuitprune.circuits.selection import n_edges_of
from circuitprune.files.text import counted
from circuitprune.metrics import log10_kl
from circuitprune.views.tensorboard.images import (
    Curve,
    circuit_image,
    density_image,
    frontier_image,
)

READABLE = 100
"""Edges that a small picture of a circuit can hold."""
FRONTIER_CURVES = ("faithfulness", "metric", "accuracy", "exact_match")
"""Evidence that is drawn over the number of edges, beside the KL."""
_OLDER = 5
"""Earlier frontiers that stay visible."""


def write_arrangement(writer: SummaryWriter, trains: bool, has_reference: bool) -> None:
    """The CUSTOM SCALARS tab: KL and faithfulness by size, loss beside density, the frontier."""

    def charts(tags: Mapping[str, str]) -> dict[str, list[object]]:
        return {name: ["Multiline", [pattern]] for name, pattern in tags.items()}

    kl, faithfulness = "log10 of the KL in nats", "faithfulness"
    frontier = charts({kl: "^frontier/KL_log10$", faithfulness: "^frontier/faithfulness$"})
    arrangement = {"frontier, over edges": frontier}
    if trains:
        arrangement = {
            "validation, by size": charts(
                {kl: "^by_size/KL_log10/", faithfulness: "^by_size/faithfulness/"}
            ),
            "training": charts(
                {
                    "loss": "^train/(loss|objective|opposite)$",
                    "density": "^train/(density|expected_density|target_density)$",
                }
            ),
            **arrangement,
        }
    if has_reference:
        arrangement["reference circuit"] = charts(
            {name: f"^reference/{name}$" for name in ("auroc", "average_precision")}
        )
    writer.add_custom_scalars(arrangement)


def readable_size(graph: Graph, sizes: Sequence[float]) -> float:
    """The largest of the sizes that a picture can hold, else the smallest."""
    fitting = [size for size in sizes if n_edges_of(graph, size) <= READABLE]
    return max(fitting, default=min(sizes))


def write_circuit(
    writer: SummaryWriter,
    tag: str,
    graph: Graph,
    mask: Bool[Tensor, " edge"],
    scores: Float[Tensor, " edge"],
    step: int,
) -> None:
    """A drawing of the circuit, under `circuit/<tag>`."""
    title = counted(int(mask.sum()), "edge")
    writer.add_image(f"circuit/{tag}", circuit_image(graph, mask, scores, title), step)


def write_density(
    writer: SummaryWriter, tag: str, graph: Graph, mask: Bool[Tensor, " edge"], step: int
) -> None:
    """The share of edges kept between layers, under `layers/<tag>`."""
    writer.add_image(f"layers/{tag}", density_image(graph, mask), step)


def write_frontier(
    writer: SummaryWriter, tag: str, curves: Sequence[Curve], title: str, step: int
) -> None:
    """The last of the curves and, paler, those before it, under `frontier/<tag>`."""
    *earlier, now = curves
    image = frontier_image(now, earlier[-_OLDER:], title)
    writer.add_image(f"frontier/{tag}", image, step)


def write_verified(
    writer: SummaryWriter, points: Mapping[int, Mapping[str, float]], title: str, step: int
) -> None:
    """The verified frontier, as curves over the number of edges and as a picture.

    Args:
        writer: Where to.
        points: Evidence by number of edges.
        title: Of the picture.
        step: Of the picture; that of a curve's point is its number of edges.
    """
    for n_edges, evidence in sorted(points.items()):
        writer.add_scalar("frontier/KL_log10", log10_kl(evidence["kl"]), n_edges)
        for name in FRONTIER_CURVES:
            if name in evidence:  # faithfulness can be undefined
                writer.add_scalar(f"frontier/{name}", evidence[name], n_edges)
    curve = [(n_edges, evidence["kl"]) for n_edges, evidence in points.items()]
    write_frontier(writer, "verified", [curve], title, step)


def write_gates(
    writer: SummaryWriter, graph: Graph, open_share: Float[Tensor, " edge"], step: int
) -> None:
    """Histograms of how open the gates are, by the kind of reader.

    What is not a number is left out, since TensorBoard refuses it.
    """
    for kind in ("q", "k", "v", "mlp", "logits"):
        rows = torch.tensor([k == kind for k in graph.reader_kind])[graph.edge_reader]
        values = open_share[rows & open_share.isfinite()]
        if len(values):
            writer.add_histogram(f"gates/{kind}", values, step)


def write_recovery(
    writer: SummaryWriter,
    ranking: Float[Tensor, " edge"],
    reference: Bool[Tensor, " edge"],
    step: int,
) -> None:
    """How well a ranking finds a reference circuit: PR curve, AUROC, average precision.

    The curve's threshold t takes the `n ** (1 - t)` highest of n edges, so that its points are as
    dense among few edges as among many.

    Raises:
        MetricError: the reference keeps no edge or every edge.
    """
    writer.add_scalar("reference/auroc", auroc(ranking, reference), step)
    precision = average_precision(ranking, reference)
    writer.add_scalar("reference/average_precision", precision, step)
    place = place_of(ranking)
    writer.add_pr_curve("reference/precision_recall", reference.cpu(), place, step)


def place_of(ranking: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """Where each edge stands in a ranking: 1 for the highest, 0 for the lowest.

    `1 - log(rank) / log(n)`; equal values share their mean rank, and NaN is the lowest.
    """
    known = ranking.detach().cpu().double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    rank = average_ranks(-known)
    return (1 - rank.log() / math.log(max(2, len(rank)))).clamp(0, 1)
