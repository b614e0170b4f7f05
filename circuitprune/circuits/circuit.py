"""A circuit: the kept edges of a graph, how they rank and score, and where they come from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits import formats
from circuitprune.circuits.edge_pruning import embeddings_in, from_edge_pruning
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.parts import Parts
from circuitprune.circuits.reachability import kept_nodes, live_edges
from circuitprune.circuits.reading import read_circuit
from circuitprune.circuits.show import facts_of, html_of
from circuitprune.errors import GraphError
from circuitprune.files import whole as files
from circuitprune.files.decoding import decode
from circuitprune.files.text import counted

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, repr=False, eq=False)
class Circuit:
    """The kept edges of a graph, with their ranking, scores and provenance.

    Tensors are held on the CPU. Set operations `|`, `&`, `-`, `^` need the same graph and give a
    circuit ranked and scored as the left one (else as the right one), whose provenance names both.

    Args:
        graph: What the edges are edges of.
        mask: True for a kept edge.
        scores: A signed number per edge, what a method predicts of it; NaN means not scored.
        provenance: JSON-able facts: model, task, ablation, method, ..., and under `evidence` the
            numbers measured on exactly this mask. Not-a-number is not JSON: use None.
        ranking: What smaller circuits are cut by: higher is kept first, NaN and -inf never. Where
            it is not given, the magnitudes of the scores.
        method: Of attribution, whose scores these are; None if nobody says.
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
    provenance: Mapping[str, object] = field(default_factory=dict)
    ranking: Float[Tensor, " edge"] | None = None
    method: str | None = None
    as_read: formats.Json | None = None

    def __post_init__(self) -> None:
        expected = (self.graph.n_edges,)
        if self.mask.dtype != torch.bool or self.mask.shape != expected:
            raise GraphError(
                f"mask is {self.mask.dtype} of shape {tuple(self.mask.shape)}, expected torch.bool "
                f"of shape {expected} for {self.graph.describe()}"
            )
        for name, values in (("scores", self.scores), ("ranking", self.ranking)):
            if values is not None and values.shape != expected:
                verb = "have" if name == "scores" else "has"
                shape = tuple(values.shape)
                raise GraphError(f"{name} {verb} shape {shape}, expected {expected}")
        try:  # a copy, in the form it will have after a round trip through a file
            provenance = decode(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise GraphError(f"the provenance cannot be written as JSON: {error}") from error
        object.__setattr__(self, "provenance", provenance)
        object.__setattr__(self, "mask", self.mask.detach().cpu())
        scores = None if self.scores is None else self.scores.detach().cpu()
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "ranking", _ranking(scores, self.ranking))

    @classmethod
    def from_names(cls, graph: Graph, names: Iterable[str]) -> "Circuit":
        """The circuit of exactly these edges, such as `["input->m0", "m0->logits"]`."""
        return cls(graph, graph.mask_of(names))

    # ---------------------------------------------------------------- files

    @classmethod
    def load(
        cls, path: str | Path, graph: Graph | None = None, n_kv_heads: int | None = None
    ) -> "Circuit":
        """The circuit in a file of circuitprune, EAP-IG, MIB or Edge-Pruning, told by content.

        Args:
            path: A JSON file.
            graph: The model's sizes; needed for Edge-Pruning's edge list, which has none.
            n_kv_heads: Of the model. An edge list of Llama names KV heads: it is refused for a
                graph that counts by query head, unless there are as many, which this says.

        Raises:
            RunError: the file is missing, larger than such a circuit can be, or not JSON.
            GraphError: not a circuit, or one that does not fit the graph.
        """
        value = read_circuit(path, graph)
        try:
            circuit = cls(*formats.parse(value, graph, n_kv_heads))
        except GraphError as error:
            raise GraphError(f"{path}: {error}") from error
        assert isinstance(value, dict | list)  # parse has refused the rest
        forms = formats.forms_of(value)
        if any(json.dumps(value) == json.dumps(circuit._to_json(form)) for form in forms):
            return circuit
        return replace(circuit, as_read=value)

    def save(self, path: str | Path, format: formats.Format = "circuitprune") -> None:
        """Writes the circuit, atomically; `load` reads every format.

        An unchanged circuit that was loaded from a file of another program is written back equal
        in that program's format.

        Args:
            path: The file to write.
            format: `circuitprune` lists the kept edges alone, with all that is known of them.
                `mib` is EAP-IG's and MIB's JSON of every edge and its score; MIB's evaluator trims
                before it measures: `trim()` first if the edge count matters. `edge_pruning` is a
                bare list of kept edges; `edge_pruning_gpt2` too, with `input` spelt `tok_embeds`
                and `pos_embeds`.

        Raises:
            GraphError: an unknown format, infinite scores, or, as an edge list, the keys and
                values of query heads (`model.kv_readers`).
            RunError: the file cannot be written.
        """
        indent = 4 if format.startswith("edge_pruning") else None  # as those programs write theirs
        files.write_atomic(path, json.dumps(self._to_json(format), indent=indent))

    def _to_json(self, format: formats.Format) -> formats.Json:
        origin = self.as_read
        embeddings = embeddings_in(origin) if isinstance(origin, list) else ()
        theirs = {"mib": dict, "edge_pruning": list}.get(format, ())
        if isinstance(origin, theirs) and self._is(origin):
            return origin
        parts = Parts(
            self.graph, self.mask, self.scores, self.provenance, self.ranking, self.method
        )
        return formats.write(parts, format, embeddings)

    def _is(self, value: formats.Json) -> bool:
        """Whether this is still the circuit that `value` describes."""
        if isinstance(value, list):
            return torch.equal(from_edge_pruning(value, self.graph).mask, self.mask)
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
        scores, ranking = (
            None if values is None else self.graph.ungroup(values)
            for values in (self.scores, self.ranking)
        )
        graph, mask = self.graph.ungrouped(), self.graph.ungroup(self.mask)
        return replace(self, graph=graph, mask=mask, scores=scores, ranking=ranking, as_read=None)

    @property
    def complement(self) -> "Circuit":
        """All the edges that this circuit does not keep."""
        of = {"complement_of": self.provenance}
        return replace(self, mask=~self.mask, provenance=of, as_read=None)

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
            and _same_values(self.scores, other.scores)
            and _same_values(self.ranking, other.ranking)
            and (self.method, self.provenance) == (other.method, other.provenance)
        )

    def _mask_of(self, other: "Circuit") -> Bool[Tensor, " edge"]:
        """The other's mask, once it is clear that both mean the same edges."""
        if not self.graph.same_edges(other.graph):
            raise GraphError(
                f"circuits of different graphs cannot be combined: {self.graph.describe()} and "
                f"{other.graph.describe()}; compare `ungrouped()` circuits if only grouping differs"
            )
        return other.mask

    def _combine(self, other: "Circuit", operation: str, mask: Bool[Tensor, " edge"]) -> "Circuit":
        ranked = other if self.ranking is None else self
        facts = {"operation": operation, "of": [self.provenance, other.provenance]}
        return replace(ranked, graph=self.graph, mask=mask, provenance=facts, as_read=None)

    # ---------------------------------------------------------------- to look at

    def __repr__(self) -> str:
        return f"Circuit({self.n_edges:,} of {counted(self.graph.n_edges, self.graph.unit)})"

    def summary(self) -> str:
        """A few lines of text: sizes in both conventions, then the provenance."""
        return "\n".join(f"{key}: {value}" for key, value in facts_of(self))

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
                "to_networkx needs networkx: pip install 'circuitprune[graph]', or from a checkout "
                "of the repository pip install -c constraints.txt -e '.[graph]'"
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
        return html_of(self)


def _ranking(
    scores: Float[Tensor, " edge"] | None, ranking: Float[Tensor, " edge"] | None
) -> Float[Tensor, " edge"] | None:
    """The ranking as held: magnitudes where none is given, NaN for what is never kept."""
    if ranking is None:
        return None if scores is None else scores.abs()
    return ranking.detach().cpu().where(ranking.cpu() != -torch.inf, torch.nan)


def _same_values(a: Float[Tensor, " edge"] | None, b: Float[Tensor, " edge"] | None) -> bool:
    """Equal dtypes and values, NaN equal to NaN."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
