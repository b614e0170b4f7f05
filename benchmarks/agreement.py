"""How well each method's ranking agrees with exact patching, on real models and tasks.

    python benchmarks/agreement.py [--pairs 64] [--config FILE ...] [--set key=value ...]

For each config the metric is the task's own, the ablation `patch`, and every method sees the same
training pairs in one batch size. Printed: Spearman's correlation of magnitudes and of signed scores
with those of exact patching, the overlap of the top 5 % by magnitude, and how many of exact's top
5 % have the same sign.
"""

import argparse

import torch

from circuitprune.attribution import METHODS
from circuitprune.circuits.agreement import sign_agreement, spearman, top_overlap
from circuitprune.pipelines.metric import attribution_metric
from circuitprune.pipelines.setup import make_setup, training_batches
from circuitprune.runs.settings import load_config

CONFIGS = ["ioi", "greater_than", "sva", "pronoun"]
STEPS = {"ugs": 5}


def main() -> None:
    """Print one table for each config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--config", nargs="*", default=[f"configs/{name}.yaml" for name in CONFIGS])
    parser.add_argument("--method", nargs="*", default=_compared())
    parser.add_argument("--set", nargs="*", default=[], help="settings, such as model.name=FOLDER")
    options = parser.parse_args()
    for path in options.config:
        table(path, options.pairs, options.method, options.set)


def _compared() -> list[str]:
    """Every method that scores all edges at once, but the one compared with."""
    return [name for name, method in METHODS.items() if method.function and name != "exact"]


def table(path: str, n_pairs: int, methods: list[str], overrides: list[str]) -> None:
    """One table: a row for each method."""
    chosen = [f"task.n_train={n_pairs}", "attribution.method=exact", "attribution.metric=auto"]
    setup = make_setup(load_config(path, [*chosen, "train.progress=false", *overrides]))
    batches, metric = training_batches(setup), attribution_metric(setup)
    exact = METHODS["exact"].score(setup.references, batches, metric).cpu()
    top = exact.abs() >= exact.abs().topk(round(0.05 * len(exact))).values[-1]
    print(f"\n### {path}: {setup.config.model.name}, {len(exact):,} edges, {n_pairs} pairs\n")
    print("| method | Spearman, magnitudes | Spearman, signed | top 5 % | sign, exact's top 5 % |")
    print("|---|---|---|---|---|", flush=True)
    for name in methods:
        torch.manual_seed(0)
        scores = METHODS[name].score(setup.references, batches, metric, STEPS.get(name, 5)).cpu()
        signed, same = "unsigned", "unsigned"
        if METHODS[name].signed:
            signed = f"{spearman(scores, exact):.2f}"
            same = f"{sign_agreement(scores[top], exact[top]):.0%}"
        magnitudes = spearman(scores.abs(), exact.abs())
        overlap = top_overlap(scores, exact, 0.05)
        print(f"| {name} | {magnitudes:.2f} | {signed} | {overlap:.0%} | {same} |", flush=True)


if __name__ == "__main__":
    main()
