"""Circuits cut from a ranking, refined by exact runs before they are verified."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.data.batches import Batch, few_pairs
from circuitprune.files.records import JsonObject
from circuitprune.files.tensors import taken
from circuitprune.files.text import counted, nats
from circuitprune.files.whole import read_tensors, write_json, write_tensors
from circuitprune.patching.circuit_kl import CircuitKL, Share, alone
from circuitprune.patching.refining import Refined, Refinement, Round, refine
from circuitprune.pipelines.frontier import frontier_of
from circuitprune.pipelines.gathering import keep, kept
from circuitprune.pipelines.setup import Print, Setup
from circuitprune.pipelines.sharing import Sharing
from circuitprune.runs.frontier import Frontier
from circuitprune.runs.shards import Ranks
from circuitprune.views.progress import shown

Masks = Mapping[float, Bool[Tensor, " edge"]]
"""Circuits by the size, or threshold, that was asked for."""
CIRCUITS = "circuits.safetensors"
"""Below `refining/`, where several processes refine: the circuits as they were cut."""
SHARED = "shared"
"""Below `refining/`: what each process tells the others."""


@dataclass(frozen=True)
class RefinedCircuit:
    """One circuit of `refinement.json`."""

    size: float
    """The fraction of all edges, or the threshold, that was asked for."""
    n_edges_before: int
    """Edges of the circuit as it was cut."""
    n_edges: int
    """Edges of the one that was chosen."""
    kl_before: float
    """On the pairs that circuits were verified on, as it was cut; in nats."""
    kl: float
    """The same of the one that was chosen."""
    rounds: tuple[Round, ...]
    """The circuits that the search passed through."""


@dataclass(frozen=True)
class RefinementFile:
    """`refinement.json`."""

    schema: int
    """Of this file: 1."""
    n_pairs: int
    """Training pairs that changes were judged on."""
    n_validation_pairs: int
    """Pairs that decided which circuit of a search was taken; 0: the last one was."""
    circuits: tuple[RefinedCircuit, ...]
    """Those that were refined, by size."""


@dataclass(frozen=True)
class RefinedFrontier:
    """Circuits after refinement, or as cut where the config asks for none."""

    frontier: Frontier
    ranking: Float[Tensor, " edge"]
    """What the circuits are cut from, higher first."""
    notes: Sequence[str] = ()
    """Sentences for the summary."""


def refined_frontier(
    setup: Setup, masks: Masks, ranking: Float[Tensor, " edge"], say: Print, ranks: Ranks
) -> RefinedFrontier:
    """Circuits verified on the held-out pairs, refined before if the config says `refine`.

    Then `refined.safetensors` and `refinement.json` are written; until that, the state of each
    search is kept under `refining/`, so that the same command goes on from there. Other processes
    than this one call `help_refining`.
    """
    if not setup.config.refine:
        return RefinedFrontier(frontier_of(setup, dict(masks)), ranking)
    folder = Path(setup.config.output_dir)
    n = sum(_is_refined(setup, mask) for mask in masks.values())
    say(
        f"Refining {counted(n, 'circuit')} by exact runs on "
        f"{counted(_n_pairs(setup), 'training pair')}"
    )
    _hand_over(setup, masks, folder / "refining", ranks)
    found = refined_masks(setup, masks, folder / "refining", ranks)
    after = dict(masks) | {
        size: mask_of(setup.gated.graph, one.best) for size, one in found.items()
    }
    before = {point.size: point.evidence.kl for point in frontier_of(setup, dict(masks)).points}
    frontier = frontier_of(setup, after)
    ranking = nested(list(after.values()), ranking)
    record = _record(setup, masks, found, before, frontier)
    write_tensors(folder / "refined.safetensors", {"ranking": ranking}, {})
    write_json(folder / "refinement.json", record)
    shutil.rmtree(folder / "refining", ignore_errors=True)  # all that it holds is in these two
    return RefinedFrontier(frontier, ranking, [_note(record)])


def help_refining(setup: Setup, ranks: Ranks) -> None:
    """Do this process's share of the refinement that the first one leads; without any, nothing."""
    if not setup.config.refine:
        return
    folder = Path(setup.config.output_dir) / "refining"
    ranks.wait()  # the first has cut the circuits
    path = folder / CIRCUITS
    tensors, _ = read_tensors(path)
    sizes = taken(path, tensors, "sizes", (None,))
    masks = taken(path, tensors, "masks", (len(sizes), setup.gated.graph.n_edges), "bool")
    refined_masks(setup, dict(zip(sizes.tolist(), masks, strict=True)), folder, ranks)


def _hand_over(setup: Setup, masks: Masks, folder: Path, ranks: Ranks) -> None:
    """Give the other processes the circuits, in a folder where no results of a stopped run are."""
    if ranks.world == 1:
        return
    shutil.rmtree(folder / SHARED, ignore_errors=True)
    sizes = torch.tensor(list(masks), dtype=torch.float64)
    rows = [mask.cpu() for mask in masks.values()]
    every = torch.stack(rows) if rows else torch.zeros(0, setup.gated.graph.n_edges).bool()
    write_tensors(folder / CIRCUITS, {"sizes": sizes, "masks": every})
    ranks.wait()


def refined_masks(
    setup: Setup, masks: Masks, folder: Path | None, ranks: Ranks | None = None
) -> dict[float, Refined]:
    """The end of the search for each circuit that is to be refined; its states in a folder.

    All processes go through the same search, in which each runs some of the circuits: what decides
    is shared, so all see the same numbers.
    """
    ranks = ranks or Ranks()
    settings, graph = setup.config.refinement, setup.gated.graph
    exact, slopes = setup.config.verify.batch_size, setup.config.train.batch_size
    pairs = training_pairs(setup, exact), training_pairs(setup, slopes)
    share: Share = alone
    if folder is not None and ranks.world > 1:
        share = Sharing(folder / SHARED, {}, ranks, keeps=False).pieces
    train, validation = CircuitKL(setup.references, *pairs, share), None
    if setup.data.splits["val"]:
        validation = CircuitKL(setup.references, setup.data.batches("val", exact), share=share)
    found: dict[float, Refined] = {}
    larger: Bool[Tensor, " edge"] | None = None
    with shown(setup.config.train.progress) as watch:
        for size, mask in sorted(masks.items(), key=lambda one: -int(one[1].sum())):
            n_edges = int(mask.sum())
            if not _is_refined(setup, mask):
                continue
            search = Refinement(train, n_edges, settings.tries, settings.least_gain)
            path = folder and folder / f"{size:g}.json"
            store = _Store(path, _identity(setup, mask, larger), ranks.leads)
            state = store.read()
            found[size] = refine(
                search,
                mask if state else start_of(search, mask, larger),
                validation,
                settings.most_rounds,
                state,
                store.write,
                watch(f"refining {counted(n_edges, 'edge')}", "rounds at most"),
            )
            larger = mask_of(graph, found[size].best)
    ranks.wait()  # none reads the folder any more
    return {size: found[size] for size in masks if size in found}


def _is_refined(setup: Setup, mask: Bool[Tensor, " edge"]) -> bool:
    """Whether a circuit is small enough, and no empty one."""
    return 0 < int(mask.sum()) <= setup.config.refinement.max_size * setup.gated.graph.n_edges


def start_of(
    search: Refinement, mask: Bool[Tensor, " edge"], larger: Bool[Tensor, " edge"] | None
) -> Bool[Tensor, " edge"]:
    """Where a search begins: the circuit as cut, or the larger one cut down, if that is better."""
    if larger is None:
        return mask
    return min((mask, search.contracted(larger, search.n_edges)), key=search.kl.of)


@dataclass(frozen=True)
class _Store:
    """Where the state of a search is kept; nowhere without a path."""

    path: Path | None
    identity: JsonObject
    writes: bool
    """One process does; all have read before it can, as no search goes on without all."""

    def read(self) -> Refined | None:
        return None if self.path is None else kept(self.path, Refined, self.identity)

    def write(self, state: Refined) -> None:
        if self.path is not None and self.writes:
            keep(self.path, state, self.identity)


def training_pairs(setup: Setup, batch_size: int) -> list[Batch]:
    """The training pairs that changes are judged on, in batches of a size."""
    batches = setup.data.batches("train", batch_size)
    n = setup.config.refinement.n_pairs
    return few_pairs(batches, n) if n else batches


def _n_pairs(setup: Setup) -> int:
    n, every = setup.config.refinement.n_pairs, len(setup.data.splits["train"])
    return min(n, every) if n else every


def _identity(
    setup: Setup, start: Bool[Tensor, " edge"], larger: Bool[Tensor, " edge"] | None
) -> JsonObject:
    """All that decides the search for a circuit."""
    config = setup.config
    return {
        "start": _hash(start),
        "larger": None if larger is None else _hash(larger),
        "settings": asdict(config.refinement),
        "ablation": config.ablation,
        "batch_sizes": [config.verify.batch_size, config.train.batch_size],
        "pairs": setup.identity.pairs,
        "versions": setup.identity.versions,
    }


def _hash(mask: Bool[Tensor, " edge"]) -> str:
    return hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest()[:16]


def mask_of(graph: Graph, edges: Sequence[int]) -> Bool[Tensor, " edge"]:
    """The circuit of edges given by their positions."""
    mask = graph.no_edges()
    mask[list(edges)] = True
    return mask


def nested(
    masks: Sequence[Bool[Tensor, " edge"]], ranking: Float[Tensor, " edge"]
) -> Float[Tensor, " edge"]:
    """A ranking that has the edges of the smallest circuit first, then those of the next.

    Within, as they were ranked; edges of no circuit last, at most 0; NaN stays what no circuit has.
    """
    order = ranking.nan_to_num(-torch.inf).argsort(stable=True)
    places = torch.empty(len(order), dtype=torch.float64)
    places[order] = torch.arange(1, len(order) + 1, dtype=torch.float64) / (len(order) + 1)
    found, by_size = places - 1, sorted(masks, key=lambda mask: -int(mask.sum()))
    for level, mask in enumerate(by_size):
        found = found.where(~mask, places + level)
    return found.where(~ranking.isnan() | torch.stack(by_size).any(dim=0), torch.nan)


def _record(
    setup: Setup,
    masks: Masks,
    found: Mapping[float, Refined],
    before: Mapping[float, float],
    frontier: Frontier,
) -> RefinementFile:
    kl = {point.size: point.evidence.kl for point in frontier.points}
    circuits = tuple(
        RefinedCircuit(
            size=size,
            n_edges_before=int(masks[size].sum()),
            n_edges=len(one.best),
            kl_before=before[size],
            kl=kl[size],
            rounds=one.rounds,
        )
        for size, one in found.items()
    )
    return RefinementFile(1, _n_pairs(setup), len(setup.data.splits["val"]), circuits)


def _note(record: RefinementFile) -> str:
    """What refinement changed, in words."""
    told = "; ".join(
        f"{counted(one.n_edges, 'edge')} from {nats(one.kl_before)} to {nats(one.kl)}"
        for one in record.circuits
    )
    how = "chosen by the validation pairs" if record.n_validation_pairs else "the last of each"
    return (
        f"Refined by exact runs on {counted(record.n_pairs, 'training pair')}, {how}. KL in nats "
        f"on the pairs of the table, as cut and refined: {told or 'no circuit was small enough'}."
    )
