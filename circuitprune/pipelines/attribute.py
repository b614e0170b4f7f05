"""The pipeline without training: attribution scores the edges, circuits are cut and verified."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from circuitprune.attribution.methods import METHODS, has_signs
from circuitprune.circuits.selection import ranking_of
from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError, RunError
from circuitprune.files.text import counted, show
from circuitprune.files.whole import read_json
from circuitprune.pipelines.describe import check_text, cost_text, describe, memory_text, pairs_text
from circuitprune.pipelines.frontier import cut, finish
from circuitprune.pipelines.in_step import in_step
from circuitprune.pipelines.logs import log_final, log_texts, logging_to, make_logger
from circuitprune.pipelines.metric import metric_name
from circuitprune.pipelines.refining import help_refining, refined_frontier
from circuitprune.pipelines.scoring import Scoring, scoring_of
from circuitprune.pipelines.setup import Print, Setup, chosen_edges, reference_edges, silent
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.verified_top import verify_top
from circuitprune.runs.folder import claim, create, tidy, unfinished, write_command
from circuitprune.runs.frontier import Frontier, Provenance, write_results
from circuitprune.runs.lock import locked, unusable
from circuitprune.runs.settings import flatten, load_config, to_yaml, whole
from circuitprune.runs.shards import Ranks, differences, processes, threads
from circuitprune.views.pages.summary import summary
from circuitprune.views.tensorboard import board

FREE = ("output_dir", "train.progress", "model.shard")
"""Settings that an unfinished run may be continued with another value of."""


def attribute(config: RunConfig, say: Print = show, command: str = "") -> Frontier | None:
    """Score, cut, verify and write: the files of `discover` without the learned gates.

    A run that was cut short goes on when it is started again with the same config. Under torchrun
    the shards of `exact` and `acdc` are shared among the processes; the first of them alone prints
    and writes the results.

    Returns:
        None on a process that does not lead.

    Raises:
        CircuitPruneError: anything a user can mend; nothing finished is overwritten.
    """
    with in_step(config, say) as (config, say):
        ranks = processes()
        if not ranks.leads:
            say, config = silent, replace(config, train=replace(config.train, progress=False))
        with threads(_threads(config)), ranks.together():
            found = _attribute(config, ranks, say, command)
    return None if say is silent else found


def _attribute(config: RunConfig, ranks: Ranks, say: Print, command: str) -> Frontier | None:
    """`attribute` in one of the processes."""
    folder, setup = Path(config.output_dir), _prepare(config)
    ranks.wait()  # all have seen the folder as it was
    say(describe(setup))
    mine = locked(folder) if ranks.leads else nullcontext()
    with mine, logging_to(folder), setup.forecast_told():
        if ranks.leads:
            create(folder, to_yaml(config), setup.identity.versions)
            tidy(folder)
        scoring = scoring_of(setup, folder / "scores.safetensors", say, ranks)
        if scoring is None:
            help_refining(setup, ranks)
            return None
        return _finish(setup, scoring, say, command, ranks)


def dry_run_attribute(config: RunConfig) -> str:
    """Everything that can be said before: the model, the pairs, accuracy, memory and the cost."""
    setup = _prepare(whole(config), fill=False)
    about = [describe(setup), "", pairs_text(setup, 3), "", memory_text(setup)]
    return "\n".join([*about, check_text(), cost_text(setup)])


def _prepare(config: RunConfig, fill: bool = True) -> Setup:
    """Everything that can be refused, checked; nothing is written."""
    folder, method = Path(config.output_dir), config.attribution.method
    if method == "none":
        raise ConfigError(
            "attribution.method=none has no scores; choose a method, such as eap or gate_ig"
        )
    if config.verify.ranking == "signed" and not has_signs(method):
        raise ConfigError(f"{method} scores have no sign; use verify.ranking=absolute")
    goes_on = unfinished(folder)
    try:
        if goes_on:
            before = load_config(folder / "config.yaml")
            _same(folder, "config.yaml", _settings(before), _settings(config))
        else:
            claim(folder, None)
    except OSError as error:
        raise unusable(folder, error) from None
    setup = Study.from_config(config, fill).setup
    chosen_edges(setup)
    reference_edges(setup)
    if goes_on and (folder / "versions.json").exists():
        theirs, ours = read_json(folder / "versions.json"), setup.identity.versions
        _same(folder, "versions.json", theirs, ours)
    return setup


def _settings(config: RunConfig) -> dict[str, str | int | float | bool]:
    return {key: value for key, value in flatten(config).items() if key not in FREE}


def _same(folder: Path, name: str, theirs: object, ours: object) -> None:
    """Refuse to go on with what another config, model or version began."""
    assert isinstance(ours, dict)
    different = differences(theirs, ours) if isinstance(theirs, dict) else "a damaged one"
    if different:
        raise RunError(
            f"output_dir {str(folder)!r} holds an unfinished run with another {name}: {different}; "
            "go on with the same, or choose another output_dir"
        )


def _threads(config: RunConfig) -> int | None:
    """Fixed for what may be shared among processes; else as many as torch takes by itself."""
    method = METHODS.get(config.attribution.method)
    return config.attribution.threads if method is not None and method.sharded else None


def _finish(setup: Setup, scoring: Scoring, say: Print, command: str, ranks: Ranks) -> Frontier:
    """Verify, write and log; `COMPLETE` last."""
    config, folder, split = setup.config, Path(setup.config.output_dir), setup.held_out
    notes = list(notes_on(setup, scoring))
    if config.attribution.verify_top:
        notes.append(verify_top(setup, scoring))
    for note in notes:
        say(note)
    say(f"Verifying circuits exactly on {counted(len(setup.data.splits[split]), f'{split} pair')}")
    ranking = ranking_of(scoring.scores, config.verify.ranking)
    own = scoring.circuits  # of a method that finds circuits itself
    refined = refined_frontier(setup, own or cut(setup, ranking), ranking, say, ranks)
    found, ranking, notes = refined.frontier, refined.ranking, [*notes, *refined.notes]
    command = command or "circuitprune attribute config.yaml"
    frontier = replace(found, provenance=_provenance(setup, found))
    write_results(folder, frontier, scoring.scores, ranking, summary(frontier, command, notes))
    write_command(folder, command)
    logger = make_logger(folder)
    log_texts(logger, setup, trains=False)
    for steps, _, correlation in scoring.agreement:
        logger.experiment.add_scalar("attribution/spearman_m_2m", correlation, steps)
    reference = reference_edges(setup)
    if reference is not None:
        board.write_recovery(logger.experiment, ranking, reference, 0)
    log_final(logger, config, frontier, ranking)
    finish(setup, folder, frontier)
    return frontier


def _kept_by_layer(setup: Setup, threshold: float, mask: Bool[Tensor, " edge"]) -> str:
    """What ACDC kept in each layer, in the order of its search."""
    graph = setup.gated.graph
    layers = graph.reader_layer[graph.edge_reader[mask]]
    kept = layers.bincount(minlength=graph.n_layers + 1).flip(0).tolist()
    down = ", ".join(str(n) for n in kept[1:])
    return (
        f"ACDC at {threshold:g}: {counted(kept[0], 'live edge')} into the logits, then, from layer "
        f"{graph.n_layers - 1} down to 0, {down}."
    )


def notes_on(setup: Setup, scoring: Scoring) -> Sequence[str]:
    """Sentences on how the scores came about, for the screen and the summary."""
    settings, n_known = setup.config.attribution, int((~scoring.scores.isnan()).sum())
    metric, n_pairs = metric_name(setup), len(setup.data.splits["train"])
    explained = "" if metric == "none" else f" ({metric})"
    notes = [f"Scored by {settings.method}{explained} on {counted(n_pairs, 'training pair')}."]
    if n_known < len(scoring.scores):
        notes.append(
            f"{counted(n_known, 'edge')} of `attribution.edges` have scores; no circuit has others."
        )
    notes += [
        f"From {m} to {counted(double, 'step')} the magnitudes of the scores keep their order "
        f"with a Spearman correlation of {correlation:.4f}."
        for m, double, correlation in scoring.agreement
    ]
    notes += [_kept_by_layer(setup, size, mask) for size, mask in scoring.circuits.items()]
    return notes


def _provenance(setup: Setup, frontier: Frontier) -> Provenance:
    """Training's, with what was attributed in place of what was learned."""
    config = setup.config
    about: Provenance = {
        **frontier.provenance,
        "learner": None,
        "objective": None,
        "init_steps": setup.method.points(config.attribution.steps),
        "ranking": config.verify.ranking,
    }
    if config.attribution.method == "acdc":
        about["selection"] = "acdc"
    return about
