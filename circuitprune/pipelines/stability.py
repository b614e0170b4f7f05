"""Does the same circuit come out again? Runs with other seeds and pairs, and what they share."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.overlap import (
    consensus,
    edge_jaccard,
    majority,
    node_jaccard,
    overlap_at,
    plain,
    times_kept,
)
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import n_edges_of
from circuitprune.config import RunConfig
from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import evaluate_each, evaluate_full_each
from circuitprune.errors import RunError
from circuitprune.evidence.bootstrap import Bootstrap
from circuitprune.files.records import to_json
from circuitprune.files.text import counted, show
from circuitprune.files.whole import write_atomic, write_json
from circuitprune.pipelines.setup import Print, Setup, silent
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.trials import Trial, Vary, check_finished, run_once, trials
from circuitprune.pipelines.unseen import trained_on, unseen_batches
from circuitprune.runs import launched
from circuitprune.runs.finished import Found, load_run
from circuitprune.runs.lock import locked
from circuitprune.runs.shards import Ranks, processes
from circuitprune.runs.studies import (
    CoreEdges,
    Measured,
    RunMatrices,
    Stability,
    StabilityGroup,
    TrialRun,
)
from circuitprune.views.pages.studies import core_sentence, stability_page, stability_sentence
from circuitprune.views.progress import shown

N_BOOTSTRAP = 1000
"""Resamples of the held-out pairs behind each interval of faithfulness."""


def stability(
    config: RunConfig,
    seeds: int = 5,
    bootstrap: int = 0,
    attributes: bool = False,
    vary: Vary = "both",
    size: float | None = None,
    say: Print = show,
) -> Stability | None:
    """Run a config again and again, and report how far the circuits found are the same.

    Two groups of runs, below `config.output_dir`: `seed0`, `seed1`, ... with other seeds, and
    `bootstrap0`, ... on training pairs drawn with replacement (`task.resample`) and nothing else
    changed. The second are attributions by `attribution.method`, also where the first are trained:
    that is cheap, and leaves the noise of training out. A finished run is not run again. Under
    torchrun each process takes the next run that none has taken; the first compares them.

    Writes `stability.json`, `stability.md`, and for each group `<group>_edges.csv`,
    `<group>_consensus.json`, `<group>_majority.json`; for all runs `views_edges.csv`, `core.json`.

    Args:
        config: Of every run, but for its seeds and folder.
        seeds: Runs with other seeds: 0, or at least 2.
        bootstrap: Runs on resampled pairs: 0, or at least 2.
        attributes: Runs with other seeds are attributions too.
        vary: `train.seed`, `task.seed`, or both count up from the config's.
        size: Fraction of all edges at which circuits are compared; by default the median of the
            circuits that the runs chose.
        say: Prints.

    Returns:
        What `stability.json` holds; None on a process that does not lead.

    Raises:
        CircuitPruneError: nothing to compare, another process at work in the folder, or whatever
            stops a run.
    """
    groups, ranks = trials(config, seeds, bootstrap, attributes, vary), processes()
    mine = locked(Path(config.output_dir)) if ranks.leads else nullcontext()
    with ranks.together(), mine:
        _run_all(groups, say if ranks.leads else silent, ranks)
        return _study(config, groups, size, say) if ranks.leads else None


def _study(
    config: RunConfig, groups: Mapping[str, Sequence[Trial]], size: float | None, say: Print
) -> Stability:
    """Compare the runs, which are all finished, and write what is found."""
    folder = Path(config.output_dir)
    everything = [trial for group in groups.values() for trial in group]
    setup = Study.from_config(replace(config, train=replace(config.train, resume=None))).setup
    batches = unseen_batches(setup, trained_on(setup, [trial.config for trial in everything]))
    compared = {}
    for name, group in groups.items():
        say(f"Comparing the circuits of {counted(len(group), 'run')} ({name})")
        with setup.forecast_told():
            compared[name] = _compared(setup, name, group, batches, size)
    sizes = [study.n_edges for study in compared.values()]
    core = core_edges(setup, [load_run(one.folder) for one in everything], max(sizes), batches)
    found = Stability(
        schema=1,
        model=config.model.name,
        model_fingerprint=setup.identity.model,
        task=config.task.name,
        ablation=config.ablation,
        metric=setup.metric_name,
        n_edges_total=setup.gated.graph.n_edges,
        split=setup.held_out,
        n_pairs=sum(map(len, batches)),
        n_pairs_seen=len(setup.data.splits[setup.held_out]) - sum(map(len, batches)),
        groups=compared,
        core=core,
    )
    write_json(folder / "stability.json", found, checked=True)
    write_atomic(folder / "stability.md", stability_page(found))
    return found


def _run_all(groups: Mapping[str, Sequence[Trial]], say: Print, ranks: Ranks) -> None:
    """Return when every run is finished; each is of one process, whoever is free."""
    check_finished([trial for group in groups.values() for trial in group])
    ranks.wait()  # all have seen the folders as they were
    for name, group in groups.items():
        for number, trial in enumerate(group):
            if ranks.first(trial.folder.name):
                say(f"{name} {number + 1} of {len(group)}: {trial.folder}")
                with launched.alone():
                    run_once(trial, say)
    ranks.wait()


# ---------------------------------------------------------------- comparing


def _compared(
    setup: Setup,
    name: str,
    group: Sequence[Trial],
    batches: Sequence[Batch],
    size: float | None,
) -> StabilityGroup:
    """One group: overlap at every size, votes, and the circuits that the votes elect."""
    runs, graph = [load_run(trial.folder) for trial in group], setup.gated.graph
    n_edges = _n_edges(runs, size)
    masks = torch.stack([run.cut(n_edges) for run in runs])
    if not masks.any():
        raise RunError(
            f"the circuits of all {counted(len(runs), 'run')} ({name}) are empty at "
            f"{counted(n_edges, 'edge')}, so there is nothing to compare; give a larger --size"
        )
    elected = {"consensus": consensus(graph, masks), "majority": majority(graph, masks, n_edges)}
    measured = _measure(setup, batches, masks, elected) if batches else {}
    kept = times_kept(masks)
    _write_votes(setup, name, runs, kept, elected, measured)
    study = StabilityGroup(
        method=setup.config.attribution.method if group[0].attributes else "training",
        runs=tuple(_about(trial, run) for trial, run in zip(group, runs, strict=True)),
        n_edges=n_edges,
        overlap=overlap_at(graph, masks, n_edges),
        jaccard=RunMatrices(plain(edge_jaccard(masks)), plain(node_jaccard(graph, masks))),
        curve=tuple(
            overlap_at(graph, torch.stack([run.cut(n) for run in runs]), n) for n in _sizes(setup)
        ),
        kept_by=tuple(torch.bincount(kept.long(), minlength=len(runs) + 1).tolist()),
        elected={title: int(mask.sum()) for title, mask in elected.items()},
        measured=measured,
        sentence="",
    )
    return replace(study, sentence=stability_sentence(name, study))


def core_edges(
    setup: Setup, runs: Sequence[Found], n_edges: int, batches: Sequence[Batch]
) -> CoreEdges:
    """What every run keeps at half of a size, at the size and at twice it, and what only some keep.

    Writes `views_edges.csv` and `core.json`.

    Source: CIRCUS (arXiv 2603.00523): core, contingent and noise edges over configurations.
    """
    graph, folder = setup.gated.graph, Path(setup.config.output_dir)
    sizes = sorted({max(1, n_edges // 2), n_edges, min(2 * n_edges, graph.n_edges)})
    masks = torch.stack([run.cut(size) for run in runs for size in sizes])
    votes = times_kept(masks)
    every, half = votes == len(masks), 2 * votes >= len(masks)
    elected = {"core": live_edges(graph, every), "half": live_edges(graph, half)}
    measured = _measure(setup, batches, masks[:0], elected) if batches else {}
    columns = {"views": votes, "share_of_views": votes / len(masks)}
    write_edges_csv(folder / "views_edges.csv", Circuit(graph, votes > 0), columns)
    about = {"stability": "core", "of": [run.name for run in runs], "sizes": sizes}
    Circuit(graph, every, None, about, ranking=votes).save(folder / "core.json")
    found = CoreEdges(
        n_views=len(masks),
        sizes=tuple(sizes),
        core=tuple(graph.edge_name(edge) for edge in every.nonzero().flatten().tolist()),
        n_contingent=int(((votes > 0) & ~every).sum()),
        n_half=int(half.sum()),
        measured=measured,
        sentence="",
    )
    return replace(found, sentence=core_sentence(found))


def _n_edges(runs: Sequence[Found], size: float | None) -> int:
    """Edges to compare at: a fraction of all, or the median of what the runs chose."""
    if size is not None:
        return n_edges_of(runs[0].graph, size)
    return int(torch.tensor([run.n_edges for run in runs]).median())


def _write_votes(
    setup: Setup,
    name: str,
    runs: Sequence[Found],
    kept: Float[Tensor, " edge"],
    elected: Mapping[str, Bool[Tensor, " edge"]],
    measured: Mapping[str, Measured],
) -> None:
    """How many runs kept each edge, and the circuits that they elect."""
    graph, folder = setup.gated.graph, Path(setup.config.output_dir)
    columns = {"times_kept": kept, "share_kept": kept / len(runs)}
    write_edges_csv(folder / f"{name}_edges.csv", Circuit(graph, kept > 0), columns)
    for title, mask in elected.items():
        of, evidence = [run.name for run in runs], to_json(measured.get(title))
        about = {"stability": name, "elected": title, "of": of, "evidence": evidence}
        Circuit(graph, mask, None, about, ranking=kept).save(folder / f"{name}_{title}.json")


def _about(trial: Trial, run: Found) -> TrialRun:
    train, task = trial.config.train, trial.config.task
    return TrialRun(trial.folder.name, train.seed, task.seed, task.resample, run.n_edges)


def _sizes(setup: Setup) -> list[int]:
    graph = setup.gated.graph
    return sorted({n_edges_of(graph, size) for size in setup.config.verify.sizes} - {graph.n_edges})


def _measure(
    setup: Setup,
    batches: Sequence[Batch],
    masks: Bool[Tensor, "run edge"],
    elected: Mapping[str, Bool[Tensor, " edge"]],
) -> dict[str, Measured]:
    """Every run's circuit and the elected ones, verified exactly on the same unseen pairs."""
    metric, references = setup.task_metric, setup.references
    named = {f"run{i}": mask for i, mask in enumerate(masks)} | dict(elected)
    named["empty"] = setup.gated.graph.no_edges()
    with shown(setup.config.train.progress) as watch:
        progress = watch("verification", "runs")
        examples = evaluate_each(references, named, batches, metric, progress)
    full, empty = evaluate_full_each(references, batches, metric), examples.pop("empty")
    draws = Bootstrap.draw(len(full), N_BOOTSTRAP, torch.Generator().manual_seed(0))
    return {
        name: Measured(
            n_edges=int(named[name].sum()),
            **vars(found.means()),
            faithfulness=draws.faithfulness(found.metric, full.metric, empty.metric),
        )
        for name, found in examples.items()
    }
