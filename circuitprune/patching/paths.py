"""Path patching: a change that travels along one path, and sets of edges ablated together.

A path is a chain of edges. Its first writer carries its ablated value into the first reader; the
component behind that reader is computed again with this one input changed, and what it then writes
is carried on, into the next reader alone. Everything off the path stays as it was.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import PartGraph
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import DataError, GraphError, NonFiniteError
from circuitprune.files.text import counted
from circuitprune.metrics import Metric
from circuitprune.patching.effects import edge_effects, node_effects, positions, replay_of
from circuitprune.patching.replay import Replay


@dataclass(frozen=True)
class Path:
    """A chain of edges: the reader of each belongs to the writer of the next."""

    hops: tuple[tuple[int, int], ...]
    """(writer, reader) of each edge, as positions in `Graph.writers` and `Graph.readers`."""
    name: str
    """`a5.h5 -> a8.h6<q> -> logits`."""


def parse_path(graph: Graph, text: str) -> Path:
    """The path that `a5.h5 -> a8.h6<q> -> a9.h9<q> -> logits` spells.

    First a writer, then readers. A reader in the middle is the port by which the path enters a
    component, whose output then goes on: `a8.h6<q>`, `m3`. A key or value reader that several heads
    share is spelled by the head that goes on, `a8.h6<k>`.

    Args:
        graph: The graph whose names these are.
        text: Nodes between arrows; spaces do not matter.

    Raises:
        GraphError: fewer than two nodes, an unknown one, one that is not upstream of the next, a
            head without its port, or an end that is no reader.
    """
    names = [name.strip() for name in text.split("->")]
    if len(names) < 2 or not all(names):
        raise GraphError(f"a path is 'writer -> reader -> ... -> reader', got {text!r}")
    writers = [graph.writer_index(names[0]), *(_component(graph, name) for name in names[1:-1])]
    readers = [_reader(graph, name, text) for name in names[1:]]
    for writer, reader, (before, after) in zip(writers, readers, pairwise(names), strict=True):
        if writer >= graph.block_of_reader(reader).n_writers:
            raise GraphError(f"no path {text!r}: {before} is not upstream of {after}")
    return Path(tuple(zip(writers, readers, strict=True)), " -> ".join(names))


def path_effects(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    paths: Sequence[Path | str],
    direction: str = "noising",
    per_example: bool = False,
) -> Float64[Tensor, " n"] | Float64[Tensor, "n example"]:
    """Change of the metric when each path alone carries its first writer's ablated value.

    `metric(run in which the last reader sees the component before it so changed) - metric(run)`,
    everything downstream of the last reader live, in the metric's unit. Negative: the path helps.
    A path of one edge has the effect of that edge.

    Args:
        references: The model and what cut edges carry.
        batches: The pairs.
        metric: Per-example worth of answer-position logits.
        paths: Paths or their spellings.
        direction, per_example: As of `patching.edge_effects`.

    Raises:
        GraphError: a spelling that is no path of this graph.
        ConfigError, DataError, NonFiniteError: as `patching.edge_effects`.

    Source: Wang et al. 2022 (arXiv 2211.00593); Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
    """
    graph = references.gated.graph
    known = [parse_path(graph, path) if isinstance(path, str) else path for path in paths]

    def effect(batch: Batch) -> Float64[Tensor, "n example"]:
        replay = replay_of(references, batch, direction)
        if not isinstance(replay, Replay):
            raise GraphError(
                "paths lead along whole edges: take level=edge and spans=none for them"
            )
        before = metric(replay.logits, batch).double()
        after = [metric(_logits(replay, path), batch).double() for path in known]
        return torch.stack([*after, before])[:-1] - before

    whole = _joined(batches, effect)
    return whole if per_example else whole.mean(dim=1)


def effect_of(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    name: str,
    direction: str = "noising",
) -> float:
    """The effect of what a name says, mean over examples: a node, a path, an edge or a part."""
    graph = references.gated.graph
    if name in graph.writers:
        return node_effects(references, batches, metric, [name], direction).item()
    if isinstance(graph, PartGraph) or "@" in name:
        return edge_effects(references, batches, metric, [name], direction).item()
    if "->" in name:
        return path_effects(references, batches, metric, [name], direction).item()
    return node_effects(references, batches, metric, [name], direction).item()


def path_effect(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    path: Path | str,
    direction: str = "noising",
) -> float:
    """`path_effects` of one path, mean over examples."""
    return path_effects(references, batches, metric, [path], direction).item()


@torch.no_grad()
def set_effect(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    edges: Int[Tensor, " n"] | Bool[Tensor, " edge"] | Sequence[str],
    per_example: bool = False,
) -> Float64[Tensor, ""] | Float64[Tensor, " example"]:
    """Change of the metric when a set of edges is ablated together, in one gated run.

    Args:
        references, batches, metric: As of `path_effects`.
        edges: Positions in the flat order, a mask, or names; these at gate 0, the others at 1.
        per_example: Return one change per example instead of their mean.

    Raises:
        GraphError: edges that the graph does not have.
        DataError, NonFiniteError: as `patching.edge_effects`.
    """
    gated, graph = references.gated, references.gated.graph
    closed = positions("edge", edges, graph)
    gates = torch.ones(graph.n_edges, dtype=gated.dtype, device=gated.device)
    gates[closed.to(gated.device)] = 0

    def effect(batch: Batch) -> Float64[Tensor, "1 example"]:
        after = metric(references.run(batch)(gates), batch)
        return (after.double() - metric(references.full_logits(batch), batch).double())[None]

    whole = _joined(batches, effect)[0]
    return whole if per_example else whole.mean()


def _logits(replay: Replay, path: Path) -> Tensor:
    """Logits at the answers when the path carries its change."""
    for (writer, reader), (component, _) in pairwise(path.hops):
        replay = replay.replacing(component, replay.through(writer, reader, component))
    writer, reader = path.hops[-1]
    ((_, logits),) = replay.edges(torch.tensor([replay.graph.edge_at(writer, reader)]))
    return logits[0]


def _joined(
    batches: Iterable[Batch], effect: Callable[[Batch], Float64[Tensor, "n example"]]
) -> Float64[Tensor, "n example"]:
    """The effects of all batches side by side."""
    parts = []
    for batch in batches:
        parts.append(effect(batch))
        if not bool(torch.isfinite(parts[-1]).all()):
            raise NonFiniteError(
                f"a path has a NaN or infinite effect on examples {batch.index.tolist()}; "
                "use model.dtype=float32 or a metric that is finite on them"
            )
    if not parts:
        raise DataError("path patching needs pairs, but was given no batches")
    return torch.cat(parts, dim=1)


def _reader(graph: Graph, name: str, text: str) -> int:
    """Position of a node of a path that is entered."""
    if name in graph.writers and name not in graph.readers and name != "input":
        raise GraphError(
            f"{name} in {text!r} does not say where the path enters it; write {name}<q>, {name}<k> "
            f"or {name}<v>"
        )
    return graph.reader_index(name)


def _component(graph: Graph, name: str) -> int:
    """The writer behind a reader in the middle of a path."""
    if name in graph.writers and name not in graph.readers:
        return graph.writer_index(name)  # a head without a port, or the input: `_reader` objects
    heads = graph.heads_of_reader(graph.reader_index(name))
    if len(heads) == 1:
        return heads[0]
    if not heads:
        raise GraphError("logits write nothing that a path could carry on; they end it")
    node = name.partition("<")[0]
    if node in graph.writers:
        return graph.writer_index(node)
    raise GraphError(
        f"{name} feeds {counted(len(heads), 'head')}; name the one that the path goes on from, "
        f"such as {graph.writers[heads[0]]}{name[name.index('<') :]}"
    )
