"""How far scores of the same edges agree, whichever files they lie in."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from circuitprune.agreement import sign_agreement, spearman, top_overlap
from circuitprune.circuit import Circuit
from circuitprune.errors import GraphError, MetricError, RunError
from circuitprune.files import read_tensors
from circuitprune.graph import Graph


@dataclass(frozen=True)
class Scores:
    """Scores of a graph's edges, by the file they come from."""

    name: str
    values: Float[Tensor, " edge"]
    """NaN: not scored."""
    graph: Graph | None
    """None if the file does not say."""


def load_scores(path: str | Path) -> Scores:
    """Scores in a run folder, a `scores.safetensors`, or a circuit file (ours, EAP-IG's, MIB's).

    Raises:
        RunError, GraphError: no such file, a damaged one, or one without scores.
    """
    path = Path(path)
    file = path / "scores.safetensors" if path.is_dir() else path
    if file.suffix == ".safetensors":
        tensors, notes = read_tensors(file)
        if "scores" not in tensors:
            raise RunError(f"{file} holds no `scores`, only {', '.join(tensors)}")
        return Scores(str(path), tensors["scores"].double(), _graph(file, notes))
    circuit = Circuit.load(file)
    if circuit.scores is None:
        raise GraphError(f"{file} is a circuit without scores")
    return Scores(str(path), circuit.scores.double(), circuit.graph)


def _graph(file: Path, notes: dict[str, str]) -> Graph | None:
    if "graph" not in notes:
        return None
    try:
        return Graph(**json.loads(notes["graph"]))
    except (ValueError, TypeError) as error:
        raise RunError(f"{file} has damaged metadata: {error}") from error


def align(a: Scores, b: Scores) -> tuple[Float[Tensor, " edge"], Float[Tensor, " edge"]]:
    """Both on the same edges; by query head is brought to KV heads if only one side is.

    A KV reader's edge gets the sum of its query heads', its effect to first order: they are
    ablated together.

    Raises:
        GraphError: scores of different graphs.
    """
    x, y = a.values, b.values
    if a.graph is None or b.graph is None:
        if len(x) == len(y):
            return x, y
        raise GraphError(f"{a.name} scores {len(x):,} edges, {b.name} scores {len(y):,} edges")
    ours, theirs = replace(a.graph, d_model=0), replace(b.graph, d_model=0)
    if ours == theirs:
        return x, y
    if ours == theirs.ungrouped():
        return _grouped(theirs, x), y
    if theirs == ours.ungrouped():
        return x, _grouped(ours, y)
    raise GraphError(
        f"{a.name} scores {a.graph.describe()}, {b.name} {b.graph.describe()}; only scores of one "
        "model can be compared"
    )


def _grouped(graph: Graph, by_query_head: Tensor) -> Tensor:
    total = by_query_head.new_zeros(graph.n_edges)
    return total.index_add(0, graph.group_of_ungrouped, by_query_head)


Measure = Callable[[Tensor, Tensor, float], float]

MEASURES: dict[str, Measure] = {
    "Spearman, signed": lambda a, b, _: spearman(a, b),
    "Spearman, by magnitude": lambda a, b, _: spearman(a.abs(), b.abs()),
    "overlap of the top": top_overlap,
    "same sign": lambda a, b, _: sign_agreement(a, b),
}
"""What is compared, as functions of both scores and of the fraction that counts as the top."""


def comparison(paths: Sequence[str | Path], top: float = 0.05) -> str:
    """Every measure of every pair as text: a list for two files, a matrix each for more.

    Raises:
        GraphError: scores of different graphs.
        MetricError: fewer than two files, or a fraction outside (0, 1].
    """
    if len(paths) < 2:
        raise MetricError(f"nothing to compare {', '.join(map(str, paths))} with; name two or more")
    if not 0 < top <= 1:
        raise MetricError(f"--top must be a fraction of the edges in (0, 1], got {top}")
    loaded = [load_scores(path) for path in paths]
    pairs = [[align(a, b) for b in loaded] for a in loaded]
    titles = {name: f"{name} {top:.1%}" if "top" in name else name for name in MEASURES}
    if len(loaded) == 2:
        first, second = pairs[0][1]
        n = int((~(first.isnan() | second.isnan())).sum())
        lines = [f"{'edges compared':28}{n:,} of {len(first):,}"]
        lines += [
            f"{titles[name]:28}{_shown(measure, first, second, top)}"
            for name, measure in MEASURES.items()
        ]
        return "\n".join(lines)
    legend = [f"{i}  {one.name}" for i, one in enumerate(loaded, 1)]
    matrices = [_matrix(titles[name], of, pairs, top) for name, of in MEASURES.items()]
    return "\n\n".join(["\n".join(legend), *matrices])


def _matrix(
    title: str,
    measure: Measure,
    pairs: list[list[tuple[Tensor, Tensor]]],
    top: float,
) -> str:
    lines = [title, "  " + "".join(f"{i:>8}" for i in range(1, len(pairs) + 1))]
    for i, row in enumerate(pairs, 1):
        lines.append(f"{i:<2}" + "".join(f"{_shown(measure, a, b, top):>8}" for a, b in row))
    return "\n".join(lines)


def _shown(measure: Measure, a: Tensor, b: Tensor, top: float) -> str:
    try:
        return f"{measure(a, b, top):.4f}"
    except MetricError:  # such as the order of scores that are all alike
        return "-"
