"""Circuits as Edge-Pruning's list of [writer, reader] names.

Source: Edge-Pruning (arXiv 2406.16778) `src/modeling/modeling_fpt2.py` and `modeling_fllama.py`
(`get_edges`).
"""

from collections.abc import Sequence
from itertools import product

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.parts import Parts
from circuitprune.errors import GraphError
from circuitprune.files.text import counted

EMBEDDINGS = ("embeds", "tok_embeds", "pos_embeds", "input")
"""What edge lists call the embeddings: Edge-Pruning's Llama says the first, its GPT-2 the next two.

All of them mean our one writer `input`.
"""


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


def from_edge_pruning(pairs: list[object], graph: Graph) -> Parts:
    """The circuit in a list of [writer, reader] names.

    `a3.h1.k` is KV head 1 if the graph is grouped, as in Edge-Pruning's Llama, and query head 1
    if it is not (see `refuse_other_heads`). `tok_embeds` and `pos_embeds` are both our `input`,
    whose edge is kept if either is listed. Pairs from a port to its own head (`a0.h1.q`, `a0.h1`),
    which Edge-Pruning draws, are no edges of ours and are passed over.

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


def refuse_other_heads(pairs: list[object], graph: Graph, n_kv_heads: int | None) -> None:
    """Nothing, unless a list's keys and values would be taken for other heads' than they are of.

    Those of their Llama are of KV heads; where there are fewer of these, they are no query heads.
    Their GPT-2, which says `tok_embeds` and `pos_embeds`, has as many of either.

    Args:
        pairs: The list.
        graph: What it is read on.
        n_kv_heads: Of the model; None if nobody says.

    Raises:
        GraphError: the graph counts by query head and the model does not, or nobody says so.
    """
    if n_kv_heads == graph.n_kv_readers or graph.n_kv_readers < graph.n_heads:
        if n_kv_heads in (None, graph.n_kv_readers):
            return
    elif n_kv_heads is None and (_of_gpt2(pairs) or not _names_keys(pairs)):
        return
    said = (
        "the model's are not said: pass n_kv_heads, or count by KV head"
        if n_kv_heads is None
        else f"the model has {n_kv_heads} of them: count by KV head"
    )
    raise GraphError(
        "is an Edge-Pruning edge list, whose keys and values are those of KV heads, the "
        f"{counted(graph.n_kv_readers, 'key reader')} here are of query heads, and {said}, which "
        "is model.kv_readers=kv_head"
    )


def refuse_query_heads(parts: Parts) -> None:
    """Nothing, unless keys and values are known to be of query heads, which a list has no word for.

    Raises:
        GraphError: they are, and some are kept.
    """
    by_query_head = parts.provenance.get("kv_readers") == "query_head"
    if by_query_head and _names_keys(list(to_edge_pruning(parts))):
        raise GraphError(
            "Edge-Pruning's lists name keys and values of KV heads, those of this circuit are of "
            "query heads (model.kv_readers=query_head): find it with model.kv_readers=kv_head, or, "
            "of a GPT-2, write edge_pruning_gpt2"
        )


def _of_gpt2(pairs: list[object]) -> bool:
    return bool({"tok_embeds", "pos_embeds"} & set(embeddings_in(pairs)))


def _names_keys(pairs: list[object]) -> bool:
    readers = (pair[-1] for pair in pairs if isinstance(pair, list) and pair)
    return any(isinstance(reader, str) and reader.endswith((".k", ".v")) for reader in readers)


def embeddings_in(pairs: list[object]) -> tuple[str, ...]:
    """The embedding names that an edge list uses, in their order of appearance."""
    names = (pair[0] for pair in pairs if isinstance(pair, list) and pair)
    return tuple(dict.fromkeys(name for name in names if name in EMBEDDINGS))


def _edge_pruning_reader(name: str) -> str:
    """`a0.h1<q>` and `a0.kv1<k>` as `a0.h1.q` and `a0.h1.k`; `logits` as `resid_post`."""
    if name == "logits":
        return "resid_post"
    return name.replace(".kv", ".h").replace("<", ".").replace(">", "")
