"""Exact patching as an attribution method: the true change of the metric, edge by edge."""

from collections.abc import Iterable

from jaxtyping import Float, Float64
from torch import Tensor

from circuitprune.attribution.nodes import lift
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric
from circuitprune.patching.effects import edge_effects, node_effects


def exact(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """Change of the metric when each edge is ablated in the full model; `steps` is ignored.

    About a quarter of a forward for each edge: see `edge_effects`, which also does some of them.

    Source: Conmy et al. 2023, "Towards Automated Circuit Discovery" (arXiv 2304.14997), call it
    activation patching of edges.
    """
    return edge_effects(references, batches, metric)


def exact_denoising(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """Minus the change of the metric when each edge is restored in the corrupt run.

    An edge that helps scores negative, as everywhere. `steps` is ignored.

    Raises:
        ConfigError: an ablation other than `patch`.
    """
    return -edge_effects(references, batches, metric, direction="denoising")


def exact_nodes(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    steps: int = 1,
    direction: str = "noising",
) -> Float[Tensor, " edge"]:
    """`effects_of_nodes`, lifted to edges by `lift`. `steps` is ignored.

    Raises:
        ConfigError: `denoising` with an ablation other than `patch`.
    """
    nodes = effects_of_nodes(references, batches, metric, steps, direction)
    return lift(references.gated.graph, nodes)


def effects_of_nodes(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    steps: int = 1,
    direction: str = "noising",
) -> Float64[Tensor, " writer"]:
    """Change of the metric when each writer is ablated for everyone, `steps` ignored.

    `denoising`: minus its change when the writer is restored in the corrupt run. A node that helps
    scores negative either way.

    Raises:
        ConfigError: `denoising` with an ablation other than `patch`.
    """
    sign = 1 if direction == "noising" else -1
    return sign * node_effects(references, batches, metric, direction=direction)
