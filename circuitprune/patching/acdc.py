"""ACDC: from the logits up, every edge is cut whose cutting the circuit hardly notices.

Conmy et al. 2023, "Towards Automated Circuit Discovery for Mechanistic Interpretability" (arXiv
2304.14997). The circuit H starts as the whole model. Readers are visited in the reverse of the
graph's order: `logits`, then in each layer from the last its MLP, the value, key and query readers,
each port from its last head to its first. At each reader the writers are visited from the last one
written to `input`, and an edge e is removed for good if

    worsening(H without e) - worsening(H)  <  threshold.

The edges into a reader whose heads or MLP nobody reads any more are removed without a run: nothing
can change, so the difference would be 0.

Two things make it quick, and neither changes a decision. A candidate is run only where it differs
from the current circuit (`candidates.py`). And the next k decisions at a reader are guessed, the
circuits that would follow are run as one stack, and the decisions are taken from it in order, up to
and including the first that was guessed wrong. Decisions compare float64 means of per-example
values. What is left of the stacking is the rounding of the logits, so a decision could depend on k
or on the batches only if it lies within rounding of the threshold.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.span_graph import require_edges
from circuitprune.data.pairs import Batch
from circuitprune.engine.progress import Progress, silent
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError, NonFiniteError, RunError
from circuitprune.metrics import kl_divergence
from circuitprune.patching.acdc_state import AcdcState, Worsening
from circuitprune.patching.candidates import CandidateRuns

__all__ = ["AcdcResult", "AcdcState", "Worsening", "acdc", "sweep"]

LONGEST_CHAIN = 32
"""Most decisions guessed ahead."""


@dataclass(frozen=True)
class AcdcResult:
    """What a search found."""

    threshold: float
    mask: Bool[Tensor, " edge"]
    """The circuit as ACDC leaves it; see `reachability.live_edges` for the part that is live."""
    scores: Float[Tensor, " edge"]
    """Minus how much worse the circuit of that moment became when the removal was tried.

    The change of the metric `-worsening` by ablating the edge, negative where the edge helps; an
    edge is kept where `-score >= threshold`. Removed without a run: 0. Not comparable over edges
    as attribution scores are: each was taken in another circuit.
    """
    counts: list[tuple[int, int]]
    """`(layer, edges left when the layer was done)`, the logits first."""
    worsening: float
    """Of the circuit on the pairs."""
    evaluations: int
    """Candidate circuits run on all pairs, including those guessed in vain."""


@torch.no_grad()
def acdc(
    references: References,
    batches: Iterable[Batch],
    threshold: float,
    worsening: Worsening = "kl",
    state: AcdcState | None = None,
    on_reader: Callable[[AcdcState], None] | None = None,
    progress: Progress = silent,
    longest_chain: int = LONGEST_CHAIN,
) -> AcdcResult:
    """The circuit that ACDC finds at one threshold.

    Args:
        references: The model, the ablation and the full model's logits.
        batches: All are held at once, each with its run: about four times
            `writer * batch * pos * d_model` values.
        threshold: Above 0, in the unit of `worsening`.
        worsening: `kl`, or a task metric whose fall counts.
        state: Where to go on; it is changed in place. None starts with the whole model.
        on_reader: Called with the state after each reader, to save it or to stop by raising.
        progress: Told the readers that are done.
        longest_chain: Most decisions guessed ahead; 1 tries one edge at a time. Speed only.

    Raises:
        ConfigError: a threshold that is not above 0.
        DataError: no batches.
        NonFiniteError: a worsening is NaN or infinite.
        RunError: the state is of another search.
    """
    require_threshold(threshold)
    graph = references.gated.graph
    fresh = AcdcState.start(graph, threshold, worsening)
    state = fresh if state is None else state
    if state._identity("") != fresh._identity(""):
        raise RunError(f"the state is of another search: {state._identity('')}")
    judge = _Judge(references, batches, worsening)
    while state.readers_done < graph.n_readers:
        reader = graph.n_readers - 1 - state.readers_done
        if _is_read(graph, state.mask, reader):
            _visit(state, judge, reader, longest_chain)
        else:
            state.mask[graph.edge_reader == reader] = False
        state.readers_done += 1
        if on_reader is not None:
            on_reader(state)
        progress(state.readers_done, graph.n_readers)
    return AcdcResult(
        threshold,
        state.mask.clone(),
        state.scores.clone(),
        state.counts(graph),
        state.worsening,
        state.evaluations,
    )


def require_threshold(threshold: float) -> None:
    """Refuse what no worsening can be compared with.

    Raises:
        ConfigError: a threshold that is no number, not above 0, or infinite.
    """
    if not isinstance(threshold, Real) or not 0 < threshold < math.inf:
        raise ConfigError(f"an ACDC threshold must be above 0, and finite, got {threshold!r:.80}")


def sweep(
    references: References,
    batches: Iterable[Batch],
    thresholds: Sequence[float],
    worsening: Worsening = "kl",
    states: Mapping[float, AcdcState] | None = None,
    on_reader: Callable[[AcdcState], None] | None = None,
    progress: Progress = silent,
) -> dict[float, AcdcResult]:
    """`acdc` at each threshold, each a search of its own from the whole model.

    Args:
        references, batches, worsening, on_reader: See `acdc`; a state knows its `threshold`.
        thresholds: In any order.
        states: Where to go on, by threshold.
        progress: Told the readers that are done, over all thresholds.

    Raises:
        As `acdc`.
    """
    batches, states = list(batches), states or {}
    results: dict[float, AcdcResult] = {}
    n_readers = references.gated.graph.n_readers
    for threshold in thresholds:
        done, total = len(results) * n_readers, len(thresholds) * n_readers

        def report(readers: int, _: int, done: int = done, total: int = total) -> None:
            progress(done + readers, total)

        results[threshold] = acdc(
            references, batches, threshold, worsening, states.get(threshold), on_reader, report
        )
    return results


class _Judge:
    """How much worse circuits are than the model: means over all pairs, in float64."""

    def __init__(
        self, references: References, batches: Iterable[Batch], worsening: Worsening
    ) -> None:
        gated = references.gated
        require_edges(gated.graph, "ACDC")
        self.references, self.worsening = references, worsening
        batches = list(batches)
        if not batches:
            raise DataError("ACDC needs pairs, but was given no batches")
        references.fill(batches)  # a resumed search then sees the same bits
        self.batches = list(references.rests(batches))
        self.n_pairs = sum(map(len, self.batches))
        self.whole = [
            CandidateRuns(
                gated, batch, references.ablated(batch), torch.ones(gated.graph.n_edges), 0
            )
            for batch in self.batches
        ]

    def open(self, mask: Bool[Tensor, " edge"], reader: int) -> list[CandidateRuns]:
        """Runs of one circuit on all batches, ready to try gates of one reader.

        Each starts from the whole model's run, never from the last circuit's: what a search sees
        after a stop must not depend on how it got there.
        """
        return [run.other(mask.double(), reader) for run in self.whole]

    def current(self, runs: list[CandidateRuns]) -> float:
        """Worsening of the circuit that is open."""
        return self._means([run.logits.unsqueeze(0) for run in runs])[0]

    def candidates(self, runs: list[CandidateRuns], gates: Tensor) -> list[float]:
        """Worsening with each row as the gates of the open reader."""
        return self._means([run(gates.double()) for run in runs])

    def _means(self, logits: list[Float[Tensor, "candidate _ vocab"]]) -> list[float]:
        sums = torch.zeros(len(logits[0]), dtype=torch.float64)
        for batch, stacked in zip(self.batches, logits, strict=True):
            worse = self._of_batch(batch)
            sums += torch.stack([worse(one).double().sum() for one in stacked]).cpu()
        means = sums / self.n_pairs
        if not bool(torch.isfinite(means).all()):
            raise NonFiniteError(
                "the worsening of a circuit is NaN or infinite; use model.dtype=float32 or a "
                "metric that is finite on all pairs"
            )
        return means.tolist()

    def _of_batch(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Worsening of each example, from a circuit's logits on a batch."""
        metric = self.worsening
        if callable(metric):
            return lambda logits: -metric(logits, batch)
        full = self.references.full_logits(batch)
        return lambda logits: kl_divergence(full, logits)


def _is_read(graph: Graph, mask: Bool[Tensor, " edge"], reader: int) -> bool:
    """Whether anything kept reads what this reader feeds; the logits always count."""
    fed = torch.tensor(graph.heads_of_reader(reader))
    return not len(fed) or bool(mask[torch.isin(graph.edge_writer, fed)].any())


def _visit(state: AcdcState, judge: _Judge, reader: int, longest_chain: int) -> None:
    """Decide on every kept edge into one reader, from the last writer to the first."""
    graph = judge.references.gated.graph
    edges = (graph.edge_reader == reader).nonzero().flatten()
    row = state.mask[edges]
    waiting = row.nonzero().flatten().flip(0).tolist()
    guesses = dict.fromkeys(waiting, True)  # most edges go
    runs = judge.open(state.mask, reader)
    state.worsening = judge.current(runs)
    while waiting:
        length = min(state.chain, longest_chain, *(run.at_once for run in runs))
        tried = waiting[:length]
        values = judge.candidates(runs, _chain(row, tried, guesses))
        decided = _decide(tried, values, guesses, state.worsening, state.threshold)
        for writer, value in zip(tried, values, strict=False):
            if writer not in decided:
                break
            state.scores[edges[writer]] = state.worsening - value
            if decided[writer]:
                row[writer], state.worsening = False, value
        state.evaluations += len(tried)
        waiting = waiting[len(decided) :]
        all_right = all(guesses[writer] == removed for writer, removed in decided.items())
        state.chain = min(2 * length, longest_chain) if all_right else max(1, length // 2)
    state.mask[edges] = row


def _chain(
    row: Bool[Tensor, " writer"], tried: list[int], guesses: dict[int, bool]
) -> Bool[Tensor, "candidate writer"]:
    """The circuits that one decision after the other would try, were all guesses right."""
    row, rows = row.clone(), []
    for writer in tried:
        without = row.clone()
        without[writer] = False
        rows.append(without)
        if guesses[writer]:
            row = without
    return torch.stack(rows)


def _decide(
    tried: list[int],
    values: list[float],
    guesses: dict[int, bool],
    current: float,
    threshold: float,
) -> dict[int, bool]:
    """Which edges go, in order, up to and including the first wrong guess.

    What was run after it is no basis for a decision, but a good guess: an edge's effect seldom
    depends on whether one other edge is there.
    """
    decided: dict[int, bool] = {}
    wrong = False
    for writer, value in zip(tried, values, strict=True):
        goes, guessed = value - current < threshold, guesses[writer]
        if wrong:
            guesses[writer] = goes
        else:
            decided[writer] = goes
            wrong = goes != guessed
        if guessed:
            current = value
    return decided
