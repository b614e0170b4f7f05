"""What a run over several tasks leaves behind: each task's own run, and what is of them all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.overlap import overlaps, parts
from circuitprune.circuits.sharing import Rows, Together, rankings
from circuitprune.config import RunConfig
from circuitprune.files.whole import write_atomic, write_json, write_tensors
from circuitprune.pipelines.frontier import finish, frontier_of, telling
from circuitprune.pipelines.learning import Start
from circuitprune.pipelines.setup import Print, Setup
from circuitprune.pipelines.together_cuts import cut_sizes, smallest_together
from circuitprune.runs.folder import write_command
from circuitprune.runs.frontier import Frontier, is_good, write_results
from circuitprune.runs.manifest import seal
from circuitprune.runs.studies import ComparedCircuit, Comparison
from circuitprune.runs.together import FILE, SHARED, TaskShare, TogetherFile, TogetherRow
from circuitprune.training.module import MaskTraining
from circuitprune.training.target import Target
from circuitprune.views.pages.summary import summary
from circuitprune.views.pages.together import together_page
from circuitprune.views.report import write_report

Found = dict[float, Together]
"""Circuits of all tasks by size."""
Setups = Mapping[str, Setup]
"""Of each task, by the name of its folder."""


def write_together(
    folder: Path,
    config: RunConfig,
    setups: Setups,
    initial: Sequence[Start],
    module: MaskTraining,
    rows: Rows,
    command: str,
    say: Print,
) -> TogetherFile:
    """Cut circuits of all tasks, verify each on its own pairs, and write everything.

    Args:
        folder: Of the run; each task's lies in it.
        initial: Scores that each task started from.
        module: Trained.
        rows: Its shared and private scores.
    """
    about = {
        "learner": config.gates.learner,
        "objective": config.objective,
        "graph": json.dumps(asdict(module.references.gated.graph), sort_keys=True),
    }
    write_tensors(
        folder / "gates.safetensors", dict(module.learner.state_dict()) | {"ranking": rows}, about
    )
    say("Cutting circuits of every task")
    found, target_size = cut_all(config, list(setups.values()), rows)
    frontiers = {}
    for (name, setup), scores, ranking in zip(setups.items(), initial, rankings(rows), strict=True):
        say(f"Verifying circuits of {name} exactly on its {setup.held_out} pairs")
        place = folder / name
        frontiers[name] = _verified(setup, found, list(setups).index(name), target_size)
        write_tensors(place / "gates.safetensors", {"ranking": ranking}, about)
        _write_task(setup, place, frontiers[name], scores, ranking, found, command)
    file = _record(config, setups, found, frontiers, target_size)
    _write_all(folder, setups, rows, found, file, command)
    return file


def cut_all(config: RunConfig, setups: Sequence[Setup], rows: Rows) -> tuple[Found, float | None]:
    """Circuits of each size and, if there is a target, the fewest edges that reach it, by size."""
    found, wanted = cut_sizes(setups, rows), config.gates.target
    if wanted is None:
        return found, None
    best = smallest_together(setups, rows, Target.read(wanted))
    size = best.n_edges / best.graph.n_edges
    return dict(sorted({**found, size: best}.items())), size


def _verified(setup: Setup, found: Found, task: int, target_size: float | None) -> Frontier:
    masks = {size: one.circuits[task] for size, one in found.items()}
    frontier = frontier_of(setup, masks)
    wanted = setup.config.gates.target
    if wanted is None or target_size is None:
        return frontier
    n_edges = int(masks[target_size].sum())
    return telling(frontier, {"target": wanted, "target_edges": n_edges})


def _write_task(
    setup: Setup,
    place: Path,
    frontier: Frontier,
    initial: Start,
    ranking: Float[Tensor, " edge"],
    found: Found,
    command: str,
) -> None:
    """An ordinary finished run; each circuit says which of its edges all tasks share."""
    told = initial if initial is None or initial.dim() == 1 else initial[0]
    note = (
        "Learned together with other tasks: `size` is that of the circuits of all of them, shared "
        "edges counted once, and its file is `../together.json`."
    )
    write_results(place, frontier, told, ranking, summary(frontier, command, [note]))
    for point in frontier.points:
        _say_shared(place / frontier.file_of(point), found[point.size].shared)
    write_command(place, command)
    finish(setup, place, frontier)


def _say_shared(path: Path, shared: Bool[Tensor, " edge"]) -> None:
    """Name, in a circuit's file, those of its edges that all tasks share."""
    circuit = Circuit.load(path)
    names = Circuit(circuit.graph, circuit.mask & shared).edges
    replace(circuit, provenance={**circuit.provenance, SHARED: names}).save(path)


# ---------------------------------------------------------------- what is of all tasks


def shared_file(size: float) -> str:
    """Where the shared edges of a size lie, from the run's folder."""
    return f"circuits/shared_{size:.6g}.json"


def _record(
    config: RunConfig,
    setups: Setups,
    found: Found,
    frontiers: Mapping[str, Frontier],
    target_size: float | None,
) -> TogetherFile:
    first = next(iter(setups.values()))
    rows = tuple(
        _row(size, one, frontiers, place) for place, (size, one) in enumerate(found.items())
    )
    chosen, choice = _chosen(list(found), frontiers, target_size)
    return TogetherFile(
        schema=1,
        model=config.model.name,
        ablation=config.ablation,
        n_edges_total=first.gated.graph.n_edges,
        shared_cost=config.gates.shared_cost,
        tasks=tuple(setups),
        chosen=chosen,
        choice=choice,
        rows=rows,
        target=config.gates.target,
        unit=first.gated.graph.unit,
    )


def _row(size: float, one: Together, frontiers: Mapping[str, Frontier], place: int) -> TogetherRow:
    tasks = []
    for (name, frontier), own in zip(frontiers.items(), one.own, strict=True):
        point = frontier.points[place]
        tasks.append(
            TaskShare(
                name=name,
                n_edges=int(point.mask.sum()),
                n_private=int(own.sum()),
                file=f"{name}/{frontier.file_of(point)}",
                kl=point.evidence.kl,
                accuracy=point.evidence.accuracy,
                faithfulness=point.evidence.faithfulness,
                val_kl=None if point.validation is None else point.validation.kl,
            )
        )
    n_shared = int(one.core.sum())
    return TogetherRow(size, one.n_edges, n_shared, one.union, shared_file(size), tuple(tasks))


def _chosen(
    sizes: Sequence[float], frontiers: Mapping[str, Frontier], target_size: float | None
) -> tuple[int, str]:
    """Which size is looked at first, and why."""
    if target_size is not None:
        return sizes.index(target_size), "the fewest found with which every task reaches it"
    points = list(zip(*(frontier.points for frontier in frontiers.values()), strict=True))
    for place, of_tasks in enumerate(points):
        if all(is_good(point.judged, 0.1) for point in of_tasks):
            return place, "the smallest size at which every task's circuit is good"
    mean = [sum(point.judged.kl for point in of_tasks) for of_tasks in points]
    return mean.index(min(mean)), "the size of least KL over tasks; at none is every circuit good"


class _Chosen(NamedTuple):
    size: float
    together: Together


def _write_all(
    folder: Path, setups: Setups, rows: Rows, found: Found, file: TogetherFile, command: str
) -> None:
    """What the folder of the run holds beside the tasks'."""
    graph = next(iter(setups.values())).gated.graph
    (folder / "circuits").mkdir(exist_ok=True)
    for size, one in found.items():
        about = {
            "model": file.model,
            "tasks": list(setups),
            "ablation": file.ablation,
            "size": size,
        }
        Circuit(graph, one.core, None, about, rows[0]).save(folder / shared_file(size))
    chosen = _Chosen(*list(found.items())[file.chosen])
    columns = {"shared_score": rows[0], "shared": chosen.together.core}
    for name, scores, own in zip(setups, rows[1:], chosen.together.own, strict=True):
        columns |= {f"{name}_score": scores, f"{name}_private": own}
    write_edges_csv(folder / "edges.csv", graph, columns)
    write_json(folder / FILE, file)
    write_atomic(folder / "summary.md", together_page(file, command))
    write_json(folder / "compare.json", _comparison(setups, chosen.together), checked=True)
    write_command(folder, command)
    parts = [*(folder / name for name in setups), folder / "compare.json"]
    write_report(parts, folder / "report.html")
    seal(folder)


def _comparison(setups: Setups, chosen: Together) -> Comparison:
    """The chosen circuits as `compare` tells of circuits, each of its own size."""
    masks = dict(zip(setups, chosen.circuits, strict=True))
    core, private = parts(chosen.graph, masks)
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    return Comparison(
        schema=1,
        n_edges=max(sizes.values()),
        n_edges_total=chosen.graph.n_edges,
        circuits=tuple(
            ComparedCircuit(
                name=name,
                n_edges_found=sizes[name],
                n_edges=sizes[name],
                task=setup.config.task.name,
                task_seed=setup.config.task.seed,
                model=setup.config.model.name,
                model_fingerprint=setup.identity.model,
                ablation=setup.config.ablation,
            )
            for name, setup in setups.items()
        ),
        overlap=overlaps(chosen.graph, masks),
        core=core,
        private=private,
    )
