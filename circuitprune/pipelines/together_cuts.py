"""From shared and private scores to circuits of every task: by size, and by what they reach."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.selection import n_edges_of
from circuitprune.circuits.sharing import Rows, Together, cut_together, private_of, with_shared
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.errors import ConfigError
from circuitprune.pipelines.frontier import _empty
from circuitprune.pipelines.setup import Setup
from circuitprune.training.target import Target


def cut_sizes(setups: Sequence[Setup], rows: Rows) -> dict[float, Together]:
    """Circuits of each size of `verify.sizes`: at most that share of all edges in all."""
    graph, sizes = setups[0].gated.graph, setups[0].config.verify.sizes
    return {size: cut_together(graph, rows, n_edges_of(graph, size)) for size in sorted(sizes)}


def smallest_together(setups: Sequence[Setup], rows: Rows, target: Target) -> Together:
    """The fewest edges in all with which every task reaches a target, of those looked at.

    For several numbers of best shared edges, each task takes as few of its best private edges as
    let it reach the target, by bisection. On validation pairs, or without any on training pairs.

    Raises:
        ConfigError: one task does not even with every edge.
    """
    graph = setups[0].gated.graph
    tests = [_reaches(setup, target) for setup in setups]
    order, best = rows[0].argsort(descending=True, stable=True), None
    for n_shared in _sizes(graph.n_edges):
        if best is not None and n_shared >= best.n_edges:
            break
        shared = torch.zeros(graph.n_edges, dtype=torch.bool)
        shared[order[:n_shared]] = True
        most, private = graph.n_edges if best is None else best.n_edges, []
        for task, reaches in enumerate(tests):
            n_private = _fewest(most, partial(_reached, graph, rows, shared, task, reaches))
            if n_private is None:
                break
            private.append(private_of(rows, shared, task, n_private))
        if len(private) < len(setups):
            if best is None:
                raise ConfigError(_out_of_reach(setups[len(private)], target))
            continue
        found = Together.of(graph, shared, torch.stack(private))
        best = found if best is None or found.n_edges < best.n_edges else best
    assert best is not None  # at least with no shared edge
    return best


def _reached(
    graph: Graph,
    rows: Rows,
    shared: Bool[Tensor, " edge"],
    task: int,
    reaches: Callable[[Bool[Tensor, " edge"]], bool],
    n_private: int,
) -> bool:
    """Whether a task's circuit of shared and so many private edges reaches the target."""
    return reaches(with_shared(graph, rows, shared, task, n_private))


def _out_of_reach(setup: Setup, target: Target) -> str:
    return (
        f"gates.target={target} is out of reach: task {setup.config.task.name} does not reach it "
        "with every edge; ask for less"
    )


def _sizes(n_edges: int) -> list[int]:
    """0, 1, 2, 3, 4, 6, 8, 12, 16, ...: each about 1.4 times the one before."""
    found, at = [0], 1.0
    while at <= n_edges:
        found.append(int(at))
        at = max(at + 1, at * 2**0.5)
    return sorted(set(found))


def _fewest(most: int, reaches: Callable[[int], bool]) -> int | None:
    """The smallest of 0 to `most` that reaches, if larger ones only do better; None if none does.

    By doubling, then by bisection: small circuits cost less to run.
    """
    misses, at = -1, 0
    while not reaches(at):
        if at >= most:
            return None
        misses, at = at, min(most, max(1, 2 * at))
    while at - misses > 1:
        middle = (misses + at) // 2
        misses, at = (misses, middle) if reaches(middle) else (middle, at)
    return at


def _reaches(setup: Setup, target: Target) -> Callable[[Bool[Tensor, " edge"]], bool]:
    """Whether a circuit of a task reaches the target."""
    split = "val" if setup.data.splits["val"] else "train"
    batches = setup.data.batches(split, setup.config.verify.batch_size)
    full = evaluate_full(setup.references, batches, setup.task_metric)
    empty = _empty(setup, split)
    known: dict[bytes, bool] = {}  # most small sets of edges have the same few live ones

    def reaches(mask: Bool[Tensor, " edge"]) -> bool:
        key = mask.cpu().numpy().tobytes()
        if key not in known:
            found = evaluate(setup.references, {"": mask}, batches, setup.task_metric)[""]
            known[key] = target.holds(getattr(found.compared(full, empty), target.name))
        return known[key]

    return reaches
