"""Files are read as users read them: without the checks of shapes, which would refuse for us."""

import jaxtyping
import pytest


@pytest.fixture(scope="module", autouse=True)
def unchecked_shapes():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
