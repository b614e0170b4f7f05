"""Is the circuit better than chance? Its place among random circuits of equal size."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import joinable_edges, live_edges
from circuitprune.data.batches import few_pairs
from circuitprune.engine.evaluation import Examples, evaluate_each, evaluate_full_each
from circuitprune.evidence.case import Case
from circuitprune.evidence.statistics import ALPHA, rank_test, worst_of
from circuitprune.metrics import EVIDENCE_NAMES

Draw = Callable[[Graph, Bool[Tensor, " edge"], torch.Generator], Bool[Tensor, " edge"]]
"""`(graph, circuit, generator) -> mask` of a random circuit as large as the given one."""
ROUNDS = 200
"""How often dangling edges of a matched circuit are drawn anew."""


def uniform(
    graph: Graph, mask: Bool[Tensor, " edge"], generator: torch.Generator
) -> Bool[Tensor, " edge"]:
    """As many live edges as the circuit has, from all edges alike.

    Cutting a random ranking would not do: few random edges hold a path from `input` to `logits`,
    and the ranking that does brings far more edges to life at once than were asked for. So edges
    that dangle are drawn anew, as in `matched`.
    """
    return _drawn(graph, mask, torch.zeros(graph.n_edges, dtype=torch.long), generator)


def matched(
    graph: Graph, mask: Bool[Tensor, " edge"], generator: torch.Generator
) -> Bool[Tensor, " edge"]:
    """As many edges of each kind and layer, at both ends, as the circuit has, and all of them live.

    A cell holds the edges from one layer's heads, one MLP or `input` to one layer's q, k or v
    readers, one MLP or `logits`; in each, as many edges are drawn as the circuit has there.
    """
    return _drawn(graph, mask, cell_of_edges(graph), generator)


def _drawn(
    graph: Graph,
    mask: Bool[Tensor, " edge"],
    cells: Int[Tensor, " edge"],
    generator: torch.Generator,
) -> Bool[Tensor, " edge"]:
    """As many random edges of each cell as the circuit has there, all live.

    Of the edges that dangle, a quarter is drawn anew, those first that are live at once next to
    what stays, and so on for up to `ROUNDS` rounds; every tenth draws half of all edges anew, in
    case the live ones leave no place for the rest. What dangles even then is cut off.
    """
    wanted = torch.bincount(cells[live_edges(graph, mask)], minlength=int(cells.max()) + 1)
    drawn = _best_of_cells(cells, torch.rand(graph.n_edges, generator=generator), wanted)
    for done in range(1, ROUNDS + 1):
        live = live_edges(graph, drawn)
        if torch.equal(live, drawn):
            break
        among, share = (drawn, 2) if done % 10 == 0 else (drawn & ~live, 4)
        edges = among.nonzero().flatten()
        some = torch.randperm(len(edges), generator=generator)[: 1 + len(edges) // share]
        out = edges[some]
        drawn[out] = False
        first = torch.rand(graph.n_edges, generator=generator)
        first[joinable_edges(graph, drawn)] += 1
        missing = torch.bincount(cells[out], minlength=len(wanted))
        drawn |= _best_of_cells(cells, first.masked_fill(drawn, -torch.inf), missing)
    return live_edges(graph, drawn)


def relabelled(
    graph: Graph, mask: Bool[Tensor, " edge"], generator: torch.Generator
) -> Bool[Tensor, " edge"]:
    """The same circuit with the heads of each layer exchanged among themselves at random.

    Same edges in each cell of `matched`, same shape, every edge as live as it was: what is random
    is only which heads have which part. With grouped queries, KV heads are exchanged and the heads
    of a group within it.
    """
    writers, readers = torch.arange(graph.n_writers), torch.arange(graph.n_readers)
    group = graph.n_heads // graph.n_kv_readers
    for layer in range(graph.n_layers):
        kv = torch.randperm(graph.n_kv_readers, generator=generator)
        within = [torch.randperm(group, generator=generator) for _ in range(graph.n_kv_readers)]
        heads = torch.cat([kv[i] * group + within[i] for i in range(graph.n_kv_readers)])
        writers[graph.heads(layer)] = graph.head_writer(layer, 0) + heads
        first = graph.attention_block(layer).first_reader
        moved = torch.cat([heads, graph.n_heads + kv, graph.n_heads + graph.n_kv_readers + kv])
        readers[first : first + len(moved)] = first + moved
    new = torch.zeros_like(mask)
    kept = mask.nonzero().flatten()
    new[_edge_of(graph, writers[graph.edge_writer[kept]], readers[graph.edge_reader[kept]])] = True
    return new


DRAWS: dict[str, Draw] = {"uniform": uniform, "matched": matched, "relabelled": relabelled}
"""Families of random circuits, from the easiest to beat to the hardest."""


def random_circuits(case: Case) -> dict:
    """The circuit's quantile among `n_random` random circuits of each family in `DRAWS`.

    For KL, metric, accuracy, exact match and faithfulness: the share of random circuits that do
    worse (`quantile`, ties half), and the p-value that the circuit is one more of them (`p`: the
    share that does at least as well, the circuit itself counted). Few pairs are used: see
    `few_pairs`; the circuit's own numbers here are on the same pairs.

    A draw may be the circuit itself (`n_same`), which is as good as the circuit. Where there are so
    many of these that no p could fall below `ALPHA` (`least_p`), the family is `undecided`.

    Source: Shi et al. 2024 (arXiv 2410.13032) and MIB (arXiv 2504.13151) compare with random
    circuits; the matched families are ours.
    """
    batches, graph = few_pairs(case.batches), case.graph
    masks = {"circuit": case.mask, "empty": case.empty_mask}
    for family, draw in DRAWS.items():
        generator = case.generator(f"random circuits {family}")
        masks |= {f"{family} {i}": draw(graph, case.mask, generator) for i in range(case.n_random)}
    found = evaluate_each(
        case.references,
        masks,
        batches,
        case.task_metric,
        lambda share: case.progress("random_circuits", share),
    )
    full = evaluate_full_each(case.references, batches, case.task_metric)
    numbers = {name: _numbers(examples, full, found["empty"]) for name, examples in found.items()}
    families: dict[str, dict] = {}
    for family in DRAWS:
        names = [f"{family} {i}" for i in range(case.n_random)]
        edges = [int(masks[name].sum()) for name in names]
        places = _places(numbers["circuit"], [numbers[name] for name in names])
        n_same = sum(torch.equal(masks[name], case.mask) for name in names)
        families[family] = {
            "n_edges": {"least": min(edges), "mean": sum(edges) / len(edges), "most": max(edges)},
            "n_same": n_same,
            "least_p": (1 + n_same) / (1 + case.n_random),
            "verdict": verdict(places["kl"]["p"], n_same, case.n_random),
            **places,
            "kl_of_each": [numbers[name]["kl"] for name in names],
        }
    return {
        "n_pairs": sum(map(len, batches)),
        "n_random": case.n_random,
        "n_edges": int(case.mask.sum()),
        "circuit": numbers["circuit"],
        "families": families,
        "verdict": worst_of(f["verdict"] for f in families.values()),
        "sentence": _sentence(case, numbers["circuit"], families, sum(map(len, batches))),
    }


def _numbers(circuit: Examples, full: Examples, empty: Examples) -> dict[str, float]:
    """Means over the pairs, and faithfulness unless the full and the empty model score alike."""
    numbers = {name: getattr(circuit, name).mean().item() for name in EVIDENCE_NAMES}
    span = (full.metric - empty.metric).mean().item()
    if abs(span) > 1e-6 * (full.metric.abs() + empty.metric.abs()).mean().item():
        numbers["faithfulness"] = (circuit.metric - empty.metric).mean().item() / span
    return numbers


def _places(circuit: dict[str, float], others: list[dict[str, float]]) -> dict[str, dict]:
    places = {}
    for name, value in circuit.items():
        values = torch.tensor([other[name] for other in others], dtype=torch.float64)
        sign = -1 if name == "kl" else 1  # of what is better
        worse = (sign * values < sign * value).double() + 0.5 * (values == value)
        places[name] = {
            "quantile": worse.mean().item(),
            "p": rank_test(sign * value, sign * values),
            "mean": values.mean().item(),
            "best": sign * (sign * values).max().item(),
            "worst": sign * (sign * values).min().item(),
        }
    return places


def verdict(p: float, n_same: int, n_random: int) -> str:
    """Of one family; `undecided` if it holds too few other circuits for any circuit to pass."""
    if (1 + n_same) / (1 + n_random) >= ALPHA:
        return "undecided"
    return "pass" if p < ALPHA else "fail"


def _sentence(case: Case, circuit: dict[str, float], families: dict, n_pairs: int) -> str:
    told = "; ".join(
        f"{family} {f['kl']['quantile']:.0%} (p = {f['kl']['p']:.3g}, their mean KL "
        f"{f['kl']['mean']:.3g}, best {f['kl']['best']:.3g})"
        for family, f in families.items()
    )
    return (
        f"On {n_pairs} pairs the circuit's KL of {circuit['kl']:.3g} nats is below that of this "
        f"share of {case.n_random} random circuits of its size: {told}. It is better than chance "
        f"if p < {ALPHA:g} in every family. {_reach(families)}"
    )


def _reach(families: dict) -> str:
    """How small p could have become, and which families that leaves undecided."""
    least = min(f["least_p"] for f in families.values())
    few = {family: f for family, f in families.items() if f["verdict"] == "undecided"}
    said = f"p cannot fall below {least:.2g} here."
    if not few:
        return said
    there = ", ".join(f"{family} {f['least_p']:.2g}" for family, f in few.items())
    same = ", ".join(str(f["n_same"]) for f in few.values())
    return (
        f"{said} Undecided, as p cannot fall below {ALPHA:g} there: {there}; of the circuits "
        f"drawn, {same} are this very circuit, and there are too few others to tell."
    )


def cell_of_edges(graph: Graph) -> Int[Tensor, " edge"]:
    """Number of the cell of each edge: kind and layer of the writer with those of the reader."""
    kinds = {kind: i for i, kind in enumerate(("q", "k", "v", "mlp", "logits"))}
    reader = torch.tensor([kinds[kind] for kind in graph.reader_kind])
    reader += len(kinds) * graph.reader_layer
    mlps = torch.tensor([graph.mlp_writer(layer) for layer in range(graph.n_layers)])
    writer = 2 * (graph.writer_layer + 1)
    writer[mlps] += 1
    pairs = writer[graph.edge_writer] * (int(reader.max()) + 1) + reader[graph.edge_reader]
    return pairs.unique(return_inverse=True)[1]


def _best_of_cells(
    cells: Int[Tensor, " edge"], keys: Tensor, number: Int[Tensor, " cell"]
) -> Bool[Tensor, " edge"]:
    """The mask of the `number[c]` edges of largest key in each cell c."""
    order = keys.argsort(descending=True, stable=True)
    order = order[cells[order].argsort(stable=True)]
    sizes = torch.bincount(cells, minlength=len(number))
    starts = sizes.cumsum(0) - sizes
    place = torch.arange(len(cells)) - starts[cells[order]]
    mask = torch.zeros(len(cells), dtype=torch.bool)
    mask[order[place < number[cells[order]]]] = True
    return mask


def _edge_of(
    graph: Graph, writers: Int[Tensor, " n"], readers: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Positions of the edges from each writer to the reader beside it."""
    first = torch.tensor(
        [b.first_edge + i * b.n_writers for b in graph.blocks for i in range(b.n_readers)]
    )
    return first[readers] + writers
