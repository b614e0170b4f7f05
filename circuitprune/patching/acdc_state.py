"""Where an ACDC search stands, and its form as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.errors import RunError
from circuitprune.files.tensors import count, taken
from circuitprune.files.whole import read_tensors, write_tensors
from circuitprune.metrics import Metric

Worsening = Literal["kl"] | Metric
"""How much worse a circuit is than the model: `KL(full || circuit)` in nats, or minus a metric."""


def name_of(worsening: Worsening) -> str:
    """`kl`, or the name of the metric."""
    return worsening if isinstance(worsening, str) else getattr(worsening, "__name__", "metric")


@dataclass
class AcdcState:
    """Where a search stands after a reader; enough to go on to the same bits."""

    threshold: float
    worsening_name: str
    mask: Bool[Tensor, " edge"]
    """The current circuit."""
    scores: Float[Tensor, " edge"]
    """See `AcdcResult`; 0 where nothing was tried yet."""
    readers_done: int = 0
    """Readers visited, in the reverse of the graph's order."""
    worsening: float = 0.0
    """Of the current circuit."""
    evaluations: int = 0
    """Candidate circuits run so far on all pairs, those guessed in vain included."""
    chain: int = 4
    """How many decisions to guess ahead."""

    @classmethod
    def start(cls, graph: Graph, threshold: float, worsening: Worsening) -> "AcdcState":
        """The whole model, nothing visited."""
        mask = torch.ones(graph.n_edges, dtype=torch.bool)
        scores = torch.zeros(graph.n_edges, dtype=torch.float64)
        return cls(threshold, name_of(worsening), mask, scores)

    def counts(self, graph: Graph) -> list[tuple[int, int]]:
        """`(layer, edges in the circuit when that layer was done)`, the logits (`n_layers`) first.

        Read off the mask: what is kept into a reader is final once the reader is done.
        """
        into = graph.reader_layer[graph.edge_reader]
        done = graph.n_readers - self.readers_done
        layers = [x for x in range(graph.n_layers + 1) if (graph.reader_layer < x).sum() >= done]
        return [(x, int(torch.where(into >= x, self.mask, True).sum())) for x in reversed(layers)]

    def save(self, path: str | Path, fingerprint: str = "") -> None:
        """Write it to one safetensors file, atomically.

        Raises:
            RunError: the file cannot be written.
        """
        notes = {**self._identity(fingerprint), "readers_done": str(self.readers_done)}
        notes |= {"evaluations": str(self.evaluations), "chain": str(self.chain)}
        worsening = torch.tensor(self.worsening, dtype=torch.float64)
        tensors = {"mask": self.mask, "scores": self.scores, "worsening": worsening}
        write_tensors(path, tensors, notes)

    @classmethod
    def load(
        cls,
        path: str | Path,
        graph: Graph,
        threshold: float,
        worsening: Worsening = "kl",
        fingerprint: str = "",
    ) -> "AcdcState":
        """Read what `save` wrote, for the same search.

        Raises:
            RunError: the file is damaged, or is of another graph, threshold, worsening or model.
        """
        tensors, notes = read_tensors(path, finite=True)
        state = cls.start(graph, threshold, worsening)
        for name, ours in state._identity(fingerprint).items():
            if notes.get(name) != ours:
                raise RunError(
                    f"{path} is of another search: its {name} is {notes.get(name)!r:.60}, expected "
                    f"{ours!r}; delete the file to start again"
                )
        shape = (graph.n_edges,)
        state.mask = taken(path, tensors, "mask", shape, "bool")
        state.scores = taken(path, tensors, "scores", shape)
        state.worsening = taken(path, tensors, "worsening", ()).item()
        state.readers_done = count(path, notes, "readers_done", graph.n_readers)
        state.chain = count(path, notes, "chain")
        state.evaluations = count(path, notes, "evaluations")
        return state

    def _identity(self, fingerprint: str) -> dict[str, str]:
        """What two searches must share for one to go on where the other stopped."""
        return {
            "method": "acdc",
            "edges": str(len(self.mask)),
            "threshold": repr(self.threshold),
            "worsening": self.worsening_name,
            "fingerprint": fingerprint,
        }
