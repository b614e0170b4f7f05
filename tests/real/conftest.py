"""Pretrained models, each loaded once for a file of tests that are about real weights."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest

MODELS = ("smollm2-135m", "gemma-3-270m")


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """Of a folder in `CIRCUITPRUNE_MODELS`."""
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, real_model: Callable[[str], Path]) -> str:
    return str(real_model(name))


@pytest.fixture(scope="module", autouse=True)
def untyped() -> Iterator[None]:
    """Shapes unchecked: they are checked on the tiny models, and here it takes its time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
