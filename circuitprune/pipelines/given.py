"""What a study is given in place of settings: a model, pairs, circuits that are there already."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.attribution.levels import FeaturesConfig
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.selection import n_edges_of
from circuitprune.config import ModelConfig
from circuitprune.data.checks import fits, nearest, refuse, whole_number
from circuitprune.data.splits import Size
from circuitprune.data.tasks import TASKS, Pair, Task, get_task
from circuitprune.data.tasks.given import GivenPairs
from circuitprune.data.tasks.jsonl import SUFFIXES
from circuitprune.engine.progress import Watch
from circuitprune.errors import ConfigError, DataError, GraphError, ModelError
from circuitprune.files.text import counted
from circuitprune.models.held import Held, own_model
from circuitprune.models.loading import DTYPES
from circuitprune.pipelines.setup import Loaded, Setup, device_of, load

Settings = TypeVar("Settings")
Edges = Circuit | Bool[Tensor, " edge"] | Iterable[str]
"""A circuit, its mask, or the names of its edges."""


def model_config(
    model: str | Path | nn.Module, loaded: Loaded | None, dtype: str | None, kv_readers: str
) -> ModelConfig:
    """What a config says of the model: one that is there already has its name and its type.

    Raises:
        ModelError: it is there already, and of a type that is not to be found circuits in.
        ConfigError: a type or readers that there are not.
    """
    name = str(model)
    if loaded is not None:
        own = loaded[0]
        name, its = own.name_or_path or type(own).__name__, str(own.dtype).removeprefix("torch.")
        if its not in DTYPES or dtype not in (None, its):
            raise ModelError(
                f"{type(own).__name__} is in {its}, and is used as it is; expected "
                f"{dtype or ', '.join(DTYPES)}: convert it first, model.to(torch.float32)"
            )
        dtype = its
    return ModelConfig(name, dtype or "float32", kv_readers)  # type: ignore[arg-type]


def loaded_model(
    model: str | Path | nn.Module, tokenizer: PreTrainedTokenizerBase | None
) -> Loaded | None:
    """A model that is there already with its tokenizer; None if it is still to be loaded.

    Raises:
        ModelError: it comes without its tokenizer, cannot be used, or is no model.
    """
    if isinstance(model, str | Path):
        return None
    if not isinstance(model, nn.Module):
        raise ModelError(
            "a model is a name such as zoo/small, a folder, a hub id or a PreTrainedModel of "
            f"transformers, got {model!r:.60}"
        )
    own = own_model(model)
    if tokenizer is None:
        raise ModelError(
            f"a model that is loaded already ({type(own).__name__}) comes with its tokenizer: "
            "Study(model, task, tokenizer=tokenizer)"
        )
    return own, tokenizer


@contextmanager
def frozen_model(
    model: str | Loaded, dtype: str, device: str, watch: Watch
) -> Iterator[tuple[str, PreTrainedModel, PreTrainedTokenizerBase]]:
    """What a model is called, the model where it shall run, held frozen, and its tokenizer.

    Args:
        model: A name, a folder or a hub id; or a model with its tokenizer, which stays where it is
            and is given back as it was.
        dtype, device: As `model.dtype` and `train.device`, of a model that is loaded.
        watch: Told how far loading is.

    Raises:
        ModelError: it cannot be loaded, or is in no state to be run: see `Held`.
    """
    if isinstance(model, str):
        found, tokenizer = load(ModelConfig(model, dtype), watch)  # type: ignore[arg-type]
        found.to(device_of(device))  # type: ignore[arg-type]  # as in setup.py
    else:
        found, tokenizer = model
    held = Held(found)
    try:
        name = model if isinstance(model, str) else str(held.model.name_or_path)
        yield name, held.model, tokenizer
    finally:
        held.release()


def pairs_source(task: str | Path | Sequence[Pair] | Task) -> tuple[Task | None, str | None]:
    """Where pairs come from, and the file or the description that stands for it in a config.

    Nothing for a generated task: the config names it.
    """
    if isinstance(task, str) and task in TASKS:
        return None, None
    if isinstance(task, str | Path):
        return _from_text(task)
    if isinstance(task, Sequence):
        assert not isinstance(task, str)  # went above
        return GivenPairs(task), f"{counted(len(task), 'pair')} in memory"
    if not isinstance(task, Task):
        raise DataError(f"a task is a name, a file, a list of Pair or a Task, got {task!r:.60}")
    return task, None if task.name in TASKS else task.name


def _from_text(task: str | Path) -> tuple[Task | None, str | None]:
    if Path(task).is_file():
        return get_task("jsonl", task), str(task)
    if Path(task).suffix in SUFFIXES or isinstance(task, Path):
        raise DataError(f"no file of pairs {str(task)!r}")
    return get_task(task), None  # refuses what is neither


def task_name(task: object) -> str:
    """What a config calls a generated task."""
    return task.name if isinstance(task, Task) else str(task)


def pair_counts(
    source: Task | None, n_train: Size | None, n_test: Size | None
) -> tuple[Size, Size]:
    """How many pairs to draw: 64 and 64, or, of pairs that end, half and half of what fits.

    A pair alone is looked at, not parted.
    """
    default: Size = "auto" if isinstance(source, Sized) else 64
    if isinstance(source, Sized) and len(source) == 1 and n_test is None:
        n_test = 0
    return default if n_train is None else n_train, default if n_test is None else n_test


def edges_wanted(graph: Graph, n_edges: int | None, size: float | None) -> int:
    """How many edges a circuit is to have, by their number or as a fraction of all.

    Raises:
        ConfigError: not exactly one of the two, or not that many.
    """
    if (n_edges is None) == (size is None):
        raise ConfigError("say how large the circuit is: n_edges=50, or size=0.01 of all edges")
    if size is not None:
        if not fits(size, float) or not 0 < size <= 1:
            raise ConfigError(f"size is a fraction of all edges, in (0, 1], got {size!r:.80}")
        return n_edges_of(graph, size)
    return whole_number(n_edges, "n_edges", 1, graph.n_edges)


def mask_given(graph: Graph, circuit: Edges) -> Bool[Tensor, " edge"]:
    """The mask of a circuit that is given as `Edges`.

    Raises:
        GraphError: of another model, or no circuit at all.
    """
    if isinstance(circuit, Tensor):
        if circuit.dtype != torch.bool or circuit.shape != (graph.n_edges,):
            raise GraphError(
                f"a mask has {graph.n_edges:,} of torch.bool, one for each {graph.unit}, got "
                f"{circuit.dtype} of shape {tuple(circuit.shape)}"
            )
        return circuit
    if not isinstance(circuit, Circuit | Iterable):
        raise GraphError(f"a circuit is a Circuit, a mask or names of edges, got {circuit!r}")
    if not isinstance(circuit, Circuit):
        names = [circuit] if isinstance(circuit, str) else [*circuit]
        if strange := [name for name in names if not isinstance(name, str)]:
            what = f"{strange[0]!r:.80} in a list"
            raise GraphError(f"a circuit is a Circuit, a mask or names of edges, got {what}")
        return graph.mask_of(names)
    if not circuit.graph.same_edges(graph):
        raise GraphError(
            f"the circuit is of {circuit.graph.describe()}, this study of {graph.describe()}; "
            "evaluate it in a study of its own model"
        )
    return circuit.mask


def no_name(what: object) -> GraphError:
    """What to say of something that should be the name of a node, an edge or a path."""
    return GraphError(
        "an effect is of a node 'a3.h1', an edge 'm0->logits' or a path 'a1.h2->m3->logits', by "
        f"its name; got {what!r}"
    )


def of_level(level: str, spans: str, dictionaries: Sequence[str], errors: str) -> dict[str, Any]:
    """What a config says of what gates stand on: `level`, `spans` and `features`."""
    features = FeaturesConfig([*dictionaries], errors)  # type: ignore[arg-type]
    return {"level": level, "spans": spans, "features": features}


def refuse_unknown(kind: type, given: Mapping[str, object]) -> None:
    """Nothing, if all keywords are settings of a kind.

    Raises:
        ConfigError: names one that is not, and those that there are.
    """
    names = [setting.name for setting in fields(kind)]
    refuse([f"no setting {name!r}; {nearest(name, names)}" for name in given if name not in names])


def own_settings(kind: type[Settings], setup: Setup, given: Mapping[str, object]) -> Settings:
    """Settings of what a study is asked beside its task; seed and progress are the study's own.

    Raises:
        ConfigError: no such setting, or a value out of its range.
    """
    refuse_unknown(kind, given)
    train = setup.config.train
    return kind(**{"seed": train.seed, "progress": train.progress, **given})
