"""The command `mib`: runs as a submission to the MIB benchmark, and what its board would show."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.selection import select
from circuitprune.config import RunConfig, TaskConfig
from circuitprune.errors import MetricError, RunError
from circuitprune.evidence.ability import ability
from circuitprune.evidence.mib import SIZES
from circuitprune.evidence.mib_areas import Areas, mib_areas
from circuitprune.files.atomic import write_atomic
from circuitprune.files.text import show
from circuitprune.files.whole import write_json
from circuitprune.pipelines.setup import Print, Setup
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.subject import check_graph, check_model, check_pairs
from circuitprune.runs.finished import run_circuit
from circuitprune.runs.folder import read_config
from circuitprune.runs.frontier import read_results
from circuitprune.runs.lock import locked
from circuitprune.runs.submission import Cell, Submission
from circuitprune.training.gates import places
from circuitprune.views.pages.mib import mib_page
from circuitprune.views.progress import shown

TASKS = {
    "ioi": "ioi",
    "mib_ioi": "ioi",
    "mib_mcqa": "mcqa",
    "mib_addition": "arithmetic-addition",
    "mib_subtraction": "arithmetic-subtraction",
}
"""MIB's name of a task of ours."""
MODELS = {
    "gpt2": "gpt2",
    "gpt2-small": "gpt2",
    "qwen2.5-0.5b": "qwen2.5",
    "gemma-2-2b": "gemma2",
    "llama-3.1-8b": "llama3",
    "meta-llama-3.1-8b": "llama3",
}
"""MIB's name of a model, by the last part of ours."""
BOARD = {
    "ioi": ("gpt2", "qwen2.5", "gemma2", "llama3"),
    "mcqa": ("qwen2.5", "gemma2", "llama3"),
    "arithmetic-addition": ("llama3",),
    "arithmetic-subtraction": ("llama3",),
    "arc-easy": ("gemma2", "llama3"),
    "arc-challenge": ("llama3",),
}
"""The cells that MIB's board has."""


def submit(
    runs: Sequence[str],
    output: str | Path,
    circuits: bool = False,
    table: bool = True,
    say: Print = show,
) -> Submission:
    """Writes `submission/TASK_MODEL/` for each run, `mib.json` and `mib.md`; returns the table.

    Args:
        runs: Folders of finished runs, each `FOLDER` or `FOLDER=TASK_MODEL`.
        output: Folder to write to.
        circuits: Write nine circuits a cell instead of importances.
        table: Whether CPR and CMD are computed, on each run's held-out pairs.
        say: Called with lines for the user.

    Raises:
        RunError: a run that is not finished, one whose cell nobody names, two of one cell, or a
            folder that cannot be used, or that another process is at work in.
        GraphError, ModelError, DataError: its model or pairs are not there any more.
    """
    output, named = Path(output), [_named(run) for run in runs]
    names = [name for _, name in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise RunError(f"two runs are of cell {twice}; give each its own as FOLDER=TASK_MODEL")
    with locked(output):
        cells = []
        for folder, name in named:
            circuit = _by_query_head(folder)
            files = write_cell(circuit, output / "submission" / name, circuits)
            cell = _cell(folder, name, circuit, files)
            if table:
                say(f"{name}: circuits of ten sizes on held-out pairs")
                cell = _measured(folder, cell, circuit)
            cells.append(cell)
        found = Submission(tuple(cells))
        write_json(output / "mib.json", found)
        write_atomic(output / "mib.md", mib_page(found) + "\n")
    return found


def importance_of(circuit: Circuit) -> Float[Tensor, " edge"]:
    """What a file of importances says of every edge: positive where it helps, larger is first.

    Minus a signed score, which is negative where an edge helps. A ranking without a sign becomes
    `1 - place / n_edges`, which orders edges alike by value and by magnitude.
    """
    if circuit.scores is not None:
        return -circuit.scores.double().nan_to_num(0)
    assert circuit.ranking is not None  # every run has one
    order = places(circuit.ranking.double().nan_to_num(float("-inf")))
    return 1 - order.double() / len(order)


def write_cell(circuit: Circuit, folder: Path, circuits: bool) -> tuple[str, ...]:
    """`importances.json`, or nine circuits of at most 0.1, 0.2, ..., 50 % of all edges.

    Args:
        circuit: By query head, as MIB counts, with the importance of every edge as its scores.
        folder: Of the cell.
        circuits: Which of the two.
    """
    graph, importance = circuit.graph, circuit.scores
    assert importance is not None
    if not circuits:
        circuit.save(folder / "importances.json", format="mib")
        return ("importances.json",)
    names = []
    for size in SIZES[:-1]:
        mask = select(graph, importance, int(size * graph.n_edges), "top_n_raw")
        name = f"{size:g}.json"
        Circuit(graph, mask).save(folder / name, format="mib")
        names.append(name)
    return tuple(names)


def _named(run: str) -> tuple[Path, str]:
    """The folder of a run and the cell that it is of."""
    folder, _, name = (
        run.rpartition("=") if "=" in run and not Path(run).exists() else (run, "", "")
    )
    if name and ("/" in name or "_" not in name):
        raise RunError(f"a cell is called TASK_MODEL, such as mcqa_qwen2.5, got {name!r:.80}")
    return Path(folder), name or _cell_name(Path(folder), read_config(Path(folder)))


def _cell_name(folder: Path, config: RunConfig) -> str:
    model = Path(config.model.name).name
    if config.task.name not in TASKS:
        known = ", ".join(TASKS)
        raise RunError(
            f"{folder} is of task {config.task.name!r}, and MIB's are {', '.join(BOARD)}; say "
            f"which it is as {folder}=TASK_MODEL, such as {folder}=arc-easy_gemma2 (known by "
            f"themselves: {known})"
        )
    return f"{TASKS[config.task.name]}_{MODELS.get(model.lower(), model)}"


def _by_query_head(folder: Path) -> Circuit:
    """The chosen circuit of a run, by query head, with the importance of every edge as its scores.

    It says nothing else of where it comes from: a submission is read by others.
    """
    found = run_circuit(folder)
    whole, ungroup = found.graph.ungrouped(), found.graph.ungroup
    source = "order" if found.scores is None else "scores"
    return Circuit(
        whole, ungroup(found.mask), ungroup(importance_of(found)), {"importance": source}
    )


def _cell(folder: Path, name: str, circuit: Circuit, files: tuple[str, ...]) -> Cell:
    task, _, model = name.partition("_")
    return Cell(
        str(folder),
        name,
        model in BOARD.get(task, ()),
        str(circuit.provenance["importance"]),
        files,
    )


def _measured(folder: Path, cell: Cell, circuit: Circuit) -> Cell:
    """The cell with its areas, on the run's own held-out pairs, with the model by query head."""
    config = read_config(folder)
    config = replace(
        config,
        model=replace(config.model, kv_readers="query_head"),
        task=replace(config.task, metric="logit_diff", min_accuracy=0.0),
        train=replace(config.train, resume=None),
    )
    setup = Study.from_config(config, fill=False).setup
    check_model(folder, setup)
    check_pairs(read_results(folder)[0].provenance, setup)
    check_graph(folder, circuit.graph, setup.gated.graph)
    able = ability(setup.references, setup.tokenizer, setup.data, setup.full)
    enough = able.accuracy >= TaskConfig().min_accuracy
    assert circuit.scores is not None
    areas = _areas(setup, circuit.scores)
    return replace(cell, ability=able, able=enough, areas=areas, ablation=config.ablation)


def _areas(setup: Setup, importance: Float[Tensor, " edge"]) -> Areas | None:
    batches = setup.data.batches(setup.held_out, setup.config.verify.batch_size)
    with shown(setup.config.train.progress) as watch:
        try:
            return mib_areas(setup.references, importance, batches, watch("mib", "runs"))
        except MetricError:
            return None
