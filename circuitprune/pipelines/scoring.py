"""Scores of every edge by `attribution.method`: of `attribute`, and where training starts."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuitprune.attribution import convergence, per_example
from circuitprune.attribution.nodes import lift, node_scores
from circuitprune.attribution.passes import watched
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.data.pairs import Batch
from circuitprune.engine.progress import Nested
from circuitprune.errors import RunError
from circuitprune.files.tensors import noted, taken
from circuitprune.files.text import counted, show
from circuitprune.files.whole import read_tensors, write_tensors
from circuitprune.metrics import Metric
from circuitprune.patching.acdc import AcdcState, Worsening, acdc
from circuitprune.patching.effects import edge_effects, plan
from circuitprune.pipelines.metric import attribution_metric, metric_name
from circuitprune.pipelines.own import own_hashes
from circuitprune.pipelines.setup import Print, Setup, chosen_edges, training_batches
from circuitprune.pipelines.sharing import Methods, Sharing, methods_of
from circuitprune.runs.settings import flatten, whole
from circuitprune.runs.shards import Job, Ranks, differences, run_shards
from circuitprune.views.progress import shown


@dataclass(frozen=True)
class Scoring:
    """What attribution found."""

    scores: Float[Tensor, " edge"]
    """Signed, in the metric's unit; NaN for an edge that `attribution.edges` left out."""
    per_example: Float[Tensor, "example edge"] | None = None
    """The same for each training pair by itself."""
    circuits: dict[float, Bool[Tensor, " edge"]] = field(default_factory=dict)
    """acdc: the circuit of each threshold."""
    agreement: list[tuple[int, int, float]] = field(default_factory=list)
    """(m, 2m, Spearman of the magnitudes of their scores)."""
    nodes: Float[Tensor, " writer"] | None = None
    """Signed scores of whole nodes, where the method gives any and scored all edges."""

    def save(self, path: Path, setup: Setup) -> None:
        """One safetensors file: `scores`, and under their own names whatever else there is."""
        tensors = {"scores": self.scores}
        if self.per_example is not None:
            tensors["per_example"] = self.per_example
        if self.nodes is not None:
            tensors["nodes"] = self.nodes
        if self.circuits:
            tensors["thresholds"] = torch.tensor(list(self.circuits), dtype=torch.float64)
            tensors["circuits"] = torch.stack(list(self.circuits.values()))
        if self.agreement:
            tensors["agreement"] = torch.tensor(self.agreement, dtype=torch.float64)
        write_tensors(path, tensors, _notes(setup))

    @classmethod
    def load(cls, path: Path, setup: Setup) -> "Scoring":
        """What `save` wrote, after checking that it fits.

        Raises:
            RunError: a damaged file, scores of another method, graph, model or set of pairs or
                under other settings, or not finite ones.
        """
        tensors, notes = read_tensors(path, finite=setup.config.attribution.edges is None)
        wanted, graph = setup.config.attribution.method, setup.gated.graph
        if notes.get("method") != wanted:
            raise RunError(
                f"{path} holds scores by {notes.get('method')!r}, this config says "
                f"attribution.method={wanted}; choose another output_dir"
            )
        shape = tuple(tensors["scores"].shape) if "scores" in tensors else None
        if shape != (graph.n_edges,):
            raise RunError(
                f"{path} holds scores of shape {shape}, expected ({graph.n_edges},) for "
                f"{graph.describe()}; it belongs to another model, or is not ours: choose another "
                "output_dir"
            )
        theirs, ours = noted(path, notes, "job"), job(setup)
        different = differences(theirs, ours) if isinstance(theirs, dict) else "not said which"
        if different:
            raise RunError(
                f"{path} is of another job ({different}); go on with the same, or choose another "
                "output_dir"
            )
        return cls._taken(path, tensors, graph)

    @classmethod
    def _taken(
        cls, path: Path, tensors: Mapping[str, Shaped[Tensor, "..."]], graph: Graph
    ) -> "Scoring":
        """What stands in a file, each of its own shape; all but the scores may be absent."""
        n_edges, n_nodes = graph.n_edges, graph.n_writers
        found = partial(taken, path, tensors)
        each = found("per_example", (None, n_edges)) if "per_example" in tensors else None
        nodes = found("nodes", (n_nodes,)) if "nodes" in tensors else None
        agreement, circuits = [], {}
        if "agreement" in tensors:
            rows = found("agreement", (None, 3)).tolist()
            agreement = [(int(m), int(double), rho) for m, double, rho in rows]
        if "circuits" in tensors or "thresholds" in tensors:
            masks = found("circuits", (None, n_edges), "bool")
            circuits = dict(zip(found("thresholds", (len(masks),)).tolist(), masks, strict=True))
        return cls(found("scores", (n_edges,)), each, circuits, agreement, nodes)


def scoring_of(
    setup: Setup, path: Path, say: Print = show, ranks: Ranks | None = None
) -> Scoring | None:
    """The scores in `path`, or, if there are none yet, those made now and written there.

    Returns:
        None on a process that does not lead: its part is in the shards.
    """
    ranks = ranks or Ranks()
    if path.exists():
        scoring = Scoring.load(path, setup) if ranks.leads else None
    else:
        scoring = _scored(setup, path, say, ranks)
    if scoring is not None:  # a process that was killed here left the shards
        shutil.rmtree(path.parent / "shards", ignore_errors=True)  # all that they hold is in it
    return scoring


def _scored(setup: Setup, path: Path, say: Print, ranks: Ranks) -> Scoring | None:
    """Scores made now, and written."""
    settings = setup.config.attribution
    say(
        f"Attributing by {settings.method} on "
        f"{counted(len(setup.data.splits['train']), 'training pair')}"
    )
    if setup.method.sharded:
        run = by_acdc if settings.method == "acdc" else by_exact
        scoring = run(setup, path.parent / "shards", ranks)
    else:
        scoring = _by_method_of_ranks(setup, path.parent / "shards", say, ranks)
    if scoring is not None:
        scoring.save(path, setup)
    return scoring


def _by_method_of_ranks(setup: Setup, folder: Path, say: Print, ranks: Ranks) -> Scoring | None:
    """`by_method`, the batches shared among processes where the method is a mean over them."""
    if ranks.world == 1:
        return by_method(setup)
    if setup.method.whole:
        say(f"{setup.config.attribution.method} needs all pairs at once: one process runs it")
        return by_method(setup) if ranks.leads else None
    scoring = by_method(setup, Sharing(folder, job(setup), ranks))
    return scoring if ranks.leads else None


def by_method(setup: Setup, sharing: Sharing | None = None) -> Scoring:
    """Scores by one of `METHODS`, all edges at once; by several processes where they share it."""
    settings, references, chosen = setup.config.attribution, setup.references, chosen_edges(setup)
    alone, each, agreement = methods_of(setup), None, []
    steps = setup.method.points(settings.steps)
    methods = alone if sharing is None else sharing.both(*alone)
    with shown(setup.config.train.progress) as watch:
        ask = partial(
            watched,
            setup.method,
            setup.gated.graph,
            training_batches(setup),
            attribution_metric(setup),
            watch=watch,
        )
        scores, nodes = _scores_and_nodes(setup, methods, steps, *ask([steps], what="attribution"))
        if settings.per_example:
            asked = ask([steps], what="attribution of each pair", alone=True)
            by_example = per_example if sharing is None else sharing.each
            each = _only(by_example(alone[0], references, *asked, steps).cpu(), chosen)
        if settings.convergence:
            sizes = [steps * 2**i for i in range(settings.doublings + 1)]
            asked = ask(sizes, what="attribution with more steps")
            agreement = convergence(methods[0], references, *asked, steps, settings.doublings)
    scores = _only(scores, chosen)
    return Scoring(scores, each, agreement=agreement, nodes=nodes if chosen is None else None)


def _scores_and_nodes(
    setup: Setup, methods: Methods, steps: int, batches: Iterable[Batch], metric: Metric
) -> tuple[Float[Tensor, " edge"], Float[Tensor, " writer"] | None]:
    """Scores of all edges, and of all nodes by the same method; None if it has none of nodes."""
    graph = setup.gated.graph
    of_edges, of_nodes = methods
    if of_nodes is not None:
        nodes = of_nodes(setup.references, batches, metric, steps).cpu()
        return lift(graph, nodes), nodes
    scores = of_edges(setup.references, batches, metric, steps).cpu()
    additive = setup.method.additive and setup.config.level == "edge"
    return scores, node_scores(graph, scores) if additive else None


def by_exact(setup: Setup, folder: Path, ranks: Ranks) -> Scoring | None:
    """Exact patching of each edge, in shards; None on a process that does not lead."""
    settings, graph = setup.config.attribution, setup.gated.graph
    chosen, metric, batches = (
        chosen_edges(setup),
        attribution_metric(setup),
        training_batches(setup),
    )
    shards = plan(
        graph, None if chosen is None else chosen.nonzero().flatten(), settings.shard_edges
    )
    direction = "denoising" if settings.method == "exact_denoising" else settings.direction

    sign = 1 if direction == "noising" else -1  # an edge whose return helps, helps: negative

    with shown(setup.config.train.progress) as watch:
        progress = Nested(watch("attribution", "edges"))

        def score(edges: Int[Tensor, " n"]) -> Float[Tensor, "n ..."]:
            return sign * edge_effects(
                setup.references,
                batches,
                metric,
                edges,
                direction,
                settings.per_example,
                progress.part(len(edges)),
            )

        values = run_shards(shards, score, folder, job(setup), ranks, progress)
    if values is None:
        return None
    each = torch.full((graph.n_edges, *values.shape[1:]), torch.nan, dtype=values.dtype)
    each[torch.cat(shards)] = values
    return Scoring(each.mean(dim=1), each.T.contiguous()) if settings.per_example else Scoring(each)


def by_acdc(setup: Setup, folder: Path, ranks: Ranks) -> Scoring | None:
    """ACDC at each threshold, a process searching whole thresholds; each reader is a place to stop.

    The score of an edge is minus the largest threshold whose circuit keeps it, 0 if none does.
    """
    settings, graph, batches = setup.config.attribution, setup.gated.graph, training_batches(setup)
    worsening: Worsening = "kl" if settings.acdc_worsening == "kl" else setup.task_metric
    thresholds, task = sorted(settings.acdc_thresholds), job(setup)
    identity = hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:16]

    def search(index: Int[Tensor, "1"]) -> Bool[Tensor, "1 edge"]:
        threshold = thresholds[int(index)]
        path = folder / f"acdc_{threshold:g}.safetensors"
        state = None
        if path.exists():
            state = AcdcState.load(path, graph, threshold, worsening, identity)
        with shown(setup.config.train.progress) as watch:
            result = acdc(
                setup.references,
                batches,
                threshold,
                worsening,
                state,
                on_reader=lambda state: state.save(path, identity),
                progress=watch(f"ACDC at {threshold:g}", "readers"),
            )
        return live_edges(graph, result.mask).unsqueeze(0)

    shards = list(torch.arange(len(thresholds)).split(1))
    masks = run_shards(shards, search, folder, task, ranks)
    if masks is None:
        return None
    limits = torch.tensor(thresholds, dtype=torch.float64)
    scores = -(masks * limits.unsqueeze(1)).amax(dim=0)
    return Scoring(scores, circuits=dict(zip(thresholds, masks, strict=True)))


def job(setup: Setup) -> Job:
    """Every setting that decides a score, and hashes of the model, pairs, edges and own files."""
    own = ("level", "spans", "features.errors", "model.", "task.", "ablation", "attribution.")
    parts = (*own, "cache.", "train.batch_size", "verify.batch")
    every = flatten(whole(setup.config))  # whose numbers are to the bit those of a divided one
    settings, chosen = {k: v for k, v in every.items() if k.startswith(parts)}, chosen_edges(setup)
    known = b"" if chosen is None else chosen.numpy().tobytes()
    return {
        **settings,
        "model_fingerprint": setup.identity.model,
        "pairs": setup.identity.training_pairs,
        "edges": hashlib.sha256(known).hexdigest()[:16],
        **own_hashes(setup.config),
    }


def _only(
    scores: Float[Tensor, "*any edge"], chosen: Bool[Tensor, " edge"] | None
) -> Float[Tensor, "*any edge"]:
    """The same with NaN outside the chosen edges."""
    return scores if chosen is None else scores.where(chosen, torch.nan)


def _notes(setup: Setup) -> dict[str, str]:
    """What a reader of the file needs: method, metric and sizes, and what a resumed run checks."""
    settings = setup.config.attribution
    return {
        "method": settings.method,
        "metric": metric_name(setup),
        "steps": str(setup.method.points(settings.steps)),
        "graph": json.dumps(asdict(setup.gated.graph), sort_keys=True),
        "job": json.dumps(job(setup), sort_keys=True),
    }
