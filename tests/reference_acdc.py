"""ACDC, slow and obvious: every edge of every reader, one whole run for each."""

from collections.abc import Callable

from circuitprune.circuits.graph import Graph


def readers_from_the_logits_up(graph: Graph) -> list[str]:
    """Names of the readers in the order in which they are visited."""
    letter = "h" if graph.n_kv_readers == graph.n_heads else "kv"
    names = ["logits"]
    for layer in reversed(range(graph.n_layers)):
        names.append(f"m{layer}")
        for port, prefix, count in (
            ("v", letter, graph.n_kv_readers),
            ("k", letter, graph.n_kv_readers),
            ("q", "h", graph.n_heads),
        ):
            names += [f"a{layer}.{prefix}{i}<{port}>" for i in reversed(range(count))]
    return names


def acdc(
    graph: Graph, threshold: float, worsening: Callable[[set[str]], float]
) -> tuple[set[str], dict[str, float]]:
    """The edges that stay, and how much worse each removal made the circuit of its moment."""
    circuit, increases = set(graph.edges), {}
    current = worsening(circuit)
    for reader in readers_from_the_logits_up(graph):
        for writer in reversed(graph.writers):
            edge = f"{writer}->{reader}"
            if edge not in circuit:
                continue
            without = worsening(circuit - {edge})
            increases[edge] = without - current
            if without - current < threshold:
                circuit, current = circuit - {edge}, without
    return circuit, increases
