"""What a published circuit is: classes of nodes, which class reads which, and where it says so."""

from collections.abc import Mapping
from dataclasses import dataclass

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.errors import GraphError

INPUT, LOGITS = "input", "logits"
"""The two classes that every circuit has."""


@dataclass(frozen=True)
class Link:
    """The edges from every node of one class to the given ports of every node of another."""

    writers: str
    """A class, or `input`."""
    readers: str
    """A class, or `logits`."""
    ports: str = ""
    """Some of `q`, `k` and `v` where the readers are heads; empty for MLPs and `logits`."""


@dataclass(frozen=True)
class Published:
    """A circuit of the literature, named by classes of nodes.

    Raises:
        GraphError: a link to a class that there is none of, or a node that the graph has not.
    """

    name: str
    model: str
    """Hugging Face id of the model that it was found in."""
    source: str
    """Paper, arXiv id, and the figure or section."""
    graph: Graph
    classes: Mapping[str, tuple[str, ...]]
    """Names of the nodes of each class, such as `a9.h9` or `m8`."""
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        for name, members in self.classes.items():
            for node in members:
                if node not in self.graph.writers:
                    raise GraphError(f"{name}: no node {node!r} in {self.graph.describe()}")
        for link in self.links:
            for name in (link.writers, link.readers):
                if name not in (*self.classes, INPUT, LOGITS):
                    raise GraphError(f"a link names {name!r}; classes: {', '.join(self.classes)}")

    def nodes(self, *classes: str) -> tuple[str, ...]:
        """The nodes of these classes, of all without an argument, in forward order.

        Raises:
            GraphError: no such class.
        """
        unknown = [name for name in classes if name not in self.classes]
        if unknown:
            raise GraphError(f"no class {unknown[0]!r}; there are {', '.join(self.classes)}")
        chosen = {node for name in classes or self.classes for node in self.classes[name]}
        return tuple(node for node in self.graph.writers if node in chosen)

    def class_of(self, node: str) -> str | None:
        """The class of a node; None for one that is in no class."""
        return next((name for name, nodes in self.classes.items() if node in nodes), None)

    def edges(self) -> tuple[str, ...]:
        """All edges between linked classes whose writer is upstream, in the graph's order."""
        wanted = {
            f"{writer}->{reader}"
            for link in self.links
            for writer in self._members(link.writers)
            for node in self._members(link.readers)
            for reader in ([f"{node}<{port}>" for port in link.ports] or [node])
        }
        return tuple(edge for edge in self.graph.edges if edge in wanted)

    def circuit(self) -> Circuit:
        """`edges()` as a circuit, with its source."""
        facts = {"name": self.name, "model": self.model, "source": self.source}
        return Circuit(self.graph, self.graph.mask_of(self.edges()), provenance=facts)

    def _members(self, name: str) -> tuple[str, ...]:
        return (name,) if name in (INPUT, LOGITS) else self.classes[name]


GPT2_SMALL = Graph(n_layers=12, n_heads=12, n_kv_readers=12, d_model=768)
"""The graph of GPT-2 small: 32,491 edges."""
