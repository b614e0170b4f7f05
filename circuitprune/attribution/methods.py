"""What is known of every method: one record each, and nothing of torch.

A config or a command checks a name here without loading what computes the scores; the function
comes when `Method.score` is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

from circuitprune.errors import ConfigError

if TYPE_CHECKING:
    import circuitprune.attribution.base
    import circuitprune.attribution.nodes


@runtime_checkable
class Sizes(Protocol):
    """What a cost may depend on; a `Graph` has it."""

    @property
    def n_edges(self) -> int:
        """Edges of the graph."""
        ...

    @property
    def n_writers(self) -> int:
        """Writers of the graph."""
        ...


Cost = Callable[[Sizes, int], float]
"""`(graph, steps) -> plain forwards of the pairs`, as measured in benchmarks/."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One attribution method: where its function stands, and what its scores mean.

    Args:
        function: `module:function` of this folder, or a function of your own; None for a search,
            which has no scores of all edges at once.
        cost: None if it is not known.
        by_kv_head: How the scores of a KV head come from those of its query heads: the `sum` where
            they predict an effect, the `largest` where they say how strong an edge is, None where
            they say nothing of it.
        nodes: The same as `function` for scores of writers, if edges get theirs from those.
        signed: Negative helps. Else scores are magnitudes, helpful or harmful alike.
        steps: Whether `steps` means something.
        metric: What `metric=auto` is: the task's, the KL, or none since the metric is never asked.
        additive: Linear in a gradient: a writer's out-edges add up to the score of the writer.
        at_clean_run: The only gradient is at the clean run, where the KL is flat.
        directed: Patches exactly, by noising or by denoising.
        sharded: Takes long: the work is kept in shards, and torchrun shares it.

    Example:
        >>> from circuitprune.attribution import METHODS
        >>> METHODS["gate_ig"].steps, METHODS["gate_ig"].metric
        (True, 'kl')
    """

    function: str | Callable[..., object] | None
    cost: Cost | None
    by_kv_head: Literal["sum", "largest"] | None
    nodes: str | Callable[..., object] | None = None
    signed: bool = True
    steps: bool = False
    metric: Literal["task", "kl", "none"] = "task"
    additive: bool = False
    at_clean_run: bool = False
    directed: bool = False
    sharded: bool = False

    @property
    def score(self) -> "circuitprune.attribution.base.Attribution":
        """The function that scores every edge.

        Raises:
            ConfigError: a search, such as ACDC.
        """
        if self.function is None:
            raise ConfigError(
                "acdc searches a circuit for each threshold and has no scores of all edges at "
                "once; call circuitprune.patching.acdc.sweep, or take a method such as exact"
            )
        return cast("circuitprune.attribution.base.Attribution", _found(self.function))

    @property
    def score_nodes(self) -> "circuitprune.attribution.nodes.NodeAttribution | None":
        """The function that scores every writer, where edges get their scores from those."""
        if self.nodes is None:
            return None
        return cast("circuitprune.attribution.nodes.NodeAttribution", _found(self.nodes))


def has_signs(name: object) -> bool:
    """Whether scores by the method of that name have signs; so they do unless a record denies it.

    Takes whatever a file says: a method that is not known counts as signed.
    """
    return not (isinstance(name, str) and name in METHODS and not METHODS[name].signed)


def names_with(fact: str) -> tuple[str, ...]:
    """Names of the methods of which a field of the record holds, such as `steps`."""
    return tuple(name for name, method in METHODS.items() if getattr(method, fact))


def _found(function: object) -> object:
    """A function itself, or the one that `module:function` of this folder names."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), name)


def _forwards(number: int) -> Cost:
    return lambda graph, steps: number


def _gradients(graph: Sizes, steps: int) -> float:
    """A forward and a backward at each step."""
    return 3.0 * steps


def _input_gradients(graph: Sizes, steps: int) -> float:
    """The same, and a forward for the end of the path."""
    return 1.0 + 3.0 * steps


def _writer_gradients(graph: Sizes, steps: int) -> float:
    return 3.0 * graph.n_writers * steps


def _every_edge(graph: Sizes, steps: int) -> float:
    """What an edge changes lies downstream of it: a quarter of a forward."""
    return 0.25 * graph.n_edges


METHODS: dict[str, Method] = {
    "eap": Method(
        function="eap:eap",
        cost=_forwards(3),
        by_kv_head="sum",
        additive=True,
        at_clean_run=True,
    ),
    "eap_ig_inputs": Method(
        function="eap_ig_inputs:eap_ig_inputs",
        cost=_input_gradients,
        by_kv_head="sum",
        steps=True,
        additive=True,
    ),
    "eap_ig_inputs_right": Method(
        function="eap_ig_inputs:eap_ig_inputs_right",
        cost=_input_gradients,
        by_kv_head="sum",
        steps=True,
        additive=True,
    ),
    "eap_ig_inputs_midpoint": Method(
        function="eap_ig_inputs:eap_ig_inputs_midpoint",
        cost=_input_gradients,
        by_kv_head="sum",
        steps=True,
        additive=True,
    ),
    "eap_ig_activations": Method(
        function="eap_ig_activations:eap_ig_activations",
        cost=None,
        by_kv_head="sum",
        steps=True,
        additive=True,
    ),
    "gate_ig": Method(
        function="gate_ig:gate_ig",
        cost=_gradients,
        by_kv_head="sum",
        steps=True,
        metric="kl",
        additive=True,
    ),
    "clean_corrupted": Method(
        function="clean_corrupted:clean_corrupted",
        cost=_forwards(6),
        by_kv_head="sum",
        additive=True,
    ),
    "per_writer_ig": Method(
        function="per_writer_ig:per_writer_ig",
        cost=_writer_gradients,
        by_kv_head="sum",
        steps=True,
        additive=True,
    ),
    "relp": Method(
        function="relp:relp",
        cost=_forwards(3),
        by_kv_head="sum",
        additive=True,
        at_clean_run=True,
    ),
    "relp_ah": Method(
        function="relp:relp_ah",
        cost=_forwards(3),
        by_kv_head="sum",
        additive=True,
        at_clean_run=True,
    ),
    "atp": Method(
        function="nodes:atp",
        nodes="nodes:atp_nodes",
        cost=_forwards(3),
        by_kv_head="largest",
        at_clean_run=True,
    ),
    "atp_ig": Method(
        function="nodes:atp_ig",
        nodes="nodes:atp_ig_nodes",
        cost=_input_gradients,
        by_kv_head="largest",
        steps=True,
    ),
    "ugs": Method(
        function="ugs:ugs",
        cost=None,
        by_kv_head="largest",
        signed=False,
        steps=True,
    ),
    "ifr": Method(
        function="ifr:ifr",
        cost=_forwards(1),
        by_kv_head="largest",
        signed=False,
        metric="none",
    ),
    "magnitude": Method(
        function="magnitude:magnitude",
        cost=_forwards(1),
        by_kv_head="largest",
        signed=False,
        metric="none",
    ),
    "random": Method(
        function="random:random",
        cost=_forwards(0),
        by_kv_head=None,
        metric="none",
    ),
    "exact": Method(
        function="exact:exact",
        cost=_every_edge,
        by_kv_head="sum",
        directed=True,
        sharded=True,
    ),
    "exact_denoising": Method(
        function="exact:exact_denoising",
        cost=_every_edge,
        by_kv_head="sum",
        directed=True,
        sharded=True,
    ),
    "exact_nodes": Method(
        function="exact:exact_nodes",
        nodes="exact:effects_of_nodes",
        cost=None,
        by_kv_head="largest",
        directed=True,
    ),
    "acdc": Method(
        function=None,
        cost=None,
        by_kv_head="largest",
        sharded=True,
    ),
}
"""Methods by the name that `attribution.method` takes."""
