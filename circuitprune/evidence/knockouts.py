"""Nodes to knock out of a circuit and of the whole model alike, and what both do without them.

Knocking out a node ablates every edge out of it; `completeness.py` compares what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.data.batches import Batch
from circuitprune.engine.progress import Progress, silent, told
from circuitprune.evidence.case import Case
from circuitprune.files.text import counted
from circuitprune.metrics import evidence_values

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
"""Sizes of random knock-outs, as shares of the circuit's nodes."""
GREEDY_STEPS = 5
"""Nodes in the largest greedy knock-out."""
GREEDY_PAIRS = 64
"""Pairs, at least, on which greedy knock-outs are searched; all are measured on all pairs."""


Family = Literal["none", "class", "random", "greedy"]
"""Why these nodes: nothing, a class of nodes, drawn at random, or the worst that was found."""


@dataclass(frozen=True)
class KnockOut:
    """Nodes that are knocked out together."""

    family: Family
    name: str
    writers: tuple[int, ...]
    """Positions in `Graph.writers`, ascending."""


@dataclass(frozen=True)
class Both:
    """What circuit and model do on each pair under one knock-out; float64, `[example]`."""

    circuit: Float[Tensor, " example"]
    """Task metric."""
    model: Float[Tensor, " example"]
    """Task metric."""
    kl: Float[Tensor, " example"]
    """`KL(M without K || C without K)` in nats: also sees what the task metric does not."""

    @property
    def gap(self) -> Float[Tensor, " example"]:
        """Circuit minus model, in the metric's unit."""
        return self.circuit - self.model


# ---------------------------------------------------------------- what to knock out


def kept_writers(graph: Graph, mask: Bool[Tensor, " edge"]) -> list[int]:
    """The circuit's nodes that can be knocked out: heads and MLPs that a kept edge leaves.

    Not `input`: without it neither circuit nor model sees the prompt.
    """
    return [w for w in graph.edge_writer[mask].unique().tolist() if w != 0]


def without(
    graph: Graph, mask: Bool[Tensor, " edge"], writers: Sequence[int]
) -> Bool[Tensor, " edge"]:
    """The same edges but for those out of some nodes."""
    return mask & ~torch.isin(graph.edge_writer, torch.tensor(writers, dtype=torch.long))


def classes(graph: Graph, mask: Bool[Tensor, " edge"]) -> list[KnockOut]:
    """The circuit's nodes by layer and kind, and by what their kept edges feed; each set once."""
    nodes = kept_writers(graph, mask)
    heads = [w for w in nodes if not _is_mlp(graph, w)]
    named = {"MLPs": [w for w in nodes if _is_mlp(graph, w)], "attention heads": heads}
    for layer in range(graph.n_layers):
        named[f"heads of layer {layer}"] = [w for w in heads if int(graph.writer_layer[w]) == layer]
    kind = [graph.reader_kind[reader] for reader in graph.edge_reader.tolist()]
    for port in ("q", "k", "v", "mlp", "logits"):
        into = mask & torch.tensor([one == port for one in kind])
        named[f"writers into {port}"] = kept_writers(graph, into)
    found: dict[tuple[int, ...], list[str]] = {}
    for name, writers in named.items():
        if writers:
            found.setdefault(tuple(writers), []).append(name)
    return [KnockOut("class", " = ".join(names), writers) for writers, names in found.items()]


def random_sets(case: Case, nodes: Sequence[int]) -> list[KnockOut]:
    """`n_knockouts` sets, their sizes going round `FRACTIONS`; fewer where nodes are few."""
    generator = case.generator("completeness/random")
    found: dict[tuple[int, ...], KnockOut] = {}
    for i in range(case.n_knockouts if nodes else 0):
        size = max(1, round(FRACTIONS[i % len(FRACTIONS)] * len(nodes)))
        order = torch.randperm(len(nodes), generator=generator)[:size].tolist()
        writers = tuple(sorted(nodes[at] for at in order))
        found.setdefault(
            writers, KnockOut("random", f"{size} of {counted(len(nodes), 'node')}", writers)
        )
    return list(found.values())


def greedy_sets(case: Case, nodes: Sequence[int]) -> list[KnockOut]:
    """Sets of 1, 2, ... nodes, each the last one with the node that opens |gap| most.

    The search stops when no node opens it further, or after `GREEDY_STEPS`.
    """
    generator = case.generator("completeness/greedy")
    batches = _first(case.batches, GREEDY_PAIRS)
    chosen: tuple[int, ...] = ()
    worst, found = -1.0, list[KnockOut]()
    steps = range(min(GREEDY_STEPS, len(nodes)))
    for step in told(steps, case.watch("greedy", "steps")):
        left = [node for node in nodes if node not in chosen]
        order = torch.randperm(len(left), generator=generator)[: case.n_knockouts].tolist()
        tried = [
            KnockOut("greedy", f"greedy {step + 1}", tuple(sorted((*chosen, left[at]))))
            for at in sorted(order)
        ]
        gaps = [abs(run.gap.mean().item()) for run in both(case, tried, batches)]
        if not gaps or max(gaps) <= worst:
            break
        worst = max(gaps)
        found.append(tried[gaps.index(worst)])
        chosen = found[-1].writers
    return found


def _first(batches: Sequence[Batch], n: int) -> list[Batch]:
    """Whole batches from the front until there are `n` pairs."""
    taken: list[Batch] = []
    for batch in batches:
        if sum(map(len, taken)) < n:
            taken.append(batch)
    return taken


def _is_mlp(graph: Graph, writer: int) -> bool:
    return (writer - 1) % (graph.n_heads + 1) == graph.n_heads


# ---------------------------------------------------------------- runs


@torch.no_grad()
def both(
    case: Case,
    sets: Sequence[KnockOut],
    batches: Sequence[Batch],
    progress: Progress = silent,
) -> list[Both]:
    """Circuit and model under each knock-out, on the pairs of some batches; a run is of both."""
    rows: list[list[Float[Tensor, "3 _"]]] = [[] for _ in sets]
    done = count(1)
    for run in case.references.runs(batches):
        for row, knock_out in zip(rows, sets, strict=True):
            circuit, model = (
                run(without(case.graph, mask, knock_out.writers)).cpu()
                for mask in (case.mask, case.full_mask)
            )
            values = evidence_values(circuit, model, run.batch, case.task_metric)
            of_model = case.task_metric(model, run.batch.to("cpu")).double()
            row.append(torch.stack([values[1], of_model, values[0]]))
            progress(next(done), len(sets) * len(batches))
    return [Both(*torch.cat(row, dim=1)) for row in rows]
