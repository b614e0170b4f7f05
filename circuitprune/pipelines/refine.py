"""The circuits of a finished run, refined by exact runs, as a run of its own."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError, RunError
from circuitprune.files.limits import read_bytes
from circuitprune.files.tensors import taken
from circuitprune.files.text import show
from circuitprune.files.whole import read_tensors, write_atomic
from circuitprune.pipelines.describe import describe
from circuitprune.pipelines.frontier import finish
from circuitprune.pipelines.refining import help_refining, refined_frontier
from circuitprune.pipelines.setup import Print, Setup, silent
from circuitprune.pipelines.subject import (
    Subject,
    check_finished,
    reopened,
)
from circuitprune.pipelines.verify_config import MOVABLE, run_config
from circuitprune.runs.folder import claim, create, tidy, write_command
from circuitprune.runs.frontier import Provenance, write_results
from circuitprune.runs.lock import locked, unusable
from circuitprune.runs.settings import flatten, load_config, to_yaml
from circuitprune.runs.shards import Ranks, differences, processes
from circuitprune.runs.together import refuse_several
from circuitprune.views.pages.summary import summary

COPIED = ("scores.safetensors", "gates.safetensors")
"""Of the run, where it has them: what its circuits were cut from."""
FREE = ("train.progress", *MOVABLE)
"""Settings in which an unfinished refinement may differ from the one that goes on with it."""


def refine_run(
    folder: str | Path,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    say: Print = show,
) -> Path | None:
    """Refine the circuits of a run on its training pairs; returns the folder of the refined run.

    That folder is one that `train` with `refine: true` would have left: `verify`, `report`,
    `compare` and `export` take it. The same command goes on with what was cut short, to the same
    bytes.

    Under torchrun each process runs some of the circuits that a search compares; the first of them
    alone prints and writes.

    Args:
        folder: The `output_dir` of a finished `train` or `attribute`.
        overrides: `key=value` of `refinement.`, or of the run's config where `MOVABLE` says so.
        output: Where to; by default the run's folder with `_refined` behind its name.
        say: Called with lines for the user.

    Returns:
        None on a process that does not lead.

    Raises:
        CircuitPruneError: anything a user can mend; nothing finished is overwritten.
    """
    folder = Path(folder)
    output = Path(output or folder.with_name(f"{folder.resolve().name}_refined"))
    refuse_several(folder)
    config, ranks = _config(folder, overrides, output), processes()
    if not ranks.leads:
        say, config = silent, replace(config, train=replace(config.train, progress=False))
    typed = ["circuitprune", "refine", str(folder), *overrides, "-o", str(output)]
    with ranks.together():
        _refine(folder, config, say, shlex.join(typed), ranks)
    return output if ranks.leads else None


def _refine(folder: Path, config: RunConfig, say: Print, command: str, ranks: Ranks) -> None:
    """`refine_run` in one of the processes."""
    output = Path(config.output_dir)
    check_finished(folder)
    try:
        _claim(output, config)
    except OSError as error:
        raise unusable(output, error) from None
    setup, found = reopened(folder, config)
    ranks.wait()  # all have seen the folder as it was
    say(describe(setup))
    if not ranks.leads:
        help_refining(setup, ranks)
        return
    with locked(output), setup.forecast_told():
        create(output, to_yaml(config), setup.identity.versions)
        tidy(output)
        for name in COPIED:
            if (folder / name).is_file():
                write_atomic(output / name, read_bytes(folder / name, "tensors"))
        _finish(setup, found, say, command, ranks)


def _finish(setup: Setup, found: Subject, say: Print, command: str, ranks: Ranks) -> None:
    """Refine, verify and write; `COMPLETE` last."""
    output = Path(setup.config.output_dir)
    masks = {point.size: point.mask for point in found.frontier.points}
    refined = refined_frontier(setup, masks, found.ranking, say, ranks)
    about = {k: v for k, v in found.frontier.provenance.items() if not k.startswith("n_edges")}
    about |= {"refined": True}  # `record` says how many edges there are, after all else
    frontier = replace(refined.frontier, provenance=cast(Provenance, about))
    scores, path = None, output / "scores.safetensors"
    if path.is_file():
        scores = taken(path, read_tensors(path)[0], "scores", (setup.gated.graph.n_edges,))
    page = summary(frontier, command, refined.notes)
    write_results(output, frontier, scores, refined.ranking, page)
    write_command(output, command)
    finish(setup, output, frontier)


def _config(folder: Path, overrides: Sequence[str], output: Path) -> RunConfig:
    """The run's config, with refinement and another place.

    Raises:
        ConfigError: no run there, or a setting that would make it another run.
    """
    for item in overrides:
        key = item.partition("=")[0]
        if not key.startswith("refinement.") and key not in FREE:
            raise ConfigError(
                f"{key} is a setting of the run that is refined and cannot change; those that "
                f"can: refinement.*, {', '.join(FREE)}"
            )
    config = run_config(folder, overrides)
    train = replace(config.train, resume=None)
    return replace(config, refine=True, output_dir=str(output), train=train)


def _claim(output: Path, config: RunConfig) -> None:
    """Refuse a folder that holds anything but the same work, unfinished."""
    if not (output / "config.yaml").is_file() or (output / "COMPLETE").exists():
        claim(output, None)
        return
    known = [
        {key: value for key, value in flatten(one).items() if key not in (*FREE, "output_dir")}
        for one in (load_config(output / "config.yaml"), config)
    ]
    if different := differences(*known):
        raise RunError(
            f"output_dir {str(output)!r} holds an unfinished run with other settings: {different}; "
            "go on with the same, or choose another output_dir"
        )
