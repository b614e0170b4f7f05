"""Run folders for reports, written without a model, and text that a report must not fall for."""

import torch

from circuitprune.circuits.graph import Graph
from circuitprune.files.whole import write_json, write_tensors
from circuitprune.metrics import Evidence
from circuitprune.runs.folder import write_command
from circuitprune.runs.frontier import Frontier, Point, Provenance, write_results

SMALL = Graph(4, 8, 8, d_model=64)
"""The sizes of zoo/small."""
GROUPED = Graph(2, 4, 2, d_model=32)
SIZES = (7, 40, 300, 1000)
ABOUT: Provenance = {
    "model": "zoo/small",
    "task": "ioi",
    "ablation": "patch",
    "metric": "logit_diff",
    "split": "test",
    "learner": None,
    "init": "eap",
}
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "\u202etxet\u202c",
    "nul \x00 \x1b[2J",
    "\u2028\u2029&lt;",
    "\ud800 alone",
    "${policy} $$ {{data}}",
)


def measured(kl: float) -> Evidence:
    names = ("metric", "accuracy", "exact_match", "faithfulness")
    return Evidence(kl=kl, n=64, **dict.fromkeys(names, 1 - kl))


def make_run(folder, graph=SMALL, task="ioi", seed=0, sizes=SIZES):
    """A run folder without a model: random scores, circuits of the best of them."""
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(seed))
    ranking, points = scores.abs(), []
    for n in [n for n in sizes if n <= graph.n_edges]:
        mask = torch.zeros(graph.n_edges, dtype=torch.bool)
        mask[ranking.argsort(descending=True)[:n]] = True
        points.append(Point(n / graph.n_edges, mask, measured(2 / n)))
    write_results(
        folder,
        Frontier(graph, {**ABOUT, "task": task}, measured(0.0), measured(0.9), points),
        scores,
        ranking,
        "python scripts/attribute.py configs/ioi.yaml",
    )
    write_tensors(folder / "scores.safetensors", {"scores": scores})
    write_command(folder, "python scripts/attribute.py configs/ioi.yaml")
    write_json(folder / "versions.json", {"torch": "2"})
    (folder / "config.yaml").write_text("model:\n  name: zoo/small\n")
    return folder
