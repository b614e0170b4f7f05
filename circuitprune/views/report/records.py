"""What a report holds, for the page's script: `ReportData` and its parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from circuitprune.lens.predictions import ExamplePairs
from circuitprune.metrics import Evidence
from circuitprune.runs.frontier import PointRow, Provenance
from circuitprune.runs.part_edges import PartEdgeFile
from circuitprune.runs.studies import Comparison, Stability
from circuitprune.runs.verification import Verification


@dataclass(frozen=True)
class RunData:
    """One run's frontier, as `frontier.json` has it."""

    name: str
    """Of its folder."""
    about: Provenance
    """What its numbers are of."""
    full: Evidence
    """The whole model."""
    empty: Evidence
    """The circuit without edges."""
    points: tuple[PointRow, ...]
    """For each size, or threshold, asked for."""
    chosen: int
    """Position of the chosen circuit among them."""


@dataclass(frozen=True)
class SpanData:
    """Tokens of a prompt that share their gates."""

    name: str
    """What they are called."""
    sees: tuple[int, ...]
    """Positions of the spans whose keys and values its queries may look at."""


@dataclass(frozen=True)
class GraphData:
    """Sizes of the model, and names in the graph's order."""

    n_layers: int
    """Layers."""
    n_heads: int
    """Heads of a layer."""
    n_kv_readers: int
    """Key readers of a layer, and value readers: fewer than heads where heads share them."""
    parallel: bool
    """Whether an MLP reads what its layer's heads read."""
    d_model: int
    """Width of the residual stream; 0 if unknown."""
    unit: str
    """What one gate stands on: `edge`, `node` or `part`; each counts as an edge."""
    n_edges: int
    """Edges."""
    n_edges_ungrouped: int
    """Edges by query head."""
    writers: tuple[str, ...]
    """Names."""
    writer_layer: tuple[int, ...]
    """Of each writer; -1 for `input`."""
    readers: tuple[str, ...]
    """Names."""
    reader_kind: tuple[str, ...]
    """Of each reader: `q`, `k`, `v`, `mlp` or `logits`."""
    reader_layer: tuple[int, ...]
    """Of each reader; the number of layers for `logits`."""
    feeds: tuple[tuple[int, ...], ...]
    """Of each reader: positions of the writers that it feeds."""
    spans: tuple[SpanData, ...] | None
    """In the order of prompts; None where an edge has one gate for all tokens."""


@dataclass(frozen=True)
class EdgeColumns:
    """Edges that some circuit of a run keeps, strongest first; a column each."""

    writer: tuple[int, ...]
    """Positions of the writers."""
    reader: tuple[int, ...]
    """Positions of the readers."""
    score: tuple[float | None, ...]
    """What circuits are cut from, higher first; this and the others to `data.DIGITS`."""
    part: tuple[str, ...] | None
    """Names of parts, or of edges at spans; None of whole edges, whose ends name them."""
    span: tuple[int, ...] | None
    """Positions of the spans; None where edges are the same at all tokens."""


@dataclass(frozen=True)
class MainColumns(EdgeColumns):
    """The same of the first run, with what else is known of an edge."""

    attribution: tuple[float | None, ...] | None
    """Signed scores, negative helps; None if there are none, or of an edge none."""
    exact: Mapping[str, float] | None
    """By position: the rise of the KL in nats when the edge leaves the verified circuit."""


@dataclass(frozen=True)
class CircuitData:
    """One circuit among a run's edges."""

    n_edges: int
    """Edges that it keeps, of which a report may hold fewer."""
    n_nodes: int
    """Nodes that they leave or enter."""
    spans: tuple[int, ...]
    """By turns, how many of the run's edges it leaves out and keeps."""


@dataclass(frozen=True)
class OtherRun:
    """A further run whose edges can be told with the first's."""

    edges: EdgeColumns
    """Its edges."""
    circuits: tuple[CircuitData, ...]
    """Its circuits."""


@dataclass(frozen=True)
class Incomparable:
    """A further run whose model has other sizes, so that no edge means the same."""

    differs: str
    """What those sizes are."""


@dataclass(frozen=True)
class Studies:
    """Studies of several runs; as their files have them, for the page to check."""

    stability: Annotated[object, Stability] | None = None
    """What `stability` wrote."""
    compare: Annotated[object, Comparison] | None = None
    """What `compare` wrote."""


@dataclass(frozen=True)
class ReportData:
    """All that a report shows."""

    schema: int
    """Of this: 1."""
    runs: tuple[RunData, ...]
    """The runs that were given; the first is the report's."""
    graph: GraphData
    """Of the first run's model."""
    edges: MainColumns
    """Of the first run."""
    signed: bool
    """Whether `attribution` has a sign."""
    circuits: tuple[CircuitData, ...]
    """Of the first run, in the order of its points."""
    shared: tuple[tuple[int, ...], ...] | None
    """Of each circuit, positions of edges that all tasks share; None of a run of one task."""
    others: tuple[OtherRun | Incomparable, ...]
    """Circuits of the further runs."""
    command: str | None
    """What to type for the same run."""
    evidence: Annotated[object, Verification] | None
    """The first run's `verification.json` as it is, for the page to check."""
    studies: Studies
    """Studies of several runs."""
    part_edges: Annotated[object, PartEdgeFile] | None
    """The first run's `part_edges.json` as it is, for the page to check."""
    pairs: Annotated[object, ExamplePairs] | None
    """The first run's `pairs.json` as it is, for the page to check."""
    config: str | None
    """The text of its `config.yaml`."""
    versions: Mapping[str, str] | None
    """Its `versions.json`."""
