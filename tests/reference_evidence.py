"""The statistics of the evidence, slow and obvious: loops over pairs, edges and resamples."""

import itertools
import math

MIB_SIZES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]


def area(values):
    """Trapezoids over MIB's sizes."""
    total = 0.0
    for i in range(9):
        width = MIB_SIZES[i + 1] - MIB_SIZES[i]
        total += width * (values[i] + values[i + 1]) / 2
    return total


def on_a_path(edges, group=1):
    """The edges, names like `a0.h1->m2`, on a path from `input` to `logits`, by following them.

    A reader of a KV head feeds each of the `group` heads that share it.
    """

    def nodes(reader):
        name = reader.split("<")[0]
        if ".kv" not in name:
            return {name}
        layer, kv = name.split(".kv")
        return {f"{layer}.h{int(kv) * group + i}" for i in range(group)}

    ends = {edge: (edge.split("->")[0], nodes(edge.split("->")[1])) for edge in edges}
    ahead, behind = {"input"}, {"logits"}
    for _ in range(len(edges) + 1):
        for writer, fed in ends.values():
            if writer in ahead:
                ahead = ahead | fed
            if fed & behind:
                behind = behind | {writer}
    return {e for e in edges if ends[e][0] in ahead and ends[e][1] & behind}


def holm(p_values):
    """Closed testing: an hypothesis falls when every group that holds it falls by Bonferroni."""
    n, adjusted = len(p_values), []
    for i in range(n):
        worst = 0.0
        for size in range(1, n + 1):
            for group in itertools.combinations(range(n), size):
                if i in group:
                    worst = max(worst, min(1.0, size * min(p_values[j] for j in group)))
        adjusted.append(worst)
    return adjusted


def hsic(x, y, width_x, width_y):
    """Biased HSIC with Gaussian kernels: the mean over quadruples, written as three sums."""
    n = len(x)

    def kernel(a, b, width):
        return math.exp(-((a - b) ** 2) / (2 * width**2))

    k = [[kernel(a, b, width_x) for b in x] for a in x]
    m = [[kernel(a, b, width_y) for b in y] for a in y]
    together = sum(k[i][j] * m[i][j] for i in range(n) for j in range(n)) / n**2
    apart = sum(map(sum, k)) / n**2 * sum(map(sum, m)) / n**2
    mixed = sum(sum(k[i]) * sum(m[i]) for i in range(n)) / n**3
    return together + apart - 2 * mixed


def median_distance(x):
    """The median of the distances between different entries."""
    distances = sorted(abs(a - b) for a, b in itertools.combinations(x, 2))
    middle = len(distances) // 2
    if len(distances) % 2:
        return distances[middle]
    return (distances[middle - 1] + distances[middle]) / 2
