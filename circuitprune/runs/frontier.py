"""What a run leaves behind: the frontier, a file for each circuit, the edge table, a summary."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Required, TypedDict, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.attribution.methods import has_signs
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.graph import Graph
from circuitprune.errors import RunError
from circuitprune.evidence.faithfulness import BAND
from circuitprune.files.limits import POINTS
from circuitprune.files.records import JsonObject, from_json, to_json
from circuitprune.files.whole import read_json, write_atomic, write_json
from circuitprune.metrics import Evidence
from circuitprune.runs.manifest import check_seal


class Provenance(TypedDict, total=False):
    """What a run's numbers are of. Of its own accord a run may say more, or less."""

    model: str
    """Name or folder of the model."""
    revision: str | None
    """Of the model on the Hub."""
    dtype: str
    """The model's."""
    kv_readers: str
    """Whether a key or value reader is of a KV head or of a query head."""
    model_fingerprint: str
    """Hash of all weights."""
    pairs_hash: str
    """Hash of the pairs of all sides in their order."""
    task: str
    """Name of the task."""
    corruption: str | None
    """How the task corrupts its prompts; None for its usual way."""
    level: str
    """What gates stand on; absent for edges."""
    spans: str
    """What tokens are dealt to spans by; absent where they are not."""
    ablation: str
    """What cut edges carry."""
    metric: str
    """The task metric; higher is better."""
    split: str
    """The side that circuits were verified on."""
    learner: str | None
    """What learned the ranking; None for an attribution."""
    objective: str | None
    """What was minimised; None for an attribution."""
    init: str
    """Method of the attribution, or of the scores that training began with."""
    selection: str
    """How circuits were cut from the ranking."""
    target: str
    """What is reached by a point of `target_edges` edges, and by no smaller circuit tried."""
    target_edges: int
    """The size of that circuit."""
    task_seed: int
    """`task.seed`."""
    train_seed: int
    """`train.seed`."""
    task_sha256: str
    """Hash of the file of the user's own that the task is from."""
    metric_sha256: str
    """Of the one that the task metric is from."""
    init_sha256: str
    """Of the one that the attribution method is from."""
    post_norms: str
    """`per_reader` where a norm follows the attention."""
    init_metric: str
    """What was attributed."""
    init_steps: int
    """Steps of the attribution."""
    ranking: str
    """How scores become a ranking: `signed` or `absolute`."""
    refined: bool
    """Whether edges of the circuits were exchanged by exact runs after they were cut."""
    n_edges_total: int
    """Edges of the model."""
    n_edges_total_ungrouped: int
    """The same by query head."""


@dataclass(frozen=True)
class _Place:
    size: float
    """The fraction of all edges, or the threshold, that was asked for."""
    n_edges: int
    """Edges, or parts, that it keeps."""
    n_edges_ungrouped: int
    """The same by query head."""
    file: str
    """Where it lies in the run's folder."""


@dataclass(frozen=True)
class PointRow(Evidence, _Place):
    """One circuit of the frontier as `frontier.json` has it."""

    val: Evidence | None = None
    """The same on the validation pairs, by which a circuit is chosen; absent without such pairs."""


class FrontierFile(Provenance):
    """`frontier.json`."""

    full: Required[Evidence]
    """The whole model."""
    empty: Required[Evidence]
    """The circuit without edges."""
    points: Required[tuple[PointRow, ...]]
    """For each size, or threshold, asked for."""


@dataclass(frozen=True)
class Point:
    """One circuit of the frontier with its evidence."""

    size: float
    """The fraction of all edges, or the threshold, that was asked for."""
    mask: Bool[Tensor, " edge"]
    evidence: Evidence
    validation: Evidence | None = None
    """The same on the validation pairs, by which a circuit is chosen; None without such pairs."""

    @property
    def judged(self) -> Evidence:
        """What `Frontier.chosen` looks at: validation pairs, else the held-out ones."""
        return self.evidence if self.validation is None else self.validation


@dataclass(frozen=True)
class Frontier:
    """Circuits of one run from sparse to dense, verified on the same held-out pairs."""

    graph: Graph
    provenance: Provenance
    """Model, task, ablation and the like, which a reader needs to repeat the numbers."""
    full: Evidence
    empty: Evidence
    points: list[Point]

    def record(self) -> FrontierFile:
        """`frontier.json`: `kl` in nats, summed over the vocabulary, mean over answer positions."""
        return {
            **self.provenance,
            "n_edges_total": self.graph.n_edges,
            "n_edges_total_ungrouped": self.graph.n_edges_ungrouped,
            "full": self.full,
            "empty": self.empty,
            "points": self.rows(),
        }

    def to_json(self) -> JsonObject:
        """`record` as plain values."""
        return cast(JsonObject, to_json(self.record()))

    def rows(self) -> tuple[PointRow, ...]:
        """The points with their sizes and files."""
        return tuple(
            PointRow(
                size=point.size,
                n_edges=int(point.mask.sum()),
                n_edges_ungrouped=int(self.graph.ungroup(point.mask).sum()),
                file=file,
                val=point.validation,
                **vars(point.evidence),
            )
            for point, file in zip(self.points, self.files(), strict=True)
        )

    def files(self) -> list[str]:
        """Where the circuit of each point lies in the run's folder: `circuits/<edges>.json`.

        Circuits of equal size need not be the same, as ACDC's are not nested: the second is
        `circuits/<edges>_2.json`. Points of one and the same circuit share a file.
        """
        known, names = dict[int, list[Tensor]](), list[str]()
        for point in self.points:
            masks = known.setdefault(n_edges := int(point.mask.sum()), [])
            same = [torch.equal(mask, point.mask) for mask in masks]
            number = [*same, True].index(True)
            masks += [point.mask] * (number == len(masks))
            names.append(f"circuits/{n_edges}{f'_{number + 1}' * (number > 0)}.json")
        return names

    def file_of(self, point: Point) -> str:
        """Where the circuit of one of `points` lies; see `files`."""
        return next(f for one, f in zip(self.points, self.files(), strict=True) if one is point)

    def smallest_size(self) -> Float[Tensor, " edge"]:
        """For each edge the number of edges of the smallest circuit that keeps it; NaN for none."""
        smallest = torch.full((self.graph.n_edges,), torch.nan)
        for point in sorted(self.points, key=lambda point: -int(point.mask.sum())):
            smallest[point.mask] = float(point.mask.sum())
        return smallest

    def chosen(self, max_kl: float = 0.1) -> Point:
        """The smallest circuit that keeps both what the model says and how well it does the task.

        Its KL is at most `max_kl` nats and its faithfulness lies in `BAND`; of several of equal
        size, the one of least KL. If no circuit does both, the one of least KL. Both are looked up
        on the validation pairs, so that the held-out numbers of the chosen one are not picked;
        without validation pairs, on the held-out ones.
        """
        if good := [point for point in self.points if is_good(point.judged, max_kl)]:
            return min(good, key=lambda point: (int(point.mask.sum()), point.judged.kl))
        return min(self.points, key=lambda point: point.judged.kl)

    def choice(self, max_kl: float = 0.1) -> str:
        """What the chosen circuit was chosen by, in words."""
        on = "the validation pairs" if self.points[0].validation else "these same pairs"
        rule = f"KL at most {max_kl:g} and faithfulness in {BAND[0]} to {BAND[1]}"
        if is_good(self.chosen(max_kl).judged, max_kl):
            return f"the smallest with {rule} on {on}"
        return f"the one of least KL on {on}, where none has {rule}"


def is_good(found: Evidence, max_kl: float) -> bool:
    """Whether the KL is within the limit and faithfulness, where there is one, within `BAND`."""
    within = found.faithfulness is None or BAND[0] <= found.faithfulness <= BAND[1]
    return found.kl <= max_kl and within


def write_results(
    folder: Path,
    frontier: Frontier,
    initial: Float[Tensor, " edge"] | None,
    final: Float[Tensor, " edge"],
    summary: str,
) -> None:
    """Write `frontier.json`, `circuits/`, `edges.csv` and `summary.md`, each atomically.

    Args:
        initial: Signed scores of the attribution, if there was one.
        final: What the circuits were cut from, higher first; NaN is in no circuit.
        summary: The run on one page of Markdown.
    """
    (folder / "circuits").mkdir(exist_ok=True)
    for point, file in zip(frontier.points, frontier.files(), strict=True):
        _circuit(frontier, point, initial, final).save(folder / file)
    columns = {} if initial is None else {"initial_score": initial}
    columns |= {"final_score": final, "smallest_circuit": frontier.smallest_size()}
    write_edges_csv(folder / "edges.csv", frontier.graph, columns)
    write_json(folder / "frontier.json", frontier.record())
    write_atomic(folder / "summary.md", summary)


def _circuit(
    frontier: Frontier,
    point: Point,
    initial: Float[Tensor, " edge"] | None,
    final: Float[Tensor, " edge"],
) -> Circuit:
    """A point's circuit, with the scores that its ranking comes from: a learned one has none."""
    about = frontier.provenance
    method = None if about.get("learner") else about.get("init")
    signed = method is not None and has_signs(method)
    return Circuit(
        frontier.graph,
        point.mask,
        initial if signed else None,
        {**about, "size": point.size, "evidence": point.evidence.to_json()},
        ranking=final,
        method=None if method is None else str(method),
    )


def read_results(folder: Path) -> tuple[Frontier, list[Circuit]]:
    """`frontier.json` and the circuit of each of its points, whether or not the run is `COMPLETE`.

    Raises:
        RunError: no run there, a damaged `frontier.json`, or a finished run that has changed since.
        GraphError: a file under `circuits` is not a circuit.
    """
    check_seal(folder)
    if not (path := folder / "frontier.json").is_file():
        raise RunError(
            f"{str(folder)!r} holds no run: it has no frontier.json; give the output_dir of a run "
            "of `train` or `attribute`"
        )
    value = read_json(path, "frontier")
    rows = value.get("points") if isinstance(value, dict) else None
    if not (isinstance(value, dict) and isinstance(rows, list) and 1 <= len(rows) <= POINTS):
        raise RunError(f"{path} is damaged: expected an object with 1 to {POINTS:,} `points`")
    found = from_json(FrontierFile, {**value, "points": [*map(_named, rows)]}, str(path))
    circuits = _circuits(path, found["points"])
    points = [_point(*pair) for pair in zip(found["points"], circuits, strict=True)]
    about = {key: item for key, item in found.items() if key not in ("full", "empty", "points")}
    ends = cast(Provenance, about), found["full"], found["empty"]
    return Frontier(circuits[0].graph, *ends, points), circuits


def _named(row: object) -> object:
    """A point; one without `file` is named by its size."""
    return {"file": f"{row.get('n_edges')}.json", **row} if isinstance(row, dict) else row


def _circuits(path: Path, rows: Sequence[PointRow]) -> list[Circuit]:
    """The circuit of each point, a file read once; the first tells how large others can be."""
    read: dict[str, Circuit] = {}
    for name, n in [(Path(row.file).name, row.n_edges) for row in rows]:
        graph = next(iter(read.values())).graph if read else None
        read[name] = read.get(name) or Circuit.load(path.parent / "circuits" / name, graph)
        if (kept := read[name].n_edges) != n:
            raise RunError(f"{path} says n_edges {n:,} of circuits/{name}, which has {kept:,}")
    return [read[Path(row.file).name] for row in rows]


def _point(row: PointRow, circuit: Circuit) -> Point:
    found = {one.name: getattr(row, one.name) for one in fields(Evidence)}
    return Point(row.size, circuit.mask, Evidence(**found), row.val)
