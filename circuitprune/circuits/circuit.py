"""A circuit: the kept edges of a graph, their scores, and where they come from."""

import html
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from circuitprune import files
from circuitprune.circuits import formats
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import kept_nodes, live_edges
from circuitprune.circuits.svg import circuit_svg
from circuitprune.errors import GraphError

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, repr=False, eq=False)
class Circuit:
    """The kept edges of a graph, with scores and provenance.

    Tensors are held on the CPU. Set operations `|`, `&`, `-`, `^` need the same graph and give a
    circuit with the left one's scores (else the right one's), whose provenance names both.

    Args:
        graph: What the edges are edges of.
        mask: True for a kept edge.
        scores: A signed number per edge; NaN means not scored. Kept for rankings and files.
        provenance: JSON-able facts: model, task, ablation, method, ..., and under `evidence` the
            numbers measured on exactly this mask. Not-a-number is not JSON: use None.
        as_read: The JSON value of the file that the circuit was read from, if writing it anew
            would lose something; `save` returns it as long as the circuit is unchanged.

    Raises:
        GraphError: tensors that do not fit the graph, or a provenance that JSON cannot hold.

    Example:
        >>> from circuitprune.circuits.circuit import Circuit
        >>> from circuitprune.circuits.graph import Graph
        >>> a = Circuit.from_names(Graph(1, 2, 2), ["input->a0.h0<q>", "a0.h0->logits"])
        >>> b = Circuit.from_names(Graph(1, 2, 2), ["input->m0", "a0.h0->logits"])
        >>> (a & b).edges
        ('a0.h0->logits',)
        >>> (a & b).trim().n_edges
        0
    """

    graph: Graph
    mask: Bool[Tensor, " edge"]
    scores: Float[Tensor, " edge"] | None = None
    provenance: dict = field(default_factory=dict)
    as_read: dict | list | None = None

    def __post_init__(self) -> None:
        expected = (self.graph.n_edges,)
        if self.mask.dtype != torch.bool or self.mask.shape != expected:
            raise GraphError(
                f"mask is {self.mask.dtype} of shape {tuple(self.mask.shape)}, expected torch.bool "
                f"of shape {expected} for {self.graph.describe()}"
            )
        if self.scores is not None and self.scores.shape != expected:
            raise GraphError(f"scores have shape {tuple(self.scores.shape)}, expected {expected}")
        try:  # a copy, in the form it will have after a round trip through a file
            provenance = json.loads(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise GraphError(f"the provenance cannot be written as JSON: {error}") from error
        object.__setattr__(self, "provenance", provenance)
        object.__setattr__(self, "mask", self.mask.detach().cpu())
        scores = None if self.scores is None else self.scores.detach().cpu()
        object.__setattr__(self, "scores", scores)

    @classmethod
    def from_names(cls, graph: Graph, names: Iterable[str]) -> "Circuit":
        """The circuit of exactly these edges, such as `["input->m0", "m0->logits"]`."""
        return cls(graph, graph.mask_of(names))

    # ---------------------------------------------------------------- files

    @classmethod
    def load(cls, path: str | Path, graph: Graph | None = None) -> "Circuit":
        """The circuit in a file of circuitprune, EAP-IG, MIB or Edge-Pruning, told by content.

        Args:
            path: A JSON file.
            graph: The model's sizes; needed for Edge-Pruning's edge list, which has none.

        Raises:
            RunError: the file is missing or not JSON.
            GraphError: not a circuit, or one that does not fit the graph.
        """
        value = files.read_json(path)
        try:
            circuit = cls(*formats.parse(value, graph))
        except GraphError as error:
            raise GraphError(f"{path}: {error}") from error
        name = "edge_pruning" if isinstance(value, list) else "mib"
        if json.dumps(value) == json.dumps(circuit._to_json(name)):
            return circuit
        assert isinstance(value, dict | list)  # parse has refused the rest
        return replace(circuit, as_read=value)

    def save(self, path: str | Path, format: str = "mib") -> None:
        """Writes the circuit, atomically; `load` reads all three formats.

        An unchanged circuit that was loaded from the same format is written back equal.

        Args:
            path: The file to write.
            format: `mib` is EAP-IG's and MIB's JSON plus what they cannot say, so nothing is
                lost. MIB's evaluator trims before it measures: `trim()` first if the edge count
                matters. `edge_pruning` is a bare list of kept edges; `edge_pruning_gpt2` too,
                with `input` spelt `tok_embeds` and `pos_embeds`.

        Raises:
            GraphError: an unknown format, or infinite scores.
            RunError: the file cannot be written.
        """
        indent = None if format == "mib" else 4  # as EAP-IG and Edge-Pruning write theirs
        files.write_atomic(path, json.dumps(self._to_json(format), indent=indent))

    def _to_json(self, format: str) -> dict | list:
        parts = formats.Parts(self.graph, self.mask, self.scores, self.provenance)
        origin = self.as_read
        if format == "mib":
            return (
                origin if isinstance(origin, dict) and self._is(origin) else formats.to_mib(parts)
            )
        if format == "edge_pruning":
            if not isinstance(origin, list):
                return formats.to_edge_pruning(parts)
            if self._is(origin):
                return origin
            return formats.to_edge_pruning(parts, formats.embeddings_in(origin) or ("embeds",))
        if format == "edge_pruning_gpt2":
            return formats.to_edge_pruning(parts, ("tok_embeds", "pos_embeds"))
        raise GraphError(
            f"unknown circuit format {format!r}; choose 'mib', 'edge_pruning' or "
            "'edge_pruning_gpt2'"
        )

    def _is(self, value: dict | list) -> bool:
        """Whether this is still the circuit that `value` describes."""
        if isinstance(value, list):
            return torch.equal(formats.parse(value, self.graph).mask, self.mask)
        return Circuit(*formats.parse(value)) == self

    # ---------------------------------------------------------------- size and names

    @property
    def n_edges(self) -> int:
        """Kept edges, in the graph's own convention."""
        return int(self.mask.sum())

    @property
    def n_edges_ungrouped(self) -> int:
        """Kept edges counted with one key and one value reader per query head, as MIB does."""
        return int(self.graph.ungroup(self.mask).sum())

    @property
    def density(self) -> float:
        """Kept edges / edges of the graph, in [0, 1]."""
        return self.n_edges / self.graph.n_edges

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the kept edges, in the graph's order."""
        return tuple(self.graph.edge_name(edge) for edge in self.mask.nonzero().flatten().tolist())

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that a kept edge leaves or enters, in forward order."""
        return kept_nodes(self.graph, self.mask)

    # ---------------------------------------------------------------- other circuits

    def trim(self) -> "Circuit":
        """The circuit without edges that lie on no path from `input` to `logits`.

        Under `patch` ablation both behave alike: a writer that nothing reaches writes what it
        wrote in the corrupt run. Under mean or zero ablation they may differ. Evidence is
        dropped if an edge is.
        """
        mask = live_edges(self.graph, self.mask)
        if torch.equal(mask, self.mask):
            return self
        kept = {key: value for key, value in self.provenance.items() if key != "evidence"}
        return replace(self, mask=mask, provenance=kept)

    def ungrouped(self) -> "Circuit":
        """The same circuit with one key and one value reader per query head."""
        scores = None if self.scores is None else self.graph.ungroup(self.scores)
        return Circuit(
            self.graph.ungrouped(), self.graph.ungroup(self.mask), scores, self.provenance
        )

    @property
    def complement(self) -> "Circuit":
        """All the edges that this circuit does not keep."""
        return Circuit(self.graph, ~self.mask, self.scores, {"complement_of": self.provenance})

    def jaccard(self, other: "Circuit") -> float:
        """`|A & B| / |A | B|`, in [0, 1]; two empty circuits are equal, so 1."""
        union = (self | other).n_edges
        return (self & other).n_edges / union if union else 1.0

    def __or__(self, other: "Circuit") -> "Circuit":
        return self._combine(other, "union", self.mask | self._mask_of(other))

    def __and__(self, other: "Circuit") -> "Circuit":
        return self._combine(other, "intersection", self.mask & self._mask_of(other))

    def __sub__(self, other: "Circuit") -> "Circuit":
        return self._combine(other, "difference", self.mask & ~self._mask_of(other))

    def __xor__(self, other: "Circuit") -> "Circuit":
        return self._combine(other, "symmetric difference", self.mask ^ self._mask_of(other))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return (
            self.graph == other.graph
            and torch.equal(self.mask, other.mask)
            and _same_scores(self.scores, other.scores)
            and self.provenance == other.provenance
        )

    def _mask_of(self, other: "Circuit") -> Bool[Tensor, " edge"]:
        """The other's mask, once it is clear that both mean the same edges."""
        if replace(self.graph, d_model=0) != replace(other.graph, d_model=0):
            raise GraphError(
                f"circuits of different graphs cannot be combined: {self.graph.describe()} and "
                f"{other.graph.describe()}; compare `ungrouped()` circuits if only grouping differs"
            )
        return other.mask

    def _combine(self, other: "Circuit", operation: str, mask: Bool[Tensor, " edge"]) -> "Circuit":
        scores = other.scores if self.scores is None else self.scores
        of = [self.provenance, other.provenance]
        return Circuit(self.graph, mask, scores, {"operation": operation, "of": of})

    # ---------------------------------------------------------------- to look at

    def __repr__(self) -> str:
        return f"Circuit({self.n_edges:,} of {self.graph.n_edges:,} edges)"

    def summary(self) -> str:
        """A few lines of text: sizes in both conventions, then the provenance."""
        lines = [f"{key}: {value}" for key, value in self._facts()]
        return "\n".join(lines)

    def to_networkx(self) -> "networkx.MultiDiGraph":
        """A networkx graph of the nodes: one edge per kept edge, counted by query head.

        An edge's key is its port (`q`, `k`, `v`, `mlp`, `logits`), its attributes are `name` and,
        if the circuit has them, `score`.

        Raises:
            GraphError: networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise GraphError(
                "to_networkx needs networkx: pip install 'circuitprune[graph]'"
            ) from error
        whole, result = self.ungrouped(), networkx.MultiDiGraph()
        result.add_nodes_from(whole.nodes)
        for edge in whole.mask.nonzero().flatten().tolist():
            name = whole.graph.edge_name(edge)
            writer, _, reader = name.partition("->")
            score = {} if whole.scores is None else {"score": whole.scores[edge].item()}
            port = whole.graph.reader_kind[int(whole.graph.edge_reader[edge])]
            result.add_edge(writer, reader.partition("<")[0], key=port, name=name, **score)
        return result

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
            for key, value in self._facts()
        )
        edges = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{score}</td></tr>"
            for name, score in self._strongest(20)
        )
        table = f"<table><tr><th>edge</th><th>score</th></tr>{edges}</table>"
        drawing = circuit_svg(self.graph, self.mask, self.scores)
        return f"{drawing}<table>{facts}</table><details><summary>edges</summary>{table}</details>"

    def _facts(self) -> list[tuple[str, str]]:
        graph = self.graph
        sizes = f"{self.n_edges:,} of {graph.n_edges:,} ({self.density:.2%})"
        if graph.n_kv_readers != graph.n_heads:
            sizes += f" by KV head; {self.n_edges_ungrouped:,} of {graph.n_edges_ungrouped:,}"
            sizes += " by query head"
        nodes = f"{len(self.nodes):,} of {graph.n_writers + 1:,}"
        facts = [(_shown(key), _shown(value)) for key, value in self.provenance.items()]
        return [("edges", sizes), ("nodes", nodes), *facts]

    def _strongest(self, n: int) -> list[tuple[str, str]]:
        """Names and scores of the kept edges of largest |score|."""
        kept = self.mask.nonzero().flatten()
        if self.scores is None:
            return [(self.graph.edge_name(edge), "") for edge in kept[:n].tolist()]
        order = self.scores[kept].abs().nan_to_num(-1).argsort(descending=True, stable=True)[:n]
        return [
            (self.graph.edge_name(e), f"{self.scores[e].item():.4g}") for e in kept[order].tolist()
        ]


def _same_scores(a: Shaped[Tensor, " edge"] | None, b: Shaped[Tensor, " edge"] | None) -> bool:
    """Equal dtypes and values, NaN equal to NaN."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _shown(value: object) -> str:
    """Text for a terminal: what could move the cursor is written as an escape."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
