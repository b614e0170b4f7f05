"""One circuit with everything that the evidence about it is computed from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuitprune.circuits.graph import Graph
from circuitprune.data.batches import Batch
from circuitprune.engine.progress import Watch, unwatched
from circuitprune.engine.references import References
from circuitprune.errors import DataError, GraphError
from circuitprune.metrics import Metric


@dataclass(frozen=True)
class Case:
    """A circuit, the pairs that it is judged on, and the budget of the judgement.

    Every kind of evidence is a function of a case alone, so the same case gives the same bytes.

    Raises:
        DataError: no held-out pairs.
        GraphError: a mask, ranking, scores or nodes that do not fit the graph, or hold NaN.
    """

    references: References
    """The model, what cut edges carry, and the full model's logits."""
    batches: Sequence[Batch]
    """Held-out pairs, on the model's device; all evidence is computed on these."""
    train_batches: Sequence[Batch]
    """Pairs that means are taken over for the mean ablations, on the model's device."""
    task_metric: Metric
    """Higher is better."""
    mask: Bool[Tensor, " edge"]
    """The circuit under test."""
    ranking: Float[Tensor, " edge"]
    """What circuits are cut from, higher first; -inf for an edge that is in none."""
    sizes: Mapping[float, Bool[Tensor, " edge"]]
    """The frontier: circuits by the size, or threshold, that was asked for."""
    seed: int
    scores: Float[Tensor, " edge"] | None = None
    """Signed scores of an attribution, negative helps; None if the ranking has no sign."""
    nodes: Float[Tensor, " writer"] | None = None
    """Signed scores of whole nodes by the same attribution; None if it has none."""
    n_bootstrap: int = 1000
    """Resamples behind each interval, and permutations behind the test of independence."""
    n_random: int = 100
    """Random circuits, and edges added at random, that the circuit is compared with."""
    n_knockouts: int = 20
    """Knock-outs of each family."""
    n_removed: int = 500
    """Kept edges that are removed by themselves, drawn at random where there are more."""
    n_adversarial: int = 40
    """Steps of the adversary that sets the gates outside the circuit."""
    tolerance: float = 0.01
    """Nats of KL up to which an edge counts as dispensable."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """Spells tokens, where evidence shows any."""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Names for the report: `model`, `task`, `metric`, `split`."""
    watch: Watch = unwatched
    """Shows how far each piece of work is."""

    def __post_init__(self) -> None:
        if not self.n_examples:
            raise DataError("there is no held-out pair to judge the circuit on")
        n_edges, n_writers = self.graph.n_edges, self.graph.n_writers
        fields = {
            "mask": (self.mask, n_edges),
            "ranking": (self.ranking, n_edges),
            "scores": (self.scores, n_edges),
            "nodes": (self.nodes, n_writers),
        }
        for name, (values, n) in fields.items():
            if values is None:
                continue
            if values.shape != (n,):
                raise GraphError(
                    f"{name} has shape {tuple(values.shape)}, expected ({n},) for "
                    f"{self.graph.describe()}"
                )
            if values.is_floating_point() and bool(values.isnan().any()):
                raise GraphError(f"{name} holds NaN; give what has no rank -inf, or 0")

    @property
    def graph(self) -> Graph:
        """The graph of the circuit."""
        return self.references.gated.graph

    @property
    def n_examples(self) -> int:
        """Held-out pairs."""
        return sum(map(len, self.batches))

    @property
    def full_mask(self) -> Bool[Tensor, " edge"]:
        """The circuit of all edges."""
        return torch.ones(self.graph.n_edges, dtype=torch.bool)

    @property
    def empty_mask(self) -> Bool[Tensor, " edge"]:
        """The circuit of no edge."""
        return self.graph.no_edges()

    def generator(self, section: str) -> torch.Generator:
        """Random numbers of a section's own: a function of `seed` and the section's name."""
        digest = hashlib.sha256(f"{self.seed}/{section}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
