"""How much memory a run takes, told before it starts and where it ran out of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from circuitprune.circuits.graph import Graph
from circuitprune.config import RunConfig
from circuitprune.data.pairs import Example
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.gated_parts import GatedParts
from circuitprune.errors import is_out_of_memory
from circuitprune.runs.launched import world

Bytes = int | float


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


@dataclass(frozen=True)
class Forecast:
    """An upper estimate of what training holds, in bytes."""

    weights: Bytes
    references: Bytes
    """What writers write when cut, of all pairs, within the budget of `cache.max_gb`."""
    prefixes: Bytes
    """Keys and values of what the prompts of a pair begin with alike, within the same budget."""
    step: Bytes
    """Deltas, their gradients, and the inputs of readers, of the pairs of one step."""

    @classmethod
    def of_edges(
        cls,
        graph: Graph,
        parameters: int,
        size: int,
        *,
        rest: int,
        prefix: float,
        pairs: int,
        batch: int,
        max_gb: float,
    ) -> "Forecast":
        """Of gates on edges.

        Args:
            graph: With `d_model`.
            parameters: Of the model.
            size: Bytes of a number.
            rest: Tokens of the longest prompt from where the prompts of its pair differ.
            prefix: Mean number of tokens before that, if they are run once; else 0.
            pairs: Of all sides.
            batch: Pairs of a step in one process.
            max_gb: `cache.max_gb`.
        """
        vector = rest * graph.d_model * size
        held = 3 * graph.n_writers + graph.n_readers + 3 * graph.readers_per_layer
        wide = graph.d_model * graph.n_kv_readers / graph.n_heads
        keys_values = 2 * graph.n_layers * wide * prefix * size
        written = graph.n_writers * vector
        return cls.within(
            parameters * size, written * pairs, keys_values * pairs, batch * held * vector, max_gb
        )

    @classmethod
    def within(
        cls, weights: Bytes, references: Bytes, prefixes: Bytes, step: Bytes, max_gb: float
    ) -> "Forecast":
        """The two caches cut, alike, to their common budget."""
        share = min(1.0, max_gb * 1e9 / max(1.0, references + prefixes))
        return cls(weights, references * share, prefixes * share, step)

    @property
    def total(self) -> Bytes:
        """All of it."""
        return self.weights + self.references + self.prefixes + self.step


def forecast(gated: GatedModel, config: RunConfig, splits: Mapping[str, Sequence[Example]]) -> str:
    """An upper estimate of what one training step holds, and what ACDC does while it searches."""
    found, search = of_run(gated, config, splits), 0
    if config.attribution.method == "acdc":
        whole = _runs_whole(gated, config)
        longest = max(len(one.clean) if whole else _rest(one) for one in splits["train"])
        size = torch.finfo(gated.dtype).bits // 8
        search = _searched(gated, longest * gated.graph.d_model * size * len(splits["train"]))
    parts = [f"weights {_bytes(found.weights)}", f"cached references {_bytes(found.references)}"]
    parts += [f"prefixes {_bytes(found.prefixes)}"] if found.prefixes else []
    parts += [f"a training step {_bytes(found.step)}"]
    parts += [f"ACDC's search up to {_bytes(search)}"] if search else []
    total = found.total - found.step + max(found.step, search)
    return f"about {_bytes(total)}: {', '.join(parts)}"


def of_run(
    gated: GatedModel, config: RunConfig, splits: Mapping[str, Sequence[Example]]
) -> Forecast:
    """The forecast of a run's own model and pairs."""
    size, whole = torch.finfo(gated.dtype).bits // 8, _runs_whole(gated, config)
    rest = max(len(one.clean) if whole else _rest(one) for one in splits["train"])
    every = [one for side in splits.values() for one in side]
    prefix = 0.0 if whole else sum(len(one.clean) - _rest(one) for one in every) / len(every)
    parameters = sum(p.numel() for p in gated.model.parameters())
    batch = config.train.batch_size // world()  # of this process
    budget = config.cache.max_gb
    if isinstance(gated, GatedParts):  # no stream of each reader, but every site's activation
        written = rest * gated.width * size
        return Forecast.within(
            parameters * size, written * len(every), 0.0, 3 * batch * written, budget
        )
    return Forecast.of_edges(
        gated.graph,
        parameters,
        size,
        rest=rest,
        prefix=prefix,
        pairs=len(every),
        batch=batch,
        max_gb=budget,
    )


def _runs_whole(gated: GatedModel, config: RunConfig) -> bool:
    """Whether prompts are run from their first token."""
    return config.ablation != "patch" or not (config.cache.prefixes and gated.ports.family.caches)


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


def _bytes(number: Bytes) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
