"""Slow, obvious versions of the graph code: loops over names, networkx for paths."""

import networkx

from circuitprune.circuits.graph import Graph

SIZES = [  # layers, heads, KV readers, parallel
    (1, 1, 1, False),
    (2, 2, 2, False),
    (2, 4, 2, False),
    (3, 2, 1, False),
    (2, 2, 2, True),
    (3, 4, 2, True),
]
GRAPHS = [Graph(*sizes) for sizes in SIZES]


def heads_of_kv(graph, kv):
    group = graph.n_heads // graph.n_kv_readers
    return [head for head in range(graph.n_heads) if head // group == kv]


def nodes_of_reader(graph, reader):
    """Names of the nodes that a reader feeds: one, or all heads of a KV group."""
    node = reader.partition("<")[0]
    if ".kv" not in node:
        return [node]
    layer, kv = node.split(".kv")
    return [f"{layer}.h{head}" for head in heads_of_kv(graph, int(kv))]


def edge_names(graph):
    """All edges, in the order of the docs: block by block, within a block reader by reader."""
    upstream, names = ["input"], []
    letter = "h" if graph.n_kv_readers == graph.n_heads else "kv"
    for layer in range(graph.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(graph.n_heads)]
        ports = [f"{head}<q>" for head in heads]
        ports += [f"a{layer}.{letter}{i}<k>" for i in range(graph.n_kv_readers)]
        ports += [f"a{layer}.{letter}{i}<v>" for i in range(graph.n_kv_readers)]
        names += [f"{writer}->{port}" for port in ports for writer in upstream]
        seen_by_mlp = upstream if graph.parallel else upstream + heads
        names += [f"{writer}->m{layer}" for writer in seen_by_mlp]
        upstream = [*upstream, *heads, f"m{layer}"]
    return names + [f"{writer}->logits" for writer in upstream]


def mib_edge_names(graph):
    """All edges of an ungrouped graph in the order of EAP-IG's files."""
    upstream, names = ["input"], []
    for layer in range(graph.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(graph.n_heads)]
        for writer in upstream:
            for head in heads:
                names += [f"{writer}->{head}<{port}>" for port in "qkv"]
        names += [f"{w}->m{layer}" for w in (upstream if graph.parallel else upstream + heads)]
        upstream = [*upstream, *heads, f"m{layer}"]
    return names + [f"{writer}->logits" for writer in upstream]


def trim(graph, names):
    """The edges among `names` on a path from input to logits."""
    paths = networkx.DiGraph()
    paths.add_nodes_from(["input", "logits"])
    for name in names:
        writer, reader = name.split("->")
        paths.add_edge(writer, "into " + reader)
        for node in nodes_of_reader(graph, reader):
            paths.add_edge("into " + reader, node)
    reached = networkx.descendants(paths, "input") | {"input"}
    leading = networkx.ancestors(paths, "logits") | {"logits"}
    return {
        name
        for name in names
        if name.split("->")[0] in reached and "into " + name.split("->")[1] in leading
    }


def top_n(graph, ranking, n_edges):
    """The largest trimmed prefix of at most n_edges edges, then the next edges live beside it."""
    sizes = [trim(graph, ranking[:k]) for k in range(len(ranking) + 1)]
    prefix = [names for names in sizes if len(names) <= n_edges][-1]
    beside = [n for n in ranking if n not in prefix and n in trim(graph, [*prefix, n])]
    return prefix | set(beside[: n_edges - len(prefix)])


def greedy_ranking(graph, scores):
    """Edges by growing from the logits; `scores` maps names to numbers, in the graph's order."""
    connected, ranking = {"logits"}, []
    while len(ranking) < len(scores):
        best = ""
        for name, score in scores.items():
            open_ = set(nodes_of_reader(graph, name.split("->")[1])) & connected
            if name not in ranking and open_ and (not best or score > scores[best]):
                best = name
        ranking.append(best)
        connected.add(best.split("->")[0])
    return ranking
