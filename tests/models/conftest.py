"""What tests of models share."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def untyped() -> Iterator[None]:
    """Shapes unchecked in laws that make the same calls as others do, many times."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
