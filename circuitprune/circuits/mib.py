"""Circuits as EAP-IG's and MIB's object of nodes and edges, which our own files follow.

Source: EAP-IG `src/eap/graph.py` (`to_json`, `from_json`), used by MIB.
"""

from dataclasses import replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.circuits.parts import Parts
from circuitprune.circuits.reachability import kept_nodes
from circuitprune.circuits.span_graph import SpanGraph
from circuitprune.circuits.standing import of_gates, said_of_gates
from circuitprune.errors import GraphError
from circuitprune.files.limits import EDGES
from circuitprune.files.text import counted

SCHEMA = 2
"""Version of the `circuitprune` key in circuit files; 1 had one number for ranking and score."""

_DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


def to_own(parts: Parts) -> dict[str, object]:
    """The kept edges alone, in the words of EAP-IG's and MIB's object.

    Beside its score an edge has its `ranking`, if the scores do not say it.

    Raises:
        GraphError: an infinite score.
    """
    ranking = parts.own_ranking
    edges = _edges(parts, kept_only=True)
    if ranking is not None and parts.scores is not None:
        for name, entry in edges.items():
            entry["ranking"] = ranking[parts.graph.edge_index(name)].item()
    return {**_sizes_and_nodes(parts), "edges": edges, "circuitprune": _own_key(parts, ranking)}


def to_mib(parts: Parts) -> dict[str, object]:
    """The object that EAP-IG's `Graph.from_json` reads, in its own node and edge order.

    Keys and values are those of `Graph.ungrouped()`. What the three keys cannot say (grouping,
    provenance, the dtype or absence of scores) goes into a fourth, `circuitprune`, which EAP-IG
    ignores. Of scores and another ranking, the ranking has no place here.

    Raises:
        GraphError: an infinite score.
    """
    value = {**_sizes_and_nodes(parts), "edges": _edges(parts, kept_only=False)}
    own = _own_key(parts, parts.ranking if parts.scores is None else None)
    grouped = parts.graph.n_kv_readers != parts.graph.n_heads
    said = not grouped and own["score_dtype"] == "float64" and not own["method"]
    return value if said and not parts.provenance else {**value, "circuitprune": own}


def _sizes_and_nodes(parts: Parts) -> dict[str, object]:
    graph = parts.graph
    whole, nodes = graph.ungrouped(), set(kept_nodes(graph.ungrouped(), graph.ungroup(parts.mask)))
    return {
        "cfg": {
            "n_layers": graph.n_layers,
            "n_heads": graph.n_heads,
            "parallel_attn_mlp": graph.parallel,
            "d_model": graph.d_model,
        },
        "nodes": {name: {"in_graph": name in nodes} for name in (*whole.writers, "logits")},
    }


def _edges(parts: Parts, kept_only: bool) -> dict[str, dict[str, float | bool]]:
    """Edges by name with `score` and `in_graph`, all of them or the kept ones.

    EAP-IG needs a number as `score`: without scores it is the ranking, and without that 1 for a
    kept edge and 0 for the others; NaN is its "not scored".
    """
    graph, mask = parts.graph, parts.graph.ungroup(parts.mask)
    numbers = parts.ranking if parts.scores is None else parts.scores
    if numbers is not None and torch.isinf(numbers).any():
        raise GraphError("infinite scores cannot be written; use NaN for 'not scored'")
    whole, order = graph.ungrouped(), _own_order(graph.ungrouped())
    order = order[mask[order]] if kept_only else order
    shown = mask.double() if numbers is None else graph.ungroup(numbers).double()
    rows = zip(order.tolist(), shown[order].tolist(), mask[order].tolist(), strict=True)
    return {whole.edge_name(i): {"score": score, "in_graph": kept} for i, score, kept in rows}


def from_mib(value: dict[str, object]) -> Parts:
    """The circuit in an EAP-IG/MIB object; edges that are not listed are not kept, not scored.

    Raises:
        GraphError: wrong sizes, unknown edges, flags that are not booleans, scores that are not
            finite numbers or NaN, or a `circuitprune` key of a newer version.
    """
    whole = of_gates(_graph_of(value), value.get("circuitprune"))
    edges = value["edges"]
    if not isinstance(edges, dict):
        raise GraphError("'edges' must be an object of edge names")
    entries = [_edge_entry(name, entry) for name, entry in edges.items()]
    mask = whole.no_edges()
    numbers = torch.full((2, whole.n_edges), torch.nan, dtype=torch.float64)
    positions = [whole.edge_index(name) for name in edges]
    mask[positions] = torch.tensor([entry.kept for entry in entries], dtype=torch.bool)
    numbers[:, positions] = torch.tensor(
        [[entry.score for entry in entries], [entry.ranking for entry in entries]],
        dtype=torch.float64,
    )
    if "circuitprune" in value:
        return _from_own_key(value["circuitprune"], whole, mask, *numbers)
    return Parts(whole, mask, None if numbers[0].isnan().all() else numbers[0], {})


def _own_order(whole: Graph) -> Int[Tensor, " edge"]:
    """The order in a file: EAP-IG's, or their own of parts and of edges at spans."""
    own = isinstance(whole, PartGraph | SpanGraph)
    return torch.arange(whole.n_edges) if own else _mib_order(whole)


def _mib_order(whole: Graph) -> Int[Tensor, " edge"]:
    """Edges by layer, then writer, then head, then q, k, v: the order of EAP-IG's loops."""
    flat = torch.arange(whole.n_edges)
    parts = []
    for block in whole.blocks:
        view = whole.block_view(flat, block)
        if block.kind == "attention":
            view = view.view(3, whole.n_heads, block.n_writers).permute(2, 1, 0)
        parts.append(view.reshape(-1))
    return torch.cat(parts)


def _own_key(parts: Parts, ranking: Float[Tensor, " edge"] | None) -> dict[str, object]:
    """What the other keys do not say; without a dtype, there are no such numbers of their own."""
    return {
        "schema": SCHEMA,
        "graph": {"n_kv_readers": parts.graph.n_kv_readers, **said_of_gates(parts.graph)},
        "n_edges": int(parts.mask.sum()),
        "method": parts.method,
        "score_dtype": _dtype_name(parts.scores),
        "ranking_dtype": _dtype_name(ranking),
        "provenance": parts.provenance,
    }


def _dtype_name(values: Float[Tensor, " edge"] | None) -> str | None:
    return None if values is None else str(values.dtype).removeprefix("torch.")


def _from_own_key(
    own: object,
    whole: Graph,
    mask: Bool[Tensor, " edge"],
    scores: Float[Tensor, " edge"],
    ranking: Float[Tensor, " edge"],
) -> Parts:
    schema = _schema(own)
    assert isinstance(own, dict)
    try:
        graph = replace(whole, n_kv_readers=_size(own["graph"], "n_kv_readers"))
        dtype, provenance = _dtype(own["score_dtype"]), own["provenance"]
        ranked = _dtype(own["ranking_dtype"]) if schema > 1 else None
        method = own["method"] if schema > 1 else None
    except (KeyError, TypeError, AttributeError) as error:
        raise GraphError(f"the 'circuitprune' key is damaged: {error!r:.200}") from error
    if not isinstance(provenance, dict) or not isinstance(method, str | None):
        raise GraphError(
            f"method must be a name and provenance an object, got {method!r:.80}, "
            f"{provenance!r:.80}"
        )
    _check_count(own, int(_fold(graph, mask).sum()))
    folded = None if dtype is None else _fold(graph, scores).to(dtype)
    if schema == 1:
        return _from_schema_1(Parts(graph, _fold(graph, mask), folded, provenance))
    order = None
    if ranked is not None:
        order = _fold(graph, scores if dtype is None else ranking).to(ranked)
    return Parts(graph, _fold(graph, mask), folded, provenance, order, method)


def _check_count(own: dict[str, object], n_edges: int) -> None:
    """Hold the edges against their number, if the file says one: 0.1 did not."""
    said = own.get("n_edges", n_edges)
    if said != n_edges:
        raise GraphError(
            f"it says n_edges {said!r:.80}, and lists {counted(n_edges, 'kept edge')}: it was "
            "edited or damaged. Take it from a copy, or make another circuit with Circuit.save"
        )


def _from_schema_1(parts: Parts) -> Parts:
    """What an edge's one number was: in a run's file its ranking, signed only if that says so."""
    about, numbers = parts.provenance, parts.scores
    if numbers is None or "selection" not in about:
        return parts
    said = None if about.get("learner") else about.get("init")
    method = said if isinstance(said, str) else None
    signed = -numbers if about.get("ranking") == "signed" else None
    return parts._replace(scores=signed, ranking=numbers, method=method)


def _schema(own: object) -> int:
    if not isinstance(own, dict) or type(own.get("schema")) is not int:
        raise GraphError("the 'circuitprune' key has no schema number")
    if own["schema"] > SCHEMA:
        raise GraphError(
            f"written by a newer circuitprune (schema {own['schema']}, this one reads up to "
            f"{SCHEMA}); upgrade circuitprune"
        )
    return int(own["schema"])


def _dtype(name: str | None) -> torch.dtype | None:
    return None if name is None else _DTYPES[name]


def _fold(graph: Graph, values: Shaped[Tensor, " edge_ungrouped"]) -> Shaped[Tensor, " edge"]:
    """The inverse of `graph.ungroup`."""
    if isinstance(graph, PartGraph):
        return values
    folded = torch.empty(graph.n_edges, dtype=values.dtype)
    folded[graph.group_of_ungrouped] = values
    back = graph.ungroup(folded)
    if not ((back == values) | ((back != back) & (values != values))).all():
        raise GraphError(
            f"query heads that share one of {counted(graph.n_kv_readers, 'KV head')} have "
            "different k or v edges; remove the 'circuitprune' key to read the circuit by query "
            "head"
        )
    return folded


def _graph_of(value: dict[str, object]) -> Graph:
    """Sizes of an EAP-IG object, held against its node list before anything large is built."""
    cfg, nodes = value["cfg"], value["nodes"]
    if not isinstance(cfg, dict) or not isinstance(nodes, dict):
        raise GraphError("'cfg' and 'nodes' must be objects")
    n_layers, n_heads = _size(cfg, "n_layers"), _size(cfg, "n_heads")
    parallel, d_model = cfg.get("parallel_attn_mlp", False), cfg.get("d_model", 0)
    if type(parallel) is not bool or type(d_model) is not int:
        raise GraphError(f"cfg has parallel_attn_mlp={parallel!r:.80} and d_model={d_model!r:.80}")
    n_nodes = 2 + n_layers * (n_heads + 1)
    if len(nodes) != n_nodes:
        raise GraphError(
            f"cfg says {counted(n_layers, 'layer')} of {counted(n_heads, 'head')}, so "
            f"{counted(n_nodes, 'node')}, but {len(nodes)} are listed"
        )
    graph = Graph(n_layers, n_heads, n_heads, parallel, d_model)
    if graph.n_edges > EDGES:
        raise GraphError(f"is of {graph.describe()}; a file may be of at most {EDGES:,} here")
    return graph


def _size(cfg: dict[str, object], key: str) -> int:
    size = cfg.get(key)
    if type(size) is not int or size < 1:
        raise GraphError(f"{key} must be a whole number from 1, got {size!r:.80}")
    return size


class _Entry(NamedTuple):
    """One edge of a file; a missing number is NaN."""

    kept: bool
    score: float
    ranking: float


def _edge_entry(name: str, entry: object) -> _Entry:
    kept = entry.get("in_graph") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or type(kept) is not bool:
        raise GraphError(f"edge {name!r:.80} needs in_graph true or false, got {entry!r:.80}")
    return _Entry(kept, *(_number(name, entry, key) for key in ("score", "ranking")))


def _number(name: str, entry: dict[str, object], key: str) -> float:
    value = entry.get(key)
    if value is None:
        return float("nan")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or abs(cast(float, value)) > torch.finfo(torch.float64).max:
        raise GraphError(
            f"edge {name!r:.80} has {key} {value!r:.80}, expected a finite number or NaN"
        )
    return float(cast(float, value))
