"""Circuit files as plain JSON values: EAP-IG's and MIB's graph, and Edge-Pruning's edge list.

Nothing here touches a disk or knows `Circuit`: a circuit's `Parts` go in and come out.
`docs/file_formats.md` shows the files.

Source: EAP-IG `src/eap/graph.py` (`to_json`, `from_json`), used by MIB; Edge-Pruning (arXiv
2406.16778) `src/modeling/modeling_fpt2.py` and `modeling_fllama.py` (`get_edges`).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import kept_nodes
from circuitprune.errors import GraphError

SCHEMA = 1
"""Version of the `circuitprune` key in circuit files."""

EMBEDDINGS = ("embeds", "tok_embeds", "pos_embeds", "input")
"""What edge lists call the embeddings: Edge-Pruning's Llama says the first, its GPT-2 the next two.

All of them mean our one writer `input`.
"""

_DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


class Parts(NamedTuple):
    """What a circuit is made of, in the order of `Circuit`'s fields."""

    graph: Graph
    mask: Bool[Tensor, " edge"]
    scores: Float[Tensor, " edge"] | None
    provenance: dict


def parse(value: object, graph: Graph | None = None) -> Parts:
    """The circuit in a JSON value, whichever of the known forms it has.

    Args:
        value: An EAP-IG/MIB object (also our own) or an Edge-Pruning list.
        graph: Needed for an edge list, which carries no sizes; for an object, only checked.

    Raises:
        GraphError: none of the known forms, unknown names, or sizes that do not fit.
    """
    if isinstance(value, list):
        if graph is None:
            raise GraphError(
                "an Edge-Pruning edge list does not say the model's sizes; "
                "pass them, as in Circuit.load(path, graph=Graph(12, 12, 12))"
            )
        return from_edge_pruning(value, graph)
    if not isinstance(value, dict) or not {"cfg", "nodes", "edges"} <= value.keys():
        raise GraphError(
            "not a circuit: expected an object with 'cfg', 'nodes' and 'edges' (EAP-IG, MIB, "
            "circuitprune) or a list of [writer, reader] pairs (Edge-Pruning)"
        )
    parts = from_mib(value)
    if graph is not None and replace(graph, d_model=parts.graph.d_model) != parts.graph:
        raise GraphError(f"holds {parts.graph.describe()}, expected {graph.describe()}")
    return parts


# -------------------------------------------------------------------- EAP-IG, MIB and our own


def to_mib(parts: Parts) -> dict:
    """The object that EAP-IG's `Graph.from_json` reads, in its own node and edge order.

    Keys and values are those of `Graph.ungrouped()`. What the three keys cannot say (grouping,
    provenance, the dtype or absence of scores) goes into a fourth, `circuitprune`, which EAP-IG
    ignores. Without scores, `score` is 1 for a kept edge and 0 for the others, because EAP-IG
    needs a number there; NaN is its "not scored".

    Raises:
        GraphError: an infinite score.
    """
    graph, mask, scores, _ = parts
    if scores is not None and torch.isinf(scores).any():
        raise GraphError("infinite scores cannot be written; use NaN for 'not scored'")
    whole, order = graph.ungrouped(), _mib_order(graph.ungrouped())
    mask = graph.ungroup(mask)
    numbers = mask.double() if scores is None else graph.ungroup(scores).double()
    nodes = set(kept_nodes(whole, mask))
    edges = zip(order.tolist(), numbers[order].tolist(), mask[order].tolist(), strict=True)
    value = {
        "cfg": {
            "n_layers": graph.n_layers,
            "n_heads": graph.n_heads,
            "parallel_attn_mlp": graph.parallel,
            "d_model": graph.d_model,
        },
        "nodes": {name: {"in_graph": name in nodes} for name in (*whole.writers, "logits")},
        "edges": {whole.edges[i]: {"score": score, "in_graph": kept} for i, score, kept in edges},
    }
    return {**value, **_own_key(parts)}


def from_mib(value: dict) -> Parts:
    """The circuit in an EAP-IG/MIB object; edges that are not listed are not kept, not scored.

    Raises:
        GraphError: wrong sizes, unknown edges, flags that are not booleans, scores that are not
            finite numbers or NaN, or a `circuitprune` key of a newer version.
    """
    whole = _graph_of(value)
    mask = torch.zeros(whole.n_edges, dtype=torch.bool)
    scores = torch.full((whole.n_edges,), torch.nan, dtype=torch.float64)
    if not isinstance(value["edges"], dict):
        raise GraphError("'edges' must be an object of edge names")
    entries = [_edge_entry(name, entry) for name, entry in value["edges"].items()]
    positions = [whole.edge_index(name) for name in value["edges"]]
    mask[positions] = torch.tensor([kept for kept, _ in entries], dtype=torch.bool)
    scores[positions] = torch.tensor([score for _, score in entries], dtype=torch.float64)
    if "circuitprune" in value:
        return _from_own_key(value["circuitprune"], whole, mask, scores)
    return Parts(whole, mask, None if scores.isnan().all() else scores, {})


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


def _own_key(parts: Parts) -> dict:
    """`{"circuitprune": ...}`, or nothing when the other keys say it all."""
    graph, _, scores, provenance = parts
    grouped = graph.n_kv_readers != graph.n_heads
    dtype = None if scores is None else str(scores.dtype).removeprefix("torch.")
    if not grouped and dtype == "float64" and not provenance:
        return {}
    return {
        "circuitprune": {
            "schema": SCHEMA,
            "graph": {"n_kv_readers": graph.n_kv_readers},
            "score_dtype": dtype,
            "provenance": provenance,
        }
    }


def _from_own_key(
    own: object,
    whole: Graph,
    mask: Bool[Tensor, " edge"],
    scores: Float[Tensor, " edge"],
) -> Parts:
    if not isinstance(own, dict) or type(own.get("schema")) is not int:
        raise GraphError("the 'circuitprune' key has no schema number")
    if own["schema"] > SCHEMA:
        raise GraphError(
            f"written by a newer circuitprune (schema {own['schema']}, this one reads up to "
            f"{SCHEMA}); upgrade circuitprune"
        )
    try:
        graph = replace(whole, n_kv_readers=_size(own["graph"], "n_kv_readers"))
        dtype = None if own["score_dtype"] is None else _DTYPES[own["score_dtype"]]
        provenance = own["provenance"]
    except (KeyError, TypeError, AttributeError) as error:
        raise GraphError(f"the 'circuitprune' key is damaged: {error!r}") from error
    if not isinstance(provenance, dict):
        raise GraphError(f"provenance must be an object, got {provenance!r:.80}")
    folded = None if dtype is None else _fold(graph, scores).to(dtype)
    return Parts(graph, _fold(graph, mask), folded, provenance)


def _fold(graph: Graph, values: Shaped[Tensor, " edge_ungrouped"]) -> Shaped[Tensor, " edge"]:
    """The inverse of `graph.ungroup`."""
    folded = torch.empty(graph.n_edges, dtype=values.dtype)
    folded[graph.group_of_ungrouped] = values
    back = graph.ungroup(folded)
    if not ((back == values) | ((back != back) & (values != values))).all():
        raise GraphError(
            f"query heads that share one of {graph.n_kv_readers} KV heads have different k or v "
            "edges; remove the 'circuitprune' key to read the circuit by query head"
        )
    return folded


def _graph_of(value: dict) -> Graph:
    """Sizes of an EAP-IG object, held against its node list before anything large is built."""
    cfg, nodes = value["cfg"], value["nodes"]
    if not isinstance(cfg, dict) or not isinstance(nodes, dict):
        raise GraphError("'cfg' and 'nodes' must be objects")
    n_layers, n_heads = _size(cfg, "n_layers"), _size(cfg, "n_heads")
    parallel, d_model = cfg.get("parallel_attn_mlp", False), cfg.get("d_model", 0)
    if type(parallel) is not bool or type(d_model) is not int:
        raise GraphError(f"cfg has parallel_attn_mlp={parallel!r} and d_model={d_model!r}")
    n_nodes = 2 + n_layers * (n_heads + 1)
    if len(nodes) != n_nodes:
        raise GraphError(
            f"cfg says {n_layers} layers of {n_heads} heads, so {n_nodes} nodes, "
            f"but {len(nodes)} are listed"
        )
    return Graph(n_layers, n_heads, n_heads, parallel, d_model)


def _size(cfg: dict, key: str) -> int:
    size = cfg.get(key)
    if type(size) is not int or size < 1:
        raise GraphError(f"{key} must be a whole number from 1, got {size!r}")
    return size


def _edge_entry(name: str, entry: object) -> tuple[bool, float]:
    """`in_graph` and `score` of one edge; a missing score is NaN."""
    kept = entry.get("in_graph") if isinstance(entry, dict) else None
    score = entry.get("score") if isinstance(entry, dict) else None
    if type(kept) is not bool:
        raise GraphError(f"edge {name!r} needs in_graph true or false, got {entry!r:.80}")
    if score is None:
        return kept, float("nan")
    if type(score) not in (int, float) or abs(score) > torch.finfo(torch.float64).max:
        raise GraphError(f"edge {name!r} has score {score!r:.80}, expected a finite number or NaN")
    return kept, float(score)


# -------------------------------------------------------------------- Edge-Pruning


def to_edge_pruning(parts: Parts, embeddings: Sequence[str] = ("embeds",)) -> list[list[str]]:
    """The kept edges as [writer, reader] names, in the order of Edge-Pruning's `get_edges`.

    Args:
        parts: The circuit; scores and provenance have no place in this form.
        embeddings: What to call `input`: `("embeds",)` as their Llama does, or
            `("tok_embeds", "pos_embeds")` as their GPT-2, which gives two pairs for one edge.
    """
    graph, mask = parts.graph, parts.mask
    pairs = []
    for block in graph.blocks:
        view = graph.block_view(mask, block)
        readers = [_edge_pruning_reader(name) for name in graph.readers[block.readers]]
        for writer in view.any(dim=0).nonzero().flatten().tolist():
            names = embeddings if writer == 0 else (graph.writers[writer],)
            kept = view[:, writer].nonzero().flatten().tolist()
            pairs += [[name, readers[i]] for name, i in product(names, kept)]
    return pairs


def from_edge_pruning(pairs: list, graph: Graph) -> Parts:
    """The circuit in a list of [writer, reader] names.

    `a3.h1.k` is KV head 1 if the graph is grouped, as in Edge-Pruning's Llama, and query head 1
    if it is not. `tok_embeds` and `pos_embeds` are both our `input`, whose edge is kept if either
    is listed. Pairs from a port to its own head (`a0.h1.q`, `a0.h1`), which Edge-Pruning draws,
    are no edges of ours and are passed over.

    Raises:
        GraphError: an entry is not a pair of names, or names no edge of the graph.
    """
    writers = {**dict.fromkeys(EMBEDDINGS, "input"), **{n: n for n in graph.writers[1:]}}
    readers = {_edge_pruning_reader(name): name for name in graph.readers}
    names = []
    for pair in pairs:
        if not (isinstance(pair, list) and [type(x) for x in pair] == [str, str]):
            raise GraphError(f"expected a [writer, reader] pair of names, got {pair!r:.80}")
        writer, reader = pair
        if reader in writers and writer in {f"{reader}.{port}" for port in "qkv"}:
            continue
        if writer not in writers or reader not in readers:
            raise GraphError(
                f"{pair!r:.80} is not an edge of {graph.describe()}; "
                "pairs look like ['a0.h1', 'a2.h3.q'] or ['m0', 'resid_post']"
            )
        names.append(f"{writers[writer]}->{readers[reader]}")
    return Parts(graph, graph.mask_of(names), None, {})


def embeddings_in(pairs: list) -> tuple[str, ...]:
    """The embedding names that an edge list uses, in their order of appearance."""
    return tuple(dict.fromkeys(pair[0] for pair in pairs if pair[0] in EMBEDDINGS))


def _edge_pruning_reader(name: str) -> str:
    """`a0.h1<q>` and `a0.kv1<k>` as `a0.h1.q` and `a0.h1.k`; `logits` as `resid_post`."""
    if name == "logits":
        return "resid_post"
    return name.replace(".kv", ".h").replace("<", ".").replace(">", "")
