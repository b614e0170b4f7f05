"""A direction of the residual stream along which two kinds of prompts differ."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.errors import DataError

METHODS = ("mean_difference", "pca", "random")


def direction(
    values: Float[Tensor, "example d_model"],
    positive: Bool[Tensor, " example"],
    method: str = "mean_difference",
    seed: int = 0,
) -> Float[Tensor, " d_model"]:
    """A unit vector along which positive examples lie further than negative ones.

    - `mean_difference`: from the mean of the negative to the mean of the positive examples.
    - `pca`: the first principal component of all examples, which sees no labels; they give its
      sign alone.
    - `random`: drawn from a sphere, for comparison.

    Args:
        values: Streams at one position.
        positive: Which kind each is.
        method: One of these.
        seed: Of `random`.

    Raises:
        DataError: another method, a kind without examples, or kinds with the same mean.

    Source: Tigges et al. 2023 (arXiv 2310.15154).
    """
    if method not in METHODS:
        raise DataError(f"a direction is one of {', '.join(METHODS)}, got {method!r}")
    if bool(positive.all()) or not bool(positive.any()):
        raise DataError("a direction parts two kinds of examples; there is one")
    exact = values.double()
    difference = exact[positive].mean(0) - exact[~positive].mean(0)
    found = difference
    if method == "pca":
        found = torch.linalg.svd(exact - exact.mean(0), full_matrices=False)[2][0]
    elif method == "random":
        generator = torch.Generator().manual_seed(seed)
        found = torch.randn(exact.shape[1], generator=generator, dtype=torch.float64)
        found = found.to(exact.device)
    length = found.norm()
    if not bool(length > 0):
        raise DataError("both kinds of examples have the same mean, so no direction parts them")
    sign = -1.0 if method == "pca" and bool(found @ difference < 0) else 1.0
    unit: Tensor = (sign * found / length).to(values.dtype)
    return unit
