"""Whole runs, which take thousands of calls: without the checks of shapes, that cost half of it."""

import jaxtyping
import pytest

CHECKED = ("test_study",)
"""Modules that keep the checks, so that what pipelines annotate is held by a test too."""


@pytest.fixture(scope="module", autouse=True)
def unchecked_shapes(request):
    before = jaxtyping.config.jaxtyping_disable
    name = request.module.__name__.rpartition(".")[2]
    jaxtyping.config.update("jaxtyping_disable", name not in CHECKED)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
