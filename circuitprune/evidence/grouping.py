"""Groups of vectors by direction: k-means on the sphere, and how well groups are told apart."""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

RESTARTS = 10
"""Starts of k-means; the one with the tightest groups counts."""
ROUNDS = 100
"""Largest number of rounds of each; few are needed."""


def directions(vectors: Float64[Tensor, "n feature"]) -> Float64[Tensor, "n feature"]:
    """Each vector over its length; one of zeros stays."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length.clamp_min(torch.finfo(vectors.dtype).tiny)


def k_means(
    points: Float64[Tensor, "n feature"], k: int, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """The group of each of some directions; groups are numbered by their first member.

    Each goes to the centre with the largest cosine, a centre is the direction of its members' sum.
    Started from points drawn far apart (k-means++), the best of `RESTARTS` starts.
    """
    best, labels = -torch.inf, torch.zeros(len(points), dtype=torch.long)
    for _ in range(RESTARTS):
        centres = _far_apart(points, k, generator)
        found = (points @ centres.T).argmax(dim=1)
        for _ in range(ROUNDS):
            centres = centres_of(points, found, centres)
            moved = (points @ centres.T).argmax(dim=1)
            if torch.equal(moved, found):
                break
            found = moved
        tightness = (points @ centres.T).amax(dim=1).sum().item()
        if tightness > best + 1e-12:
            best, labels = tightness, found
    return _numbered(labels)


def centres_of(
    points: Float64[Tensor, "n feature"],
    labels: Int[Tensor, " n"],
    before: Float64[Tensor, "k feature"],
) -> Float64[Tensor, "k feature"]:
    """The direction of each group's sum; a group without members keeps what it had before."""
    sums = torch.zeros_like(before).index_add_(0, labels, points)
    empty = (labels.bincount(minlength=len(before)) == 0).unsqueeze(1)
    return directions(torch.where(empty, before, sums))


def silhouette(points: Float64[Tensor, "n feature"], labels: Int[Tensor, " n"]) -> float:
    """Mean over points of `(b - a) / max(a, b)`, in [-1, 1]; 0 for a point alone in its group.

    `a` is the mean distance, 1 minus the cosine, to the others of the own group, `b` the smallest
    mean distance to another group.

    Source: Rousseeuw 1987, "Silhouettes".
    """
    distance = (1 - points @ points.T).clamp_min(0)
    member = torch.nn.functional.one_hot(labels).to(distance)
    sizes, to_group = member.sum(dim=0), distance @ member
    own = member.bool()
    inside = (to_group * member).sum(dim=1) / (sizes[labels] - 1).clamp_min(1)
    outside = (to_group / sizes.clamp_min(1)).masked_fill(own | (sizes == 0), torch.inf).amin(dim=1)
    widest = torch.maximum(inside, outside).clamp_min(1e-300)
    found = torch.where(sizes[labels] > 1, (outside - inside) / widest, torch.zeros_like(inside))
    return found.mean().item()


def _far_apart(
    points: Float64[Tensor, "n feature"], k: int, generator: torch.Generator
) -> Float64[Tensor, "k feature"]:
    """K points, each drawn in proportion to its distance from those before it."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    for _ in range(k - 1):
        far = (1 - points @ points[chosen].T).clamp_min(0).amin(dim=1) + 1e-12
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
    return points[chosen]


def _numbered(labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The same groups, numbered from 0 in the order of their first members, none of them empty."""
    order = list(dict.fromkeys(labels.tolist()))
    return torch.tensor([order.index(label) for label in labels.tolist()])
