"""What learning found in a study: an order of all edges, and its circuits."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.pipelines.frontier import ranked_frontier
from circuitprune.pipelines.setup import Setup
from circuitprune.runs.frontier import Frontier, Provenance


@dataclass(frozen=True, repr=False)
class Learned:
    """What `Study.learn` found: an order of all edges, and circuits of each size, verified."""

    setup: Setup
    ranking: Float[Tensor, " edge"]
    """Higher is kept first."""

    @cached_property
    def frontier(self) -> Frontier:
        """Circuits of the sizes of `verify.sizes` on the held-out pairs; made when asked for."""
        return ranked_frontier(self.setup, self.ranking)

    def circuit(self, *, max_kl: float = 0.1) -> Circuit:
        """The smallest of the frontier's circuits that is good: see `Frontier.chosen`.

        `Study.circuit` cuts to any size.
        """
        point = self.frontier.chosen(max_kl)
        about = {**provenance_of(self.setup), "size": point.size}
        return Circuit(self.setup.gated.graph, point.mask, None, about, self.ranking)

    def __repr__(self) -> str:
        config = self.setup.config
        return f"Learned({config.gates.learner}, {config.train.steps} steps, {config.objective})"


def provenance_of(setup: Setup) -> Provenance:
    """What a circuit made in a notebook says of where it comes from."""
    config = setup.config
    return {
        "model": config.model.name,
        "task": config.task.name,
        "ablation": config.ablation,
        "metric": setup.metric_name,
    }
