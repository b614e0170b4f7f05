"""How much memory a run takes, told before it starts and where it ran out of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from circuitprune.config import RunConfig
from circuitprune.data.pairs import Example
from circuitprune.engine.gated import GatedModel
from circuitprune.errors import is_out_of_memory


@contextmanager
def forecast_told(
    gated: GatedModel, config: RunConfig, splits: Mapping[str, Sequence[Example]]
) -> Iterator[None]:
    """While it lasts, what runs out of memory carries the forecast of the dry run as a note."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error) and not getattr(error, "__notes__", None):
            error.add_note(forecast(gated, config, splits))
        raise


def forecast(gated: GatedModel, config: RunConfig, splits: Mapping[str, Sequence[Example]]) -> str:
    """An upper estimate of what one training step holds, and what ACDC does while it searches."""
    graph, size = gated.graph, torch.finfo(gated.dtype).bits // 8
    whole = config.ablation != "patch" or not (config.cache.prefixes and gated.ports.family.caches)
    longest = max(len(one.clean) if whole else _rest(one) for one in splits["train"])
    vector = longest * graph.d_model * size
    weights = sum(p.numel() for p in gated.model.parameters()) * size
    n_pairs = sum(map(len, splits.values()))
    cached = min(config.cache.max_gb * 1e9, graph.n_writers * vector * n_pairs)
    step = (
        config.train.batch_size
        * vector
        * (3 * graph.n_writers + graph.n_readers + 3 * graph.readers_per_layer)
    )
    by_acdc = config.attribution.method == "acdc"
    search = _searched(gated, vector * len(splits["train"])) if by_acdc else 0
    parts = [f"weights {_bytes(weights)}", f"cached references {_bytes(cached)}"]
    parts += [f"a training step {_bytes(step)}"]
    parts += [f"ACDC's search up to {_bytes(search)}"] if search else []
    return f"about {_bytes(weights + cached + max(step, search))}: {', '.join(parts)}"


def _rest(example: Example) -> int:
    """Tokens from the first in which the two prompts differ."""
    pairs = enumerate(zip(example.clean, example.corrupt, strict=True))
    first = next((i for i, (clean, corrupt) in pairs if clean != corrupt), len(example.clean) - 1)
    return len(example.clean) - first


def _searched(gated: GatedModel, vectors: int) -> int:
    """What ACDC holds of all training pairs at once, most while few edges are cut, in bytes.

    See `CandidateRuns`: what writers write when ablated, in the whole model and in the circuit, the
    ablated streams, queries, keys and values of both runs, and the inputs of later readers.

    Args:
        gated: The model.
        vectors: Bytes of one writer's output on all pairs.
    """
    graph = gated.graph
    writers, streams, heads = 3 * graph.n_writers, 3 * graph.n_layers + 1, 6 * graph.n_layers
    later = graph.n_readers - graph.readers_per_layer
    return vectors * (writers + streams + heads + later)


def _bytes(number: int | float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
