"""Functions of the user's own in the place of a method or a metric: found, checked, hashed."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TypeGuard

import torch
from torch import Tensor

from circuitprune.attribution.methods import METHODS, Method
from circuitprune.config import RunConfig
from circuitprune.data.batches import Batch
from circuitprune.data.own import blamed, check_function, is_own, user_hash, user_object
from circuitprune.data.tasks import get_task
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, MetricError
from circuitprune.files.text import counted
from circuitprune.metrics import TASK_METRICS, Metric


def method_of(name: str) -> Method:
    """The record of a method by its name, or by `FILE.py:NAME`.

    Raises:
        ConfigError: no such method, or no function that could be one.
    """
    if is_own(name):
        return own_method(user_object(name), name)
    if name not in METHODS:
        raise ConfigError(f"no attribution method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def metric_of(name: str) -> Metric:
    """The task metric of that name, or of `FILE.py:NAME`.

    Raises:
        ConfigError: what the file holds is no function of `(logits, batch)`.
    """
    return own_metric(user_object(name), name) if is_own(name) else TASK_METRICS[name]


def own_method(found: object, name: str) -> Method:
    """The record of a user's function `(references, batches, metric, steps) -> score per edge`.

    Its scores are taken as signed, negative where an edge helps, and as of the task metric.

    Raises:
        ConfigError: no such function; when it is called, also one that fails or gives no such
            scores.
    """
    function = check_function(found, name, ("references", "batches", "metric", "steps"))

    def score(
        references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
    ) -> Tensor:
        with blamed(name):
            scores = function(references, batches, metric, steps)
        n = references.gated.graph.n_edges
        if not (_is_floats(scores, n) and bool(torch.isfinite(scores).all())):
            raise ConfigError(
                f"{name} must give a finite number for each of {counted(n, 'edge')}, a tensor of "
                f"shape ({n},); it gave {_described(scores)}"
            )
        return scores

    return Method(function=score, parts=score, cost=None, by_kv_head="sum", steps=True, whole=True)


def own_metric(found: object, name: str) -> Metric:
    """A user's function `(logits, batch) -> number per example`, each of its values checked.

    Raises:
        ConfigError: no such function; when it is called, also one that fails.
        MetricError: when it is called: no such numbers, or none with a gradient where one is asked.
    """
    function = check_function(found, name, ("logits", "batch"))

    @wraps(function)
    def metric(logits: Tensor, batch: Batch) -> Tensor:
        with blamed(name):
            values = function(logits, batch)
        if not _is_floats(values, len(logits)):
            raise MetricError(
                f"{name} must give one number per example, here a tensor of shape "
                f"({len(logits)},); it gave {_described(values)}"
            )
        if torch.is_grad_enabled() and logits.requires_grad and not values.requires_grad:
            raise MetricError(
                f"{name} has no gradient, which this method needs: let it depend on the logits "
                "smoothly, or take a method that runs forward only, such as exact"
            )
        return values

    return metric


def named_metric(metric: str | Metric) -> tuple[str, Metric] | None:
    """A metric at hand with its name; None for one that a config can name.

    Raises:
        ConfigError: as `own_metric`.
    """
    return (name_of(metric), own_metric(metric, name_of(metric))) if callable(metric) else None


def check_own(config: RunConfig) -> None:
    """Refuse what the user's own files do not hold, before anything large is loaded.

    Raises:
        ConfigError: as `method_of`, `metric_of` and `get_task`.
    """
    if is_own(config.task.name):
        get_task(config.task.name)
    if is_own(config.task.metric):
        metric_of(config.task.metric)
    if is_own(config.attribution.method):
        method_of(config.attribution.method)


def own_hashes(config: RunConfig) -> dict[str, str]:
    """SHA-256 of each file of the user's own that a config names; nothing of what is ours."""
    named = {
        "task_sha256": config.task.name,
        "metric_sha256": config.task.metric,
        "init_sha256": config.attribution.method,
    }
    return {key: user_hash(name) for key, name in named.items() if is_own(name)}


def name_of(function: Callable[..., object]) -> str:
    """What a function is called."""
    return getattr(function, "__name__", type(function).__name__)


def _is_floats(values: object, n: int) -> TypeGuard[Tensor]:
    return isinstance(values, Tensor) and values.shape == (n,) and values.is_floating_point()


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        return f"NaN or infinite values of shape {tuple(value.shape)}"
    return f"{value.dtype} of shape {tuple(value.shape)}"
