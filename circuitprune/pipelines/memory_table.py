"""The table of docs/scale.md: `python -m circuitprune.pipelines.memory_table` prints it."""

from circuitprune.circuits.graph import Graph
from circuitprune.pipelines.memory import Forecast

SHAPES: dict[str, tuple[Graph, int, int]] = {
    "GPT-2 small, float32": (Graph(12, 12, 12, d_model=768), 124_439_808, 4),
    "Llama-3-8B, bfloat16": (Graph(32, 32, 8, d_model=4096), 8_030_261_248, 2),
    "Llama-2-13B, bfloat16": (Graph(40, 40, 40, d_model=5120), 13_015_864_320, 2),
}
"""Graph, parameters, and bytes of a number, by name."""
WORK: tuple[tuple[int, int, int], ...] = ((16, 20, 10), (16, 72, 0), (1, 72, 0))
"""Pairs of a step in one process, tokens of a prompt, and how many of them are run once."""
PAIRS, MAX_GB = 512, 2.0


def table() -> str:
    """In GB, for `PAIRS` pairs and a cache of `MAX_GB`."""
    head = ["model", "edges", "pairs a step", "tokens", "run once", "weights", "references"]
    head += ["prefixes", "step", "together"]
    rows = [head, ["---"] * len(head)]
    for name, (graph, parameters, size) in SHAPES.items():
        for batch, tokens, once in WORK:
            found = Forecast.of_edges(
                graph,
                parameters,
                size,
                rest=tokens - once,
                prefix=once,
                pairs=PAIRS,
                batch=batch,
                max_gb=MAX_GB,
            )
            parts = (found.weights, found.references, found.prefixes, found.step, found.total)
            counts = [f"{graph.n_edges:,}", str(batch), str(tokens), str(once)]
            rows.append([name, *counts, *(f"{part / 1e9:.2f}" for part in parts)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
