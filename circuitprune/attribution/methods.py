"""What is known of every method: one record each, and nothing of torch.

A config or a command checks a name here without loading what computes the scores; the function
comes when `Method.score` is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast

from circuitprune.attribution import cost
from circuitprune.attribution.cost import Cost, Passes
from circuitprune.errors import ConfigError

if TYPE_CHECKING:
    import circuitprune.attribution.base
    import circuitprune.attribution.nodes


@dataclass(frozen=True, kw_only=True)
class Method:
    """One attribution method: where its function stands, and what its scores mean.

    Args:
        function: `module:function` of this folder, or your own; None for a search, without scores.
        cost: None if it is not known.
        by_kv_head: How a KV head's scores come from its query heads': the `sum` where they predict
            an effect, the `largest` where they say how strong an edge is, None where neither.
        nodes: The same as `function` for scores of writers, if edges get theirs from those.
        parts: The same as `function` for scores of parts (nodes, neurons); None if it has none.
        spans: Whether it scores edges at spans of positions.
        signed: Negative helps. Else scores are magnitudes, helpful or harmful alike.
        steps: Points of its path, by default; 0 if `steps` means nothing.
        metric: What `metric=auto` is: the task's, the KL, or none since the metric is never asked.
        additive: Linear in a gradient: a writer's out-edges add up to the score of the writer.
        at_clean_run: The only gradient is at the clean run, where the KL is flat.
        directed: Patches exactly, by noising or by denoising.
        sharded: Takes long: the work is kept in shards, and torchrun shares it.
        at_keys: What `score_by_position` cuts query and key edges by: `scores` or the `pattern`.
        in_layers: Whether it uses weights only while their layer runs, as `model.shard` needs.
        whole: No mean over examples, so that processes cannot share the batches.
        passes: How often the metric is asked for each batch, which is how progress is told; None
            if it never is, or if that is not known: then batches are counted.

    Example:
        >>> from circuitprune.attribution import METHODS
        >>> METHODS["gate_ig"].steps, METHODS["gate_ig"].metric
        (20, 'kl')
    """

    function: str | Callable[..., object] | None
    cost: Cost | None
    by_kv_head: Literal["sum", "largest"] | None
    nodes: str | Callable[..., object] | None = None
    parts: str | Callable[..., object] | None = None
    spans: bool = False
    signed: bool = True
    steps: int = 0
    metric: Literal["task", "kl", "none"] = "task"
    additive: bool = False
    at_clean_run: bool = False
    directed: bool = False
    sharded: bool = False
    at_keys: Literal["scores", "pattern"] | None = None
    in_layers: bool = True
    whole: bool = False
    passes: Passes | None = None

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

    def points(self, asked: int | None) -> int:
        """How many points of its path a run takes: what was asked for, or its own number."""
        return self.steps if asked is None else asked

    @property
    def score_parts(self) -> "circuitprune.attribution.base.Attribution":
        """The function that scores every part.

        Raises:
            ConfigError: the method scores edges alone.
        """
        if self.parts is None:
            raise ConfigError(
                "this method scores edges alone; parts are scored by "
                f"{', '.join(names_with('parts'))}"
            )
        return cast("circuitprune.attribution.base.Attribution", _found(self.parts))

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


def _propagated(function: str, forwards: int) -> Method:
    """A gradient at the clean run that is taken back by rules."""
    return Method(
        function=function,
        spans=True,
        cost=cost.forwards(forwards),
        by_kv_head="sum",
        additive=True,
        at_clean_run=True,
        in_layers=False,
        passes=cost.passes(1),
    )


def _along_inputs(name: str) -> Method:
    """Gradients integrated while what enters layer 0 moves from ablated to clean."""
    return Method(
        function=f"eap_ig_inputs:{name}",
        parts=f"parts:{name}",
        spans=True,
        cost=cost.input_gradients,
        by_kv_head="sum",
        steps=5,
        additive=True,
        passes=cost.pass_each_step,
    )


def _patched(name: str) -> Method:
    """Exact patching, one edge after the other."""
    return Method(
        function=f"exact:{name}",
        parts=f"exact:{name}",
        spans=True,
        cost=cost.every_edge,
        by_kv_head="sum",
        directed=True,
        sharded=True,
        in_layers=False,
        passes=cost.pass_each_edge,
    )


METHODS: dict[str, Method] = {
    "eap": Method(
        function="eap:eap",
        parts="parts:eap",
        at_keys="scores",
        spans=True,
        cost=cost.forwards(3),
        by_kv_head="sum",
        additive=True,
        at_clean_run=True,
        passes=cost.passes(1),
    ),
    "eap_qk": Method(
        function="eap_qk:eap_qk",
        at_keys="pattern",
        in_layers=False,
        cost=cost.patterns_of_writers,
        by_kv_head="sum",
        at_clean_run=True,
        passes=cost.passes(1),
    ),
    "eap_ig_inputs": _along_inputs("eap_ig_inputs"),
    "eap_ig_inputs_right": _along_inputs("eap_ig_inputs_right"),
    "eap_ig_inputs_midpoint": _along_inputs("eap_ig_inputs_midpoint"),
    "mc_ig": Method(
        function="mc_ig:mc_ig",
        spans=True,
        cost=cost.forwards(4),
        by_kv_head="sum",
        additive=True,
        passes=cost.passes(1),
    ),
    "conductance": Method(
        function="conductance:conductance",
        spans=True,
        cost=cost.input_gradients,
        by_kv_head="sum",
        steps=5,
        additive=True,
        passes=cost.pass_each_step,
    ),
    "eap_ig_activations": Method(
        function="eap_ig_activations:eap_ig_activations",
        spans=True,
        cost=None,
        by_kv_head="sum",
        steps=5,
        additive=True,
        passes=cost.pass_each_group,
    ),
    "gate_ig": Method(
        function="gate_ig:gate_ig",
        parts="gate_ig:gate_ig",
        spans=True,
        cost=cost.gradients,
        by_kv_head="sum",
        steps=20,
        metric="kl",
        additive=True,
        passes=cost.pass_each_step,
    ),
    "clean_corrupted": Method(
        function="clean_corrupted:clean_corrupted",
        spans=True,
        cost=cost.forwards(6),
        by_kv_head="sum",
        additive=True,
        passes=cost.passes(2),
    ),
    "per_writer_ig": Method(
        function="per_writer_ig:per_writer_ig",
        parts="per_writer_ig:per_writer_ig",
        spans=True,
        cost=cost.writer_gradients,
        by_kv_head="sum",
        steps=5,
        additive=True,
        passes=cost.pass_each_writer,
    ),
    "relp": _propagated("relp:relp", 3),
    "relp_ah": _propagated("relp:relp_ah", 3),
    "attn_lrp": _propagated("attn_lrp:attn_lrp", 3),
    "gim": _propagated("gim:gim", 3),
    "atp": Method(
        function="nodes:atp",
        nodes="nodes:atp_nodes",
        cost=cost.forwards(3),
        by_kv_head="largest",
        at_clean_run=True,
        passes=cost.passes(1),
    ),
    "atp_ig": Method(
        function="nodes:atp_ig",
        nodes="nodes:atp_ig_nodes",
        cost=cost.input_gradients,
        by_kv_head="largest",
        steps=5,
        passes=cost.pass_each_step,
    ),
    "ugs": Method(
        function="ugs:ugs",
        parts="ugs:ugs",
        spans=True,
        cost=None,
        by_kv_head="largest",
        signed=False,
        steps=5,
        whole=True,
        passes=cost.pass_each_sample,
    ),
    "ifr": Method(
        function="ifr:ifr",
        cost=cost.forwards(1),
        by_kv_head="largest",
        signed=False,
        metric="none",
    ),
    "magnitude": Method(
        function="magnitude:magnitude",
        cost=cost.forwards(1),
        by_kv_head="largest",
        signed=False,
        metric="none",
    ),
    "random": Method(
        function="random:random",
        parts="random:random",
        spans=True,
        cost=cost.forwards(0),
        by_kv_head=None,
        metric="none",
        whole=True,
    ),
    "exact": _patched("exact"),
    "exact_denoising": _patched("exact_denoising"),
    "exact_nodes": Method(
        function="exact:exact_nodes",
        nodes="exact:effects_of_nodes",
        cost=None,
        by_kv_head="largest",
        directed=True,
        in_layers=False,
        passes=cost.pass_each_node,
    ),
    "acdc": Method(function=None, cost=None, by_kv_head="largest", sharded=True),
}
"""Methods by the name that `attribution.method` takes."""
