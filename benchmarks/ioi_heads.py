"""What the heads of a learned IOI circuit do, read on held-out prompts: for docs/real_models.md.

    python benchmarks/ioi_heads.py RUN [--edges 70] [--set key=value ...]

RUN is a finished run of task `ioi`. Of each head in its circuit of so many edges: attention of the
untouched model from the last position and from the subject's second mention, on clean prompts and,
from the last position, on corrupt ones (abc: no name twice); what the head adds to the logit
difference by its own edge to the logits; the change of the logit difference when all it writes is
ablated, and when only what it writes into the queries of the heads that attend most from the last
position to the receiver is.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.data.batches import Batch
from circuitprune.engine.gated import GatedModel
from circuitprune.lens.heads import attention_patterns, probe_heads
from circuitprune.lens.logits import direct_logit_attribution
from circuitprune.metrics import logit_diff
from circuitprune.patching.effects import node_effects
from circuitprune.patching.paths import set_effect
from circuitprune.pipelines.setup import make_setup
from circuitprune.runs.settings import load_config

MOVERS = 0.3
"""Mean attention from the last position to the receiver from which a head is called a mover."""


def positions(batch: Batch) -> Tensor:
    """Positions `[receiver, subject, subject again, last]` of each pair."""
    rows = []
    for row in range(len(batch)):
        tokens, last = batch.clean[row].tolist(), int(batch.last[row])
        receiver, subject = int(batch.answers[row, 0]), int(batch.wrong[row, 0])
        twice = [i for i, token in enumerate(tokens[: last + 1]) if token == subject]
        rows.append([tokens.index(receiver), twice[0], twice[-1], last])
    return torch.tensor(rows)


def attention(gated: GatedModel, batches: list[Batch]) -> dict[str, Tensor]:
    """Mean attention `[layer, head]` between the places that the task names."""
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        places, rows = positions(batch), torch.arange(len(batch))
        receiver, subject, again, last = places.T
        clean = attention_patterns(gated, batch.clean, batch.mask)
        corrupt = attention_patterns(gated, batch.corrupt, batch.mask)
        found = {
            "END to IO": clean[:, rows, :, last, receiver],
            "END to S1": clean[:, rows, :, last, subject],
            "END to S2": clean[:, rows, :, last, again],
            "S2 to S1": clean[:, rows, :, again, subject],
            "S2 to S1+1": clean[:, rows, :, again, subject + 1],
            "S2 to S2": clean[:, rows, :, again, again],
            "END to END": clean[:, rows, :, last, last],
            "abc: END to IO": corrupt[:, rows, :, last, receiver],
            "abc: END to S1": corrupt[:, rows, :, last, subject],
        }
        for name, values in found.items():
            total = values.sum(dim=0)  # [batch, layer, head]: the axes that are indexed come first
            sums[name] = sums.get(name, torch.zeros_like(total)) + total
        count += len(batch)
    return {name: total / count for name, total in sums.items()}


def heads_of(circuit: Circuit) -> Iterator[tuple[int, int]]:
    """The heads that write a kept edge, in forward order."""
    graph = circuit.graph
    kept = set(graph.edge_writer[circuit.mask].tolist())
    for layer in range(graph.n_layers):
        for head in range(graph.n_heads):
            if graph.head_writer(layer, head) in kept:
                yield layer, head


def main() -> None:
    """Print one row for each head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--edges", type=int, default=70)
    parser.add_argument("--set", nargs="*", default=[], help="settings, such as model.name=FOLDER")
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml", ["train.progress=false", *options.set])
    setup = make_setup(config)
    gated, graph = setup.gated, setup.gated.graph
    circuit = Circuit.load(options.run / "circuits" / f"{options.edges}.json", graph)
    batches = [batch.to(gated.device) for batch in setup.data.batches("test", 16)]
    heads, seen = list(heads_of(circuit)), attention(gated, batches)
    writers = torch.tensor([graph.head_writer(*head) for head in heads])
    effects = node_effects(setup.references, batches, logit_diff, writers)
    shares = [direct_logit_attribution(gated, batch)[0] for batch in batches]
    direct = torch.cat(shares, dim=1).mean(dim=1)
    names = torch.tensor(sorted({int(t) for b in batches for t in b.answers.flatten()}))
    probes = probe_heads(gated, names, torch.Generator().manual_seed(0))
    movers = [head for head in heads if seen["END to IO"][head] >= MOVERS]
    print(
        "| head | "
        + " | ".join(seen)
        + " | copying | anticopying | direct | ablated | into movers' queries |"
    )
    print("|---" * (len(seen) + 6) + "|")
    for (layer, head), writer, effect in zip(heads, writers.tolist(), effects, strict=True):
        into = [
            graph.edge_index(f"a{layer}.h{head}->a{later}.h{mover}<q>")
            for later, mover in movers
            if later > layer
        ]
        moved = set_effect(setup.references, batches, logit_diff, torch.tensor(into)) if into else 0
        cells = [f"{values[layer, head]:.2f}" for values in seen.values()]
        found = (probes.copying[layer, head], probes.anticopying[layer, head])
        cells += [f"{value:.2f}" for value in (*found, direct[writer], effect, moved)]
        print(f"| {layer}.{head} | " + " | ".join(cells) + " |", flush=True)
    print("\nmovers: " + ", ".join(f"{layer}.{head}" for layer, head in movers))


if __name__ == "__main__":
    main()
