"""Exact patching: the metric with one edge, or one node, carrying another run's value."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.data.batches import Prompts
from circuitprune.data.pairs import Batch
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.dealing import held_against
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.engine.gated_spans import GatedSpans
from circuitprune.engine.progress import Progress, silent
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError, GraphError, NonFiniteError
from circuitprune.metrics import Metric
from circuitprune.patching.ordering import ordered
from circuitprune.patching.part_replay import PartReplay
from circuitprune.patching.replay import TOKENS_PER_PASS, Logits, Replay
from circuitprune.patching.span_replay import SpanReplay

DIRECTIONS = ("noising", "denoising")
AnyReplay = Replay | PartReplay | SpanReplay
"""A recorded run, by what gates stand on."""


def plan(
    graph: Graph, edges: Int[Tensor, " n"] | None, per_shard: int
) -> list[Int[Tensor, " shard"]]:
    """Edges in shards of `per_shard`, ordered so that those that share work stand together.

    A pure function of its arguments: every process that plans the same edges gets the same shards.

    Args:
        graph: The graph of the edges.
        edges: Positions in the flat order; None means all.
        per_shard: Edges in each shard but the last. Each shard records every batch again, which
            costs about one forward, so a few hundred or more.

    Raises:
        GraphError: edges that the graph does not have, or shards of none.
    """
    if per_shard < 1:
        raise GraphError(f"a shard needs at least 1 edge, got per_shard={per_shard}")
    chosen = positions("edge", torch.arange(graph.n_edges) if edges is None else edges, graph)
    return list(ordered(graph, chosen).split(per_shard))


def edge_effects(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    edges: Int[Tensor, " n"] | Bool[Tensor, " edge"] | Sequence[str] | None = None,
    direction: str = "noising",
    per_example: bool = False,
    progress: Progress = silent,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> Float64[Tensor, " n"] | Float64[Tensor, "n example"]:
    """Change of the metric when each edge alone carries its ablated value.

    `metric(run in which r sees ablated[w], everything downstream of r live) - metric(run)`, in the
    metric's unit. Negative: the edge helps.

    Args:
        references: The model and what cut edges carry.
        batches: The pairs; each batch is recorded once per call.
        metric: Per-example worth of answer-position logits.
        edges: Positions in the flat order or names, in any order, or a mask; None means all.
        direction: `noising` runs the clean prompts and takes values of the ablation. `denoising`
            runs the corrupt prompts and takes the clean run's values; answers stay the clean ones.
        per_example: Return `[n, example]`, examples in the order of the batches, instead of means.
        progress: Told the edges that are done, each once for each batch.
        tokens_per_pass: Tokens that go through the model at once; changes results by rounding only.

    Raises:
        ConfigError: `denoising` with an ablation other than `patch`, or an unknown direction.
        GraphError: edges that the graph does not have.
        DataError: no batches.
        NonFiniteError: an effect is NaN or infinite.

    Source: path patching of single edges (Goldowsky-Dill et al. 2023, arXiv 2304.05969); noising
    and denoising as in Heimersheim and Nanda 2024 (arXiv 2404.15255).
    """
    graph = references.gated.graph
    chosen = positions("edge", torch.arange(graph.n_edges) if edges is None else edges, graph)

    def run(replay: AnyReplay, wanted: Tensor) -> Iterator[tuple[Sequence[int], Logits]]:
        return replay.edges(wanted)

    start = _starter(references, direction, tokens_per_pass)
    return _effects(batches, metric, chosen, start, run, per_example, progress)


def node_effects(
    references: References,
    batches: Iterable[Batch],
    metric: Metric,
    writers: Int[Tensor, " n"] | Bool[Tensor, " writer"] | Sequence[str] | None = None,
    direction: str = "noising",
    per_example: bool = False,
    progress: Progress = silent,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> Float64[Tensor, " n"] | Float64[Tensor, "n example"]:
    """Change of the metric when all out-edges of each writer carry its ablated value.

    Activation patching of whole nodes; arguments and errors as of `edge_effects`, with `writers`
    as positions in `graph.writers` or names, None for all.
    """
    graph = references.gated.graph
    chosen = torch.arange(graph.n_writers) if writers is None else writers
    chosen = positions("writer", chosen, graph)

    def run(replay: AnyReplay, wanted: Tensor) -> Iterator[tuple[Sequence[int], Logits]]:
        return replay.nodes(wanted.tolist())

    start = _starter(references, direction, tokens_per_pass)
    return _effects(batches, metric, chosen, start, run, per_example, progress)


def replay_of(
    references: References,
    batch: Batch,
    direction: str = "noising",
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> AnyReplay:
    """The recorded run whose edges, or parts, carry, when patched, what `direction` says.

    Raises:
        ConfigError: as `edge_effects`.
    """
    gated, kind = references.gated, references.ablation.kind
    batch = references.rest(batch)
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if direction == "noising":
        written = references.ablated(batch)
        return _replay(gated, batch, batch.clean_prompts, written, tokens_per_pass)
    if kind != "patch":
        raise ConfigError(
            "direction=denoising and exact_denoising restore clean values in the corrupt run, so "
            f"they are for ablation 'patch', not for {kind!r}; set ablation=patch or use noising"
        )
    tokens, mask, _, prefix = batch.clean_prompts
    written = gated.record(tokens, mask, prefix)
    return _replay(gated, batch, batch.corrupt_prompts, written, tokens_per_pass)


def _replay(
    gated: GatedModel, batch: Batch, prompts: Prompts, replacement: Ablated, tokens_per_pass: int
) -> AnyReplay:
    """By what the gates stand on."""
    if isinstance(gated, GatedSpans):
        dealt = held_against(gated.graph.spans, batch.spans)
        return SpanReplay(gated, prompts, replacement, dealt, tokens_per_pass)
    if isinstance(gated, GatedParts):
        return PartReplay(gated, prompts, replacement, batch.spans, tokens_per_pass)
    return Replay(gated, prompts, replacement, tokens_per_pass)


def _starter(
    references: References, direction: str, tokens_per_pass: int
) -> Callable[[Batch], AnyReplay]:
    return lambda batch: replay_of(references, batch, direction, tokens_per_pass)


def _effects(
    batches: Iterable[Batch],
    metric: Metric,
    chosen: Int[Tensor, " n"],
    start: Callable[[Batch], AnyReplay],
    run: Callable[[AnyReplay, Tensor], Iterator[tuple[Sequence[int], Logits]]],
    per_example: bool,
    progress: Progress,
) -> Tensor:
    """Changes of the metric for each of `chosen`, over all batches."""
    wanted, inverse = chosen.unique(return_inverse=True)
    place = {name: row for row, name in enumerate(wanted.tolist())}
    parts, count, batches, done = [], 0, list(batches), 0
    for batch in batches:
        replay = start(batch)
        before = metric(replay.logits, batch).double()
        found = before.new_empty(len(wanted), len(batch))
        for names, logits in run(replay, wanted):
            for name, one in zip(names, logits, strict=True):
                torch.sub(metric(one, batch).double(), before, out=found[place[name]])
            done += len(names)
            progress(done, len(wanted) * len(batches))
        _check_finite(found, batch)
        parts.append(found if per_example else found.sum(dim=1, keepdim=True))
        count += len(batch)
    if not parts:
        raise DataError("exact patching needs pairs, but was given no batches")
    whole = torch.cat(parts, dim=1)[inverse.to(parts[0].device)]
    return whole if per_example else whole.sum(dim=1) / count


def _check_finite(found: Tensor, batch: Batch) -> None:
    if not bool(torch.isfinite(found).all()):
        raise NonFiniteError(
            f"exact patching gave NaN or infinite effects on examples {batch.index.tolist()}; "
            "use model.dtype=float32 or a metric that is finite on them"
        )


def positions(
    what: str, chosen: Int[Tensor, " n"] | Bool[Tensor, " all"] | Sequence[str], graph: Graph
) -> Int[Tensor, " n"]:
    """Positions of edges or writers, from positions, names, or a mask such as `Circuit.mask`.

    Raises:
        GraphError: the graph has no such, or another number of them than the mask.
    """
    n = {"edge": graph.n_edges, "writer": graph.n_writers}[what]
    if not isinstance(chosen, Tensor):
        names = [chosen] if isinstance(chosen, str) else chosen
        index = graph.edge_index if what == "edge" else graph.writer_index
        return torch.tensor([index(name) for name in names], dtype=torch.long)
    if chosen.dtype == torch.bool:
        if len(chosen) != n:
            raise GraphError(f"a mask of {len(chosen):,} for {graph.describe()}; it needs {n:,}")
        chosen = chosen.nonzero().flatten()
    outside = chosen[(chosen < 0) | (chosen >= n)]
    if len(outside):
        raise GraphError(f"no {what} {int(outside[0])} in {graph.describe()}; it has {n:,}")
    return chosen.cpu()
