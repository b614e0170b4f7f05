"""Circuits of several tasks or models: what they share, and what each does elsewhere."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.overlap import overlaps, parts
from circuitprune.circuits.selection import n_edges_of
from circuitprune.config import RunConfig
from circuitprune.data.batches import Batch
from circuitprune.engine.evaluation import evaluate_each, evaluate_full_each
from circuitprune.errors import RunError
from circuitprune.evidence.baselines import (
    FAMILIES,
    Baselines,
    Masks,
    among_random,
    draw_baselines,
    flat,
)
from circuitprune.evidence.bootstrap import Bootstrap, Interval
from circuitprune.files.records import JsonObject
from circuitprune.files.text import show
from circuitprune.files.whole import write_json
from circuitprune.models.dictionary import read_dictionaries
from circuitprune.pipelines.compare_together import against_apart
from circuitprune.pipelines.cross_model import cross_model, differs, same_task
from circuitprune.pipelines.gathering import keep, kept
from circuitprune.pipelines.pairs import make_pairs
from circuitprune.pipelines.setup import Print, Setup, load
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.unseen import Texts, check_source, texts_of, unseen_batches
from circuitprune.runs.finished import Found, load_found, same_graph
from circuitprune.runs.identity import fingerprint, installed
from circuitprune.runs.lock import locked, refuse_unusable
from circuitprune.runs.settings import flatten
from circuitprune.runs.studies import (
    Column,
    ComparedCircuit,
    Comparison,
    Specificity,
    Transfer,
    TransferCell,
    TransferSetting,
)
from circuitprune.runs.together import tasks_in
from circuitprune.views.progress import shown

N_BOOTSTRAP = 1000
"""Resamples of the pairs behind each interval."""


def compare(
    paths: Sequence[str | Path],
    transfer: bool = False,
    size: float | None = None,
    n_random: int = 20,
    folder: str | Path | None = None,
    say: Print = show,
) -> Comparison:
    """What circuits of one graph share at equal size and, if asked, how each does elsewhere.

    Without `transfer`, set algebra alone. With it, every circuit is verified exactly on the pairs
    of every run (*transfer matrix*), next to random circuits of equal size; where two runs are of
    one task and of two models, activations are also patched across the models.

    Args:
        paths: Two or more run folders (their chosen circuits) or circuit files; a run over several
            tasks stands for the runs of its tasks.
        transfer: All paths must then be run folders.
        size: Fraction of all edges to compare at; by default that of the smallest circuit.
        n_random: Random circuits of each of `FAMILIES`, for each circuit.
        folder: Where `compare.json` goes, and till then `columns/`; None writes nothing.
        say: Prints.

    Returns:
        What `compare.json` holds.

    Raises:
        GraphError: circuits of different graphs, or one that cannot be cut to the size.
        RunError: fewer than two paths, the same twice, an empty circuit without a size, a run that
            is not finished, a model or pairs that have changed since, or a folder with a
            `compare.json`, that cannot be used, or in which another process is at work.

    Source: circuits reused across tasks: Merullo et al. 2024, "Circuit Component Reuse Across Tasks
    in Transformer Language Models" (arXiv 2310.08744).
    """
    given, paths = paths, [str(run) for path in paths for run in tasks_in(path) or (path,)]
    _check(paths, folder, transfer)
    found = {str(path): load_found(path) for path in paths}
    graph = same_graph(found.values())
    n_edges = _n_edges(found, graph, size)
    masks = {name: one.cut(n_edges) for name, one in found.items()}
    core, private = parts(graph, masks)
    result = Comparison(
        schema=1,
        n_edges=n_edges,
        n_edges_total=graph.n_edges,
        circuits=tuple(_about(one, masks[one.name]) for one in found.values()),
        overlap=overlaps(graph, masks),
        core=core,
        private=private,
        against_apart=against_apart(given, found) or None,
    )
    with nullcontext() if folder is None else locked(Path(folder)):
        _check(paths, folder, transfer)  # again: another process may have been at work in it
        kept_in = None if folder is None else Path(folder) / "columns"
        if transfer:
            drawn = draw_baselines(graph, masks, n_random)
            found_there = _elsewhere(result, found, masks, drawn, kept_in, say)
            result = replace(found_there, n_random=n_random)
        if kept_in is not None:
            write_json(kept_in.parent / "compare.json", result, checked=True)
            shutil.rmtree(kept_in, ignore_errors=True)  # all that they hold is in it
    return result


def _check(paths: Sequence[str | Path], folder: str | Path | None, transfer: bool) -> None:
    if len(paths) < 2 or len({str(path) for path in paths}) < len(paths):
        raise RunError(
            f"compare takes two or more different run folders or circuit files, got "
            f"{', '.join(map(str, paths)) or 'none'}"
        )
    if folder is not None:
        refuse_unusable(Path(folder))
        if (Path(folder) / "compare.json").exists():
            raise RunError(f"{Path(folder) / 'compare.json'} exists; choose another --output-dir")
    file = next((path for path in paths if transfer and not Path(path).is_dir()), None)
    if file is not None:
        raise RunError(f"--transfer needs run folders, with their tasks; {file} is a file")


def _n_edges(found: Mapping[str, Found], graph: Graph, size: float | None) -> int:
    """Edges to compare at: a fraction of all, or as many as the smallest circuit has."""
    smallest = min(one.n_edges for one in found.values())
    n_edges = smallest if size is None else n_edges_of(graph, size)
    if not n_edges:
        empty = next(one.name for one in found.values() if not one.n_edges)
        raise RunError(f"{empty} keeps no edge, so nothing can be as large; give --size")
    return n_edges


def _about(found: Found, mask: Bool[Tensor, " edge"]) -> ComparedCircuit:
    about = ComparedCircuit(found.name, found.n_edges, int(mask.sum()))
    if found.config is None:
        return about
    return replace(
        about,
        task=found.config.task.name,
        task_seed=found.config.task.seed,
        model=found.config.model.name,
        model_fingerprint=found.fingerprint,
        ablation=found.config.ablation,
    )


# ---------------------------------------------------------------- the transfer matrix


def _elsewhere(
    result: Comparison,
    found: dict[str, Found],
    masks: Masks,
    random: Baselines,
    kept_in: Path | None,
    say: Print,
) -> Comparison:
    """The same with the transfer matrix, and with activations across models.

    A column that is done is kept there until all are, so that a killed comparison goes on.
    """
    configs = {name: _fresh(one) for name, one in found.items()}
    seen = _trained_on(found, configs)
    identity, columns = _identity(found, masks, random), []
    for number, name in enumerate(configs):
        path = None if kept_in is None else kept_in / f"{number}.json"
        column = None if path is None else kept(path, Column, identity)
        if column is not None:
            say(f"{name}: found in {path}")
        else:
            column = _column(name, found, configs, seen, masks, random, say)
            if path is not None:
                keep(path, column, identity)
        columns.append(column)
    cells = [cell for column in columns for cell in column.cells]
    return replace(
        result,
        transfer=Transfer(tuple(column.setting for column in columns), tuple(cells)),
        specificity=tuple(_specificity(name, configs, cells) for name in found),
        cross_model=tuple(one for column in columns for one in column.cross_model),
    )


def _identity(found: dict[str, Found], masks: Masks, random: Baselines) -> JsonObject:
    """All that decides what a comparison finds, as plain values."""
    digest = hashlib.sha256()
    for mask in {**masks, **flat(random)}.values():
        digest.update(mask.numpy().tobytes())
    about: JsonObject = {
        "circuits": digest.hexdigest()[:16],
        "runs": {name: [one.fingerprint, one.pairs_hash] for name, one in found.items()},
        "settings": {name: flatten(_fresh(one)) for name, one in found.items()},
        "versions": installed(),
    }
    return about


def _column(
    name: str,
    found: dict[str, Found],
    configs: dict[str, RunConfig],
    seen: Texts,
    masks: Masks,
    random: Baselines,
    say: Print,
) -> Column:
    """All circuits on the pairs of one run, and other models' activations in its model."""
    say(f"Every circuit on the pairs of {name}")
    setup = Study.from_config(configs[name]).setup
    batches = unseen_batches(setup, seen)
    setting, cross = _setting(name, setup, batches), []
    if not batches:
        return Column(setting, (), ())
    with setup.forecast_told():
        cells = _cells(name, setup, batches, masks, random)
    for donor, other in configs.items():
        if same_task(configs[name], other) and differs(found[name], found[donor]):
            say(f"Patching activations of {donor} into {name}")
            cross.append(cross_model(name, donor, setup, other, batches, masks, random))
    return Column(setting, tuple(cells), tuple(cross))


def _fresh(found: Found) -> RunConfig:
    """A run's config, to make its setup again: nothing is trained."""
    assert found.config is not None
    return replace(found.config, train=replace(found.config.train, resume=None))


def _trained_on(found: dict[str, Found], configs: dict[str, RunConfig]) -> Texts:
    """Pairs that any of the runs was trained on, after checking that they still are its pairs."""
    seen: Texts = set()
    for name, config in configs.items():
        with shown(config.train.progress) as watch:
            model, tokenizer = load(config.model, watch)
        data = make_pairs(config, model, tokenizer)
        ours = fingerprint(model, read_dictionaries(config.features.dictionaries))
        check_source(found[name], ours, data)
        seen |= texts_of(data.splits["train"])
    return seen


def _setting(name: str, setup: Setup, batches: Sequence[Batch]) -> TransferSetting:
    """One column: on what pairs the circuits were judged."""
    n_pairs, held_out = sum(map(len, batches)), setup.data.splits[setup.held_out]
    seen = len(held_out) - n_pairs
    return TransferSetting(name, setup.held_out, setup.metric_name, n_pairs, seen)


def _cells(
    name: str, setup: Setup, batches: Sequence[Batch], masks: Masks, random: Baselines
) -> list[TransferCell]:
    """Every circuit on one run's held-out pairs, in its model and under its ablation."""
    empty = setup.gated.graph.no_edges()
    everything = {**masks, **flat(random), "empty": empty}
    with shown(setup.config.train.progress) as watch:
        progress = watch("transfer", "runs")
        examples = evaluate_each(setup.references, everything, batches, setup.task_metric, progress)
    full = evaluate_full_each(setup.references, batches, setup.task_metric)
    draws = Bootstrap.draw(len(full), N_BOOTSTRAP, torch.Generator().manual_seed(0))
    spans = full.metric, examples["empty"].metric

    def share(of: str) -> Interval:
        return draws.faithfulness(examples[of].metric, *spans)

    return [
        TransferCell(
            circuit=circuit,
            on=name,
            **vars(examples[circuit].means()),
            faithfulness=share(circuit),
            random=among_random(share, circuit, random),
        )
        for circuit in masks
    ]


def _specificity(
    name: str, configs: dict[str, RunConfig], cells: Sequence[TransferCell]
) -> Specificity:
    """A circuit on its own task, on the tasks it was not found on, and random circuits there."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    row = [cell for cell in cells if cell.circuit == name]
    own = mean([cell.faithfulness.value for cell in row if cell.on == name])
    away = [cell for cell in row if not same_task(configs[name], configs[cell.on])]
    others = mean([cell.faithfulness.value for cell in away])
    return Specificity(
        circuit=name,
        own=own,
        others=others,
        random_on_others={
            family: mean([cell.random[family].mean for cell in away]) for family in FAMILIES
        },
        difference=None if own is None or others is None else own - others,
        n_other_tasks=len(away),
    )
