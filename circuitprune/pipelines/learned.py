"""What learning found in a study: an order of all edges, and its circuits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.config import GatesConfig
from circuitprune.files.text import counted
from circuitprune.pipelines.frontier import ranked_frontier, smallest_circuit
from circuitprune.pipelines.given import Edges, mask_given, refuse_unknown
from circuitprune.pipelines.learning import fit
from circuitprune.pipelines.refining import mask_of, refined_masks
from circuitprune.pipelines.setup import Setup
from circuitprune.runs.frontier import Frontier, Provenance
from circuitprune.training.target import Target


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
        return self._circuit(point.mask, size=point.size)

    def smallest(self, target: str) -> Circuit:
        """The smallest circuit that reaches a target on the validation pairs, else the training's.

        Args:
            target: Such as `kl<=0.05` or `accuracy>=0.95`; see `gates.target`.

        Raises:
            ConfigError: no such target, or not even the whole model reaches it.
        """
        mask = smallest_circuit(self.setup, self.ranking, Target.read(target))
        return self._circuit(mask, target=target)

    def _circuit(self, mask: Bool[Tensor, " edge"], **about: object) -> Circuit:
        said = {**provenance_of(self.setup), **about}
        return Circuit(self.setup.gated.graph, mask, None, said, self.ranking)

    def __repr__(self) -> str:
        config = self.setup.config
        return (
            f"Learned({config.gates.learner}, {counted(config.train.steps, 'step')}, "
            f"{config.objective})"
        )


def to_learn(
    setup: Setup, steps: int, objective: str, gates: Mapping[str, object], progress: bool
) -> Setup:
    """A study with the settings that `Study.learn` was given, checked before anything runs.

    Raises:
        ConfigError: no such setting, or one out of its range.
    """
    refuse_unknown(GatesConfig, gates)
    config = setup.config
    config = replace(
        config,
        gates=replace(config.gates, **gates),  # type: ignore[arg-type]
        objective=objective,  # type: ignore[arg-type]
        train=replace(config.train, steps=steps, progress=progress),
    )
    return replace(setup, config=config)


def learned(setup: Setup, starts: Sequence[Float[Tensor, " edge"]]) -> Learned:
    """What `Study.learn` gives: gates fitted from the starts."""
    initial = torch.stack([*starts]) if len(starts) > 1 else next(iter(starts), None)
    return Learned(setup, fit(setup, initial).learner.ranking().float().cpu())


def refined_circuit(setup: Setup, circuit: Edges, tries: int, most_rounds: int) -> Circuit:
    """What `Study.refine` gives: `refining.refined_masks` of one circuit, nothing kept."""
    graph = setup.gated.graph
    budget = replace(setup.config.refinement, tries=tries, most_rounds=most_rounds, max_size=1.0)
    setup = replace(setup, config=replace(setup.config, refinement=budget))
    found = refined_masks(setup, {0.0: mask_given(graph, circuit)}, None)
    mask = mask_of(graph, found[0.0].best) if found else mask_given(graph, circuit)
    return Circuit(graph, mask, None, {**provenance_of(setup), "refined": True})


def provenance_of(setup: Setup) -> Provenance:
    """What a circuit made in a notebook says of where it comes from."""
    config = setup.config
    return {
        "model": config.model.name,
        "task": config.task.name,
        "ablation": config.ablation,
        "metric": setup.metric_name,
    }
