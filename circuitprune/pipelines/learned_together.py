"""Several studies' gates learned together: one order of shared and private edges, and circuits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from circuitprune.attribution.base import Attribution
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.sharing import Rows, Together, cut_together, rankings
from circuitprune.data.checks import broken, refuse
from circuitprune.errors import ConfigError
from circuitprune.files.text import counted
from circuitprune.pipelines.given import edges_wanted
from circuitprune.pipelines.learned import provenance_of
from circuitprune.pipelines.setup import Setup
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.together import fit_together, shared_module
from circuitprune.pipelines.together_cuts import smallest_together
from circuitprune.training.target import Target
from circuitprune.training.tasks import gate_rules


@dataclass(frozen=True)
class TogetherCircuits:
    """A circuit of each task, made of edges that all share and edges of its own."""

    shared: Circuit
    """The shared edges that are in some circuit."""
    tasks: Mapping[str, Circuit]
    """The whole circuit of each task, shared edges included; `circuit - shared` is its own part."""
    n_edges: int
    """Edges in all: a shared one counts once, a private one once for each task that has it."""


@dataclass(frozen=True, repr=False)
class LearnedTogether:
    """What `learn_together` found: an order of shared and private edges of several tasks."""

    setups: Mapping[str, Setup]
    """Of each task, by its name."""
    rows: Rows
    """Scores of the shared edges, then of each task's own; higher is kept first."""

    def circuits(
        self, *, n_edges: int | None = None, size: float | None = None
    ) -> TogetherCircuits:
        """The best circuits of a size in all, as `TogetherCircuits.n_edges` counts.

        Args:
            n_edges: Edges, or
            size: the fraction of all edges, in (0, 1].

        Raises:
            ConfigError: not exactly one of the two, or more than the model has.
        """
        graph = next(iter(self.setups.values())).gated.graph
        return self._of(cut_together(graph, self.rows, edges_wanted(graph, n_edges, size)))

    def smallest(self, target: str) -> TogetherCircuits:
        """The fewest edges in all with which every task reaches a target on its validation pairs.

        Of those that are looked at, see docs/several_tasks.md; without validation pairs, on the
        training pairs.

        Args:
            target: Such as `kl<=0.05`; see `gates.target`.

        Raises:
            ConfigError: no such target, or a task that does not even reach it with every edge.
        """
        return self._of(smallest_together([*self.setups.values()], self.rows, Target.read(target)))

    def _of(self, found: Together) -> TogetherCircuits:
        tasks, first = rankings(self.rows), next(iter(self.setups.values()))
        about = {**provenance_of(first), "task": [*self.setups]}
        return TogetherCircuits(
            shared=Circuit(found.graph, found.core, None, about, self.rows[0]),
            tasks={
                name: _circuit(setup, found, mask, ranking)
                for (name, setup), mask, ranking in zip(
                    self.setups.items(), found.circuits, tasks, strict=True
                )
            },
            n_edges=found.n_edges,
        )

    def __repr__(self) -> str:
        config = next(iter(self.setups.values())).config
        return f"LearnedTogether({', '.join(self.setups)}, {counted(config.train.steps, 'step')})"


def _circuit(
    setup: Setup, found: Together, mask: Bool[Tensor, " edge"], ranking: Tensor
) -> Circuit:
    shared = Circuit(found.graph, mask & found.shared).edges
    about = {**provenance_of(setup), "shared": shared}
    return Circuit(found.graph, mask, None, about, ranking)


def learn_together(
    studies: Sequence[Study] | Mapping[str, Study],
    steps: int = 500,
    *,
    start: str | Attribution | None = "gate_ig",
    objective: str = "kl",
    progress: bool = True,
    **gates: object,
) -> LearnedTogether:
    """Shared and private gates of several studies of one model, learned on their training pairs.

    As `circuitprune train` with `tasks`; see docs/several_tasks.md. Nothing is written.

    Args:
        studies: Two or more of one model, named by their tasks or as the mapping says. Settings of
            training are the first one's.
        steps: Of the optimiser; each takes a batch of every study.
        start: A method, by name or your own, whose scores the gates start from, or None.
        objective: What is kept: `kl` to the full model, or another of `docs/method.md`.
        progress: Show the steps and the time left.
        gates: Other settings of `gates`, such as `shared_cost=1.2`.

    Raises:
        ConfigError: fewer than two studies, two of one name, other models, or a setting out of its
            range.

    Example:
        >>> from circuitprune import Study, learn_together
        >>> ioi = Study("zoo/small", "ioi", n_train=8, n_test=8, progress=False)
        >>> sva = Study("zoo/small", "sva", n_train=8, n_test=8, progress=False)
        >>> found = learn_together([ioi, sva], steps=2, progress=False).circuits(n_edges=40)
        >>> found.n_edges <= 40, [*found.tasks]
        (True, ['ioi', 'sva'])
        >>> (found.tasks["ioi"] - found.shared).n_edges + found.shared.n_edges <= 40
        True
    """
    named = _named(studies)
    about = (steps, objective, gates, progress)
    setups = {name: _told(one.setup, *about) for name, one in named.items()}
    config = next(iter(setups.values())).config
    taken = config.gates
    refuse(broken(*gate_rules(taken.learner, taken.count, taken.budgets)))
    initial = [None if start is None else one.attribute(start).values for one in named.values()]
    module = shared_module(config, setups, initial)
    fit_together(config, setups, module)
    return LearnedTogether(setups, module.rows(module.learner.ranking().float().cpu()))


def _named(studies: Sequence[Study] | Mapping[str, Study]) -> dict[str, Study]:
    """Studies by name, of one model."""
    if isinstance(studies, Mapping):
        named = dict(studies)
    else:
        named = {one.setup.config.task.name: one for one in studies}
    if len(named) < max(2, len(studies)):
        raise ConfigError(
            f"learn_together takes two or more studies of different names, got "
            f"{', '.join(named) or 'none'} of {len(studies)}; give a mapping of names to studies"
        )
    models = {one.setup.identity.model for one in named.values()}
    first = next(iter(named.values())).graph
    if len(models) > 1 or not all(first.same_edges(one.graph) for one in named.values()):
        raise ConfigError("learn_together takes studies of one model, and these are of several")
    return named


def _told(
    setup: Setup, steps: int, objective: str, gates: Mapping[str, object], progress: bool
) -> Setup:
    """The setup with settings of learning."""
    config = setup.config
    config = replace(
        config,
        gates=replace(config.gates, **gates),  # type: ignore[arg-type]
        objective=objective,  # type: ignore[arg-type]
        train=replace(config.train, steps=steps, progress=progress),
    )
    return replace(setup, config=config)
