"""Finished runs and circuit files, read back to be compared at equal size."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.batches import Batch, collate
from circuitprune.circuit import Circuit
from circuitprune.config import RunConfig, load_config
from circuitprune.data import PairData, pairs_hash
from circuitprune.encoding import Example
from circuitprune.errors import GraphError, RunError
from circuitprune.graph import Graph
from circuitprune.preparation import Setup, make_pairs
from circuitprune.reachability import live_edges
from circuitprune.results import Frontier, read_results
from circuitprune.selection import Method, select


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
                f"{self.name} has {self.n_edges:,} edges and no scores to cut it to {n_edges:,} "
                "by; compare at its own size or give a circuit with scores"
            )
        known = self.ranking > -torch.inf
        return live_edges(
            self.graph, select(self.graph, self.ranking, n_edges, self.method) & known
        )


def load_found(path: str | Path) -> Found:
    """The circuit in a run folder (its chosen one, see `Frontier.chosen`) or in a circuit file.

    A run is cut by its final ranking, one of `top_n_raw` or ACDC as by `top_n`: what they count is
    not the live edges. ACDC's smaller circuits are made of the edges that survive the highest
    thresholds, and an edge that survives none is in no circuit. A file of this package is cut by
    its scores as they are, one of EAP-IG or MIB by their magnitude, and no file to edges that it
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
    known = ranking > 0 if about["selection"] == "acdc" else ~ranking.isnan()
    return Found(
        str(folder),
        frontier.graph,
        frontier.chosen().mask,
        ranking.where(known, -torch.inf),
        "greedy" if about["selection"] == "greedy" else "top_n",
        load_config(folder / "config.yaml"),
        str(about["model_fingerprint"]),
        str(about.get("pairs_hash")),
        tuple(point.mask for point in frontier.points),
    )


def check_source(found: Found, fingerprint: str, data: PairData) -> None:
    """Refuse a run that was made of another model or of other pairs than are there now.

    Args:
        found: The run.
        fingerprint: Of the model that its config names now.
        data: The pairs that its config gives now.

    Raises:
        RunError: either differs.
    """
    now = {"model": fingerprint, "pairs": pairs_hash(data.splits)}
    then = {"model": found.fingerprint, "pairs": found.pairs_hash}
    for what, key in (("model", "model_fingerprint"), ("pairs", "pairs_hash")):
        if then[what] != now[what]:
            raise RunError(
                f"{found.name} was made with another model or other pairs than its config gives "
                f"now: {key} was {then[what]} and is {now[what]}. Restore the {what}, or run again "
                "in another folder"
            )


def read_frontier(folder: Path) -> tuple[Frontier, Float[Tensor, " edge"]]:
    """The verified circuits of a finished run, and the ranking that they were cut from.

    Raises:
        RunError: not a finished run, or one with damaged files.
    """
    if not (folder / "COMPLETE").exists():
        raise RunError(
            f"{str(folder)!r} is not a finished run: it has no COMPLETE; pass a folder that "
            "`train` or `attribute` has finished"
        )
    frontier, circuits = read_results(folder)
    ranking = circuits[0].scores
    if ranking is None:
        raise RunError(f"{folder / 'circuits'} is damaged: its circuits have no scores")
    return frontier, ranking


def _from_file(path: Path) -> Found:
    circuit = Circuit.load(path)
    ranking = circuit.scores
    if ranking is not None:
        ours = "selection" in circuit.provenance  # only our files hold what they were cut from
        ranking = (ranking if ours else ranking.abs()).nan_to_num(-torch.inf)
        ranking = ranking.where(circuit.mask, -torch.inf)
    return Found(str(path), circuit.graph, circuit.mask, ranking)


def same_graph(found: Iterable[Found]) -> Graph:
    """The graph that all have in common.

    Raises:
        GraphError: they have different ones.
    """
    first, *others = found
    for other in others:
        if replace(first.graph, d_model=0) != replace(other.graph, d_model=0):
            raise GraphError(
                f"{first.name} is of {first.graph.describe()}, {other.name} of "
                f"{other.graph.describe()}; only circuits of one graph in one convention of "
                "key/value readers can be compared"
            )
    return first.graph


Texts = set[object]
"""Clean prompts, and unordered pairs of prompts, as text."""


def texts_of(examples: Iterable[Example]) -> Texts:
    """What makes another pair one that was seen: its clean prompt, or the same two prompts.

    The rule by which `split` keeps pairs on one side.
    """
    pairs = [example.pair for example in examples]
    return {p.clean for p in pairs} | {frozenset((p.clean, p.corrupt)) for p in pairs}


def trained_on(setup: Setup, configs: Iterable[RunConfig]) -> Texts:
    """What runs in this setup's model were trained on; a resample has pairs of the same seed."""
    seen = texts_of(setup.data.splits["train"])
    for seed in {config.task.seed for config in configs} - {setup.config.task.seed}:
        config = replace(setup.config, task=replace(setup.config.task, seed=seed))
        seen |= texts_of(make_pairs(config, setup.gated.model, setup.tokenizer).splits["train"])
    return seen


def unseen_batches(setup: Setup, seen: Texts) -> list[Batch]:
    """The held-out pairs of a run that are not among `seen`, in batches, where the model is.

    Empty if all of them were seen.
    """
    data, name, size = setup.data, setup.held_out, setup.config.verify.batch_size
    first = sum(len(data.splits[n]) for n in list(data.splits)[: list(data.splits).index(name)])
    kept = [
        (first + i, example)
        for i, example in enumerate(data.splits[name])
        if not texts_of([example]) & seen
    ]
    parts = [kept[at : at + size] for at in range(0, len(kept), size)]
    return [
        collate([e for _, e in part], [i for i, _ in part], data.pad_id).to(setup.gated.device)
        for part in parts
    ]
