"""Circuits learned together beside those of the same tasks learned apart, at equal KL."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from circuitprune.circuits.sharing import from_apart
from circuitprune.runs.finished import Found
from circuitprune.runs.frontier import Frontier, Point, read_results
from circuitprune.runs.together import (
    AgainstApart,
    NotAgainstApart,
    TaskAgainstApart,
    TogetherFile,
    TogetherRow,
    read_together,
    tasks_in,
)


def against_apart(
    paths: Sequence[str | Path], found: Mapping[str, Found]
) -> tuple[AgainstApart | NotAgainstApart, ...]:
    """Each run over several tasks beside runs of its tasks that were given too.

    Of a task those of the same pairs, model, ablation and `gates.target` count: then each circuit
    is the fewest edges found with which the target is reached, and the KL is equal.

    Args:
        paths: As they were given.
        found: What they hold, by the paths of `tasks_in`.
    """
    joint = [path for path in map(Path, paths) if tasks_in(path)]
    inside = {str(one) for path in joint for one in tasks_in(path)}
    alone = [one for name, one in found.items() if name not in inside]
    return tuple(_against(path, read_together(path), alone, found) for path in joint)


def _against(
    folder: Path, about: TogetherFile, alone: Sequence[Found], found: Mapping[str, Found]
) -> AgainstApart | NotAgainstApart:
    """One run over several tasks beside circuits apart, or why not."""
    target = about.target
    if target is None:
        return NotAgainstApart(str(folder), "it has no gates.target, so nothing says at what KL")
    named = {task: _apart(found[str(folder / task)], alone, target) for task in about.tasks}
    lacking = [task for task, one in named.items() if one is None]
    if lacking:
        wanted = f"no run of {', '.join(lacking)} alone was given with gates.target={target}"
        return NotAgainstApart(str(folder), f"{wanted}, on the same pairs, model and ablation")
    runs = {task: one for task, one in named.items() if one is not None}
    points = {task: _reaching(one) for task, one in runs.items()}
    apart = from_apart(
        next(iter(runs.values())).graph, torch.stack([point.mask for point in points.values()])
    )
    row = about.rows[about.chosen]
    return AgainstApart(
        together=str(folder),
        target=target,
        n_edges=row.n_edges,
        n_shared=row.n_shared,
        n_edges_apart=sum(int(point.mask.sum()) for point in points.values()),
        n_counted_apart=apart.n_edges,
        n_union_apart=apart.union,
        tasks=tuple(_task(row, task, runs[task].name, point) for task, point in points.items()),
    )


def _apart(inside: Found, alone: Sequence[Found], target: str) -> Found | None:
    """The first run of a task alone that can stand beside the one inside a run of several."""
    about = (inside.fingerprint, inside.pairs_hash, inside.config and inside.config.ablation)
    for one in alone:
        settings = one.config
        if settings is None or (one.fingerprint, one.pairs_hash, settings.ablation) != about:
            continue
        if settings.gates.target == target and _frontier(one).provenance.get("target") == target:
            return one
    return None


def _frontier(found: Found) -> Frontier:
    return read_results(Path(found.name))[0]


def _reaching(found: Found) -> Point:
    """The circuit of a run that reaches its target with the fewest edges."""
    frontier = _frontier(found)
    n_edges = frontier.provenance["target_edges"]
    return next(point for point in frontier.points if int(point.mask.sum()) == n_edges)


def _task(row: TogetherRow, task: str, apart: str, point: Point) -> TaskAgainstApart:
    together = next(one for one in row.tasks if one.name == task)
    return TaskAgainstApart(
        name=task,
        apart=apart,
        n_edges_apart=int(point.mask.sum()),
        kl_apart=point.evidence.kl,
        n_edges=together.n_edges,
        n_private=together.n_private,
        kl=together.kl,
    )
