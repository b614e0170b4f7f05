"""How far scores of the same edges, or of the same parts, agree, whichever files they lie in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.methods import METHODS, has_signs
from circuitprune.circuits.agreement import sign_agreement, spearman, top_overlap
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.standing import read_graph
from circuitprune.errors import GraphError, MetricError
from circuitprune.files.tensors import noted, taken
from circuitprune.files.text import counted, line
from circuitprune.files.whole import read_tensors
from circuitprune.runs.manifest import check_seal
from circuitprune.runs.together import refuse_several


@dataclass(frozen=True)
class ScoreFile:
    """Scores of a graph's edges, by the file they come from."""

    name: str
    values: Float[Tensor, " edge"]
    """Larger magnitudes are more important; negative helps, where there are signs. NaN: not scored.
    """
    graph: Graph | None
    """None if the file does not say."""
    method: str | None = None
    """Of `attribution.METHODS`, or `learned`; None if the file does not say."""
    magnitudes: bool = False
    """Whether there are no signs."""
    read: str = "scores"
    """What these are, in words."""

    @property
    def by_kv_head(self) -> str | None:
        """How a KV head's come from its query heads': see `Method.by_kv_head`."""
        if self.method == "learned":
            return "largest"
        return "sum" if self.method is None else METHODS[self.method].by_kv_head


def load_scores(path: str | Path) -> ScoreFile:
    """Scores in a run folder, a `scores.safetensors`, or a circuit file (ours, EAP-IG's, MIB's).

    A training run's folder has its attribution, its `gates.safetensors` what was learned: an order
    alone, shifted so that the last edge scores 0. A circuit file knows its kept edges only.

    Raises:
        RunError, GraphError: no such file, a damaged one, one without scores, a run over several
            tasks, or one that has changed since it was finished.
    """
    path = Path(path)
    refuse_several(path if path.is_dir() else path.parent)
    check_seal(path)
    file = path / "scores.safetensors" if path.is_dir() else path
    if file.suffix != ".safetensors":
        return _of_circuit(file)
    tensors, notes = read_tensors(file)
    graph = _graph(file, notes)
    shape = (None if graph is None else graph.n_edges,)
    if "learner" in notes and "ranking" in tensors:
        return _learned(str(path), taken(file, tensors, "ranking", shape), graph)
    method = _method(notes.get("method"))
    read = f"attribution by {method or 'an unknown method'}"
    if (file.parent / "gates.safetensors").exists():
        read += ", from which training started; gates.safetensors has the learned order"
    values = taken(file, tensors, "scores", shape).double()
    return ScoreFile(str(path), values, graph, method, not has_signs(method), read)


def _of_circuit(file: Path) -> ScoreFile:
    """What a circuit file knows of its edges: signed scores, or else what they were ranked by."""
    circuit = Circuit.load(file)
    name, graph, method = str(file), circuit.graph, _method(circuit.method)
    by = f"by {method}" if method else "of a circuit file that does not say their method"
    if circuit.scores is not None:
        return ScoreFile(name, circuit.scores.double(), graph, method, False, f"scores {by}")
    if circuit.ranking is None:
        raise GraphError(f"{file} is a circuit without scores")
    if circuit.provenance.get("learner") is not None:
        return _learned(name, circuit.ranking, graph)
    return ScoreFile(name, circuit.ranking.double(), graph, method, True, f"magnitudes {by}")


def _learned(name: str, ranking: Float[Tensor, " edge"], graph: Graph | None) -> ScoreFile:
    """An order alone: shifted so that the last edge scores 0."""
    values = ranking.double()
    known = values[~values.isnan()]
    lowest = known.min() if len(known) else 0.0
    return ScoreFile(name, values - lowest, graph, "learned", True, "the learned order")


def _method(said: object) -> str | None:
    """A method that we know; None for whatever else a file says."""
    return said if isinstance(said, str) and said in METHODS else None


def _graph(file: Path, notes: dict[str, str]) -> Graph | None:
    said = noted(file, notes, "graph")
    return None if said is None else read_graph(said, f"{file}, its graph,")


def align(a: ScoreFile, b: ScoreFile) -> tuple[Float[Tensor, " edge"], Float[Tensor, " edge"]]:
    """Both on the same edges; by query head is brought to KV heads if only one side is.

    A KV reader's edges are ablated together. So it gets the sum of its query heads' scores where
    scores predict an effect, and of those whose method is not known; it gets the largest of them,
    with its sign, where they say how strong an edge is (`Method.by_kv_head`).

    Raises:
        GraphError: scores of different graphs, or such as do not tell what a KV head's would be.
    """
    x, y = a.values, b.values
    if a.graph is None or b.graph is None:
        if len(x) == len(y):
            return x, y
        raise GraphError(
            f"{a.name} scores {counted(len(x), 'edge')}, {b.name} scores {counted(len(y), 'edge')}"
        )
    if a.graph.same_edges(b.graph):
        return x, y
    if a.graph.same_edges(b.graph.ungrouped()):
        return _grouped(b.graph, a), y
    if b.graph.same_edges(a.graph.ungrouped()):
        return x, _grouped(a.graph, b)
    theirs, ours = a.graph.describe(), b.graph.describe()
    alike = ", which are alike in number alone" if theirs == ours else ""
    raise GraphError(
        f"{a.name} scores {theirs}, {b.name} {ours}{alike}; only scores of the same edges, or of "
        "the same parts, at the same spans, can be compared"
    )


def _grouped(graph: Graph, by_query_head: ScoreFile) -> Float[Tensor, " edge"]:
    """Scores of the edges of a graph whose KV readers several query heads share."""
    values, method, kind = by_query_head.values, by_query_head.method, by_query_head.by_kv_head
    if kind is None:
        raise GraphError(
            f"{by_query_head.name} holds {method} scores by query head, which say nothing of KV "
            "heads; make both in one convention (model.kv_readers)"
        )
    if kind == "sum" and by_query_head.magnitudes:
        raise GraphError(
            f"{by_query_head.name} holds magnitudes of scores by {method} by query head; a KV "
            "head's is of their sum with signs: take the run's folder instead of a circuit file"
        )
    total, group = values.new_zeros(graph.n_edges), graph.group_of_ungrouped
    if kind == "sum":
        return total.index_add(0, group, values)
    highest = total.scatter_reduce(0, group, values, "amax", include_self=False)
    lowest = total.scatter_reduce(0, group, values, "amin", include_self=False)
    return highest.where(highest.abs() >= lowest.abs(), lowest)


Measure = Callable[[Tensor, Tensor, float], float]

MEASURES: dict[str, Measure] = {
    "Spearman, signed": lambda a, b, _: spearman(a, b),
    "Spearman, by magnitude": lambda a, b, _: spearman(a.abs(), b.abs()),
    "overlap of the top": top_overlap,
    "same sign": lambda a, b, _: sign_agreement(a, b),
}
"""What is compared, as functions of both scores and of the fraction that counts as the top."""
OF_SIGNS = ("Spearman, signed", "same sign")
"""Measures that say nothing of magnitudes."""


class Aligned(NamedTuple):
    """Two scorings of the same edges."""

    a: Float[Tensor, " edge"]
    b: Float[Tensor, " edge"]
    signed: bool
    """Whether both have signs."""


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
    pairs = [[_pair(a, b) for b in loaded] for a in loaded]
    legend = "\n".join(f"{i}  {line(one.name)}: {one.read}" for i, one in enumerate(loaded, 1))
    if len(loaded) == 2:
        unit = next((one.graph.unit for one in loaded if one.graph is not None), "edge")
        return f"{legend}\n\n{_list(pairs[0][1], unit, top)}"
    return "\n\n".join([legend, *(_matrix(name, pairs, top) for name in MEASURES)])


def _pair(a: ScoreFile, b: ScoreFile) -> Aligned:
    return Aligned(*align(a, b), not (a.magnitudes or b.magnitudes))


def _list(pair: Aligned, unit: str, top: float) -> str:
    n = int((~(pair.a.isnan() | pair.b.isnan())).sum())
    rows = [f"{_title(name, top):28}{_shown(name, pair, top)}" for name in MEASURES]
    return "\n".join([f"{f'{unit}s compared':28}{n:,} of {len(pair.a):,}", *rows])


def _matrix(name: str, pairs: list[list[Aligned]], top: float) -> str:
    lines = [_title(name, top), "  " + "".join(f"{i:>8}" for i in range(1, len(pairs) + 1))]
    for i, row in enumerate(pairs, 1):
        lines.append(f"{i:<2}" + "".join(f"{_shown(name, pair, top):>8}" for pair in row))
    return "\n".join(lines)


def _title(name: str, top: float) -> str:
    return f"{name} {top:.1%}" if "top" in name else name


def _shown(name: str, pair: Aligned, top: float) -> str:
    if name in OF_SIGNS and not pair.signed:
        return "-"
    try:
        return f"{MEASURES[name](pair.a, pair.b, top):.4f}"
    except MetricError:  # such as the order of scores that are all alike
        return "-"
