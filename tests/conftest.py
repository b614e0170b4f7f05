"""Tiny random models of every family, built from configs, and small batches of prompt pairs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import checked_once  # before the package is imported, whose tests it makes faster
import family_configs
import jaxtyping
import pytest
import torch
from family_configs import TOLERANCE, VOCAB, build, randomise
from reference import FAMILIES
from torch import Tensor
from transformers import PreTrainedModel

torch.set_num_threads(1)  # the models are too small for more threads to pay

CONFIGS = {name: family_configs.CONFIGS[name] for name in FAMILIES}
build_tiny_model = build
"""The families that every law of every folder is held to; `family_configs` has all of them."""
SAME_SHAPES = {"gpt_neox_sequential": "gpt2", "qwen2": "llama"}
"""Families whose tensors have the shapes of another one at every call."""

__all__ = ["CONFIGS", "TOLERANCE", "VOCAB", "build_tiny_model", "checked_once", "randomise"]


class Batch(NamedTuple):
    """Prompt pairs padded on the right; `mask` is True on real tokens, `last` the last of them."""

    clean: Tensor
    corrupt: Tensor
    mask: Tensor
    last: Tensor

    def real(self, values: Tensor) -> Tensor:
        """Rows of the real positions only, of a `[batch, pos, ...]` tensor."""
        return values[self.mask]


def random_batch(lengths: list[int], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, len(lengths), max(lengths))
    tokens = torch.randint(3, VOCAB, shape, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    clean, corrupt = tokens * mask
    return Batch(clean, corrupt, mask, torch.tensor(lengths) - 1)


def pytest_runtest_setup() -> None:
    checked_once.test.begin()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], PreTrainedModel]:
    """`tiny_model(family)`: float64, eval, no gradients, the same object for the whole session."""
    return build_tiny_model


@pytest.fixture
def model(family: str) -> PreTrainedModel:
    return build_tiny_model(family)


@pytest.fixture
def tolerance(family: str) -> dict[str, float]:
    """Keyword arguments of `torch.testing.assert_close` for logits of this family."""
    return dict(rtol=TOLERANCE[family], atol=TOLERANCE[family])


@pytest.fixture(scope="session")
def padded_batch() -> Batch:
    return random_batch([9, 9, 7, 6], seed=0)


@pytest.fixture(scope="session")
def unpadded_batch() -> Batch:
    return random_batch([9, 9, 9, 9], seed=1)


@pytest.fixture(params=["padded", "unpadded"])
def batch(request: pytest.FixtureRequest) -> Batch:
    return request.getfixturevalue(f"{request.param}_batch")


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """`real_model(name)`: a pretrained model's folder or GGUF file; the test skips without it.

    Such tests are marked `real`. `CIRCUITPRUNE_MODELS` names the folder that holds such models.
    """
    models = os.environ.get("CIRCUITPRUNE_MODELS")
    if models and not Path(models).is_dir():
        pytest.fail(f"CIRCUITPRUNE_MODELS names {models!r}, which is no folder")

    def model(name: str) -> Path:
        found = [Path(models) / name, Path(models) / f"{name}.gguf"] if models else []
        whole = [path for path in found if path.is_file() or (path / "config.json").is_file()]
        if not whole:
            pytest.skip(f"set CIRCUITPRUNE_MODELS to a folder that holds the model {name}")
        return whole[0]

    return model


@contextmanager
def shapes_unchecked() -> Iterator[None]:
    """Inside, for work that makes the same calls as others do, many times."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def untyped() -> Iterator[None]:
    """Shapes unchecked in laws that make the same calls as others do, many times."""
    with shapes_unchecked():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Of a family that has the shapes of another one, the law holds and shapes are the other's."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if params.get("family") in SAME_SHAPES:
        with shapes_unchecked():
            return (yield)
    return (yield)
