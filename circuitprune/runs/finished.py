"""Finished runs and circuit files, read back to be compared at equal size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import Method, ranking_of, select
from circuitprune.config import RunConfig
from circuitprune.errors import GraphError, RunError
from circuitprune.files.tensors import taken
from circuitprune.files.text import counted
from circuitprune.files.whole import read_tensors
from circuitprune.runs.folder import read_config
from circuitprune.runs.frontier import Frontier, read_results
from circuitprune.runs.together import refuse_several


@dataclass(frozen=True)
class Found:
    """A circuit that somebody found, and what it can be cut down by."""

    name: str
    """The path it was read from."""
    graph: Graph
    mask: Bool[Tensor, " edge"]
    """The circuit itself; of a run, its chosen one."""
    ranking: Float[Tensor, " edge"] | None
    """What smaller circuits are cut from, higher first; -inf is in none. None: not scored."""
    method: Method = "top_n"
    """How it is cut."""
    config: RunConfig | None = None
    """Of a run; None for a file."""
    fingerprint: str | None = None
    """Of a run's model."""
    pairs_hash: str | None = None
    """Of a run's pairs."""
    others: tuple[Bool[Tensor, " edge"], ...] = ()
    """Of a run, all its circuits."""

    @property
    def n_edges(self) -> int:
        """Edges of the circuit itself."""
        return int(self.mask.sum())

    def cut(self, n_edges: int) -> Bool[Tensor, " edge"]:
        """The circuit of at most `n_edges` live edges: one of its own of that size, or one cut.

        Raises:
            GraphError: a circuit without scores is larger than that.
        """
        for mask in (self.mask, *self.others):
            if int(mask.sum()) == n_edges:
                return mask
        if self.ranking is None:
            if self.n_edges <= n_edges:
                return self.mask
            raise GraphError(
                f"{self.name} has {counted(self.n_edges, 'edge')} and no scores to cut it to "
                f"{n_edges:,} by; compare at its own size or give a circuit with scores"
            )
        known = self.ranking > -torch.inf
        return live_edges(
            self.graph, select(self.graph, self.ranking, n_edges, self.method) & known
        )


def load_found(path: str | Path) -> Found:
    """The circuit in a run folder (its chosen one, see `Frontier.chosen`) or in a circuit file.

    A run is cut by its final ranking, one of `top_n_raw` or ACDC as by `top_n`: what they count is
    not the live edges. ACDC's smaller circuits are made of the edges that survive the highest
    thresholds, and an edge that survives none is in no circuit. A file is cut by
    its ranking, one of EAP-IG or MIB by the magnitude of its scores, and no file to edges that it
    does not keep.

    Raises:
        RunError: nothing there, or a run that is not finished.
        GraphError: not a circuit.
    """
    return load_run(Path(path)) if Path(path).is_dir() else _from_file(Path(path))


def load_run(folder: Path) -> Found:
    """A finished run of `train` or `attribute`; see `load_found`."""
    frontier, ranking = read_frontier(folder)
    about = frontier.provenance
    lacking = [name for name in ("selection", "model_fingerprint") if name not in about]
    if lacking:
        raise RunError(f"{folder / 'frontier.json'} is damaged: it has no {', '.join(lacking)}")
    known = ranking > 0 if about["selection"] == "acdc" else ~ranking.isnan()
    return Found(
        str(folder),
        frontier.graph,
        frontier.chosen().mask,
        ranking.where(known, -torch.inf),
        "greedy" if about["selection"] == "greedy" else "top_n",
        read_config(folder),
        str(about["model_fingerprint"]),
        str(about.get("pairs_hash")),
        tuple(point.mask for point in frontier.points),
    )


def read_frontier(folder: Path) -> tuple[Frontier, Float[Tensor, " edge"]]:
    """The verified circuits of a finished run, and the ranking that they were cut from.

    Raises:
        RunError: not a finished run, one over several tasks, or one with damaged files.
    """
    refuse_several(folder)
    if not (folder / "COMPLETE").exists():
        raise RunError(
            f"{str(folder)!r} is not a finished run: it has no COMPLETE; pass a folder that "
            "`train` or `attribute` has finished"
        )
    frontier, circuits = read_results(folder)
    return frontier, full_ranking(folder, frontier, circuits)


def run_circuit(folder: Path, size: float | None = None) -> Circuit:
    """A circuit of a finished run, with the ranking and the scores of every edge.

    Args:
        folder: The run's.
        size: The circuit nearest to this fraction of all edges; by default the chosen one.

    Raises:
        RunError: not a finished run, or one with damaged files.
    """
    frontier, ranking = read_frontier(folder)
    point = frontier.chosen()
    if size is not None:
        n_edges = size * frontier.graph.n_edges
        point = min(frontier.points, key=lambda point: abs(int(point.mask.sum()) - n_edges))
    circuit = Circuit.load(folder / frontier.file_of(point))
    scores, path = circuit.scores, folder / "scores.safetensors"
    if scores is not None and path.exists():
        scores = taken(path, read_tensors(path)[0], "scores", (circuit.graph.n_edges,))
    return replace(circuit, scores=scores, ranking=ranking, as_read=None)


def full_ranking(
    folder: Path, frontier: Frontier, circuits: Sequence[Circuit]
) -> Float[Tensor, " edge"]:
    """What a run's circuits were cut from, for every edge: higher is kept first, NaN never.

    Refined, learned, or attribution's scores by the run's `ranking`. A run without these files, as
    other programs may write one, ranks the edges that its circuits keep.

    Raises:
        RunError: a damaged file, or circuits without a ranking.
    """
    for name, tensor in (("refined", "ranking"), ("gates", "ranking"), ("scores", "scores")):
        path = folder / f"{name}.safetensors"
        if path.exists():
            values = taken(path, read_tensors(path)[0], tensor, (frontier.graph.n_edges,))
            kind = frontier.provenance.get("ranking", "absolute")
            return ranking_of(values, str(kind)) if name == "scores" else values
    ranking = torch.full((frontier.graph.n_edges,), torch.nan, dtype=torch.float64)
    for circuit in circuits:
        if circuit.ranking is None:
            raise RunError(f"{folder / 'circuits'} is damaged: its circuits have no ranking")
        ranking = ranking.where(circuit.ranking.isnan(), circuit.ranking.double())
    return ranking


def _from_file(path: Path) -> Found:
    circuit = Circuit.load(path)
    ranking = circuit.ranking
    if ranking is not None:
        ranking = ranking.where(circuit.mask & ~ranking.isnan(), -torch.inf)
    return Found(str(path), circuit.graph, circuit.mask, ranking)


def same_graph(found: Iterable[Found]) -> Graph:
    """The graph that all have in common.

    Raises:
        GraphError: they have different ones.
    """
    first, *others = found
    for other in others:
        if not first.graph.same_edges(other.graph):
            raise GraphError(
                f"{first.name} is of {first.graph.describe()}, {other.name} of "
                f"{other.graph.describe()}; only circuits of one graph in one convention of "
                "key/value readers can be compared"
            )
    return first.graph
