"""Run folders for reports, written without a model, and text that a report must not fall for."""

import torch

from circuitprune.circuit import Circuit
from circuitprune.files import write_json, write_tensors
from circuitprune.graph import Graph
from circuitprune.results import Frontier, Point, write_results

SMALL = Graph(4, 8, 8, d_model=64)
"""The sizes of zoo/small."""
GROUPED = Graph(2, 4, 2, d_model=32)
SIZES = (7, 40, 300, 1000)
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


def measured(kl: float) -> dict:
    names = ("metric", "accuracy", "exact_match", "faithfulness")
    return {"kl": kl, "n": 64, **dict.fromkeys(names, 1 - kl)}


def make_run(folder, graph=SMALL, task="ioi", seed=0, sizes=SIZES):
    """A run folder without a model: random scores, circuits of the best of them."""
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(seed))
    ranking, points = scores.abs(), []
    for n in [n for n in sizes if n <= graph.n_edges]:
        mask = torch.zeros(graph.n_edges, dtype=torch.bool)
        mask[ranking.argsort(descending=True)[:n]] = True
        points.append(Point(n / graph.n_edges, mask, measured(2 / n)))
    about = {"model": "zoo/small", "task": task, "ablation": "patch", "metric": "logit_diff"}
    about |= {"split": "test", "init": "eap", "learner": None}
    write_results(
        folder,
        Frontier(graph, about, measured(0.0), measured(0.9), points),
        scores,
        ranking,
        "python scripts/attribute.py configs/ioi.yaml",
    )
    write_tensors(folder / "scores.safetensors", {"scores": scores})
    write_json(folder / "versions.json", {"torch": "2"})
    (folder / "config.yaml").write_text("model:\n  name: zoo/small\n")
    return folder


def judge(folder):
    """Adds evidence of the shape that `verify` writes, and pairs, to a run of `make_run`."""
    graph = Circuit.load(folder / "circuits/7.json").graph
    files = [Circuit.load(folder / f"circuits/{n}.json") for n in SIZES if n <= graph.n_edges]
    circuit = files[1]
    sizes = [
        {"size": f.n_edges / graph.n_edges, "n_edges": f.n_edges, **around(2 / f.n_edges)}
        for f in files
    ]
    facts = {"file": f"circuits/{circuit.n_edges}.json", "n_edges": circuit.n_edges}
    sections = {
        "faithfulness": {"verdict": "pass", "n_pairs": 64, "sizes": sizes},
        "minimality": minimality(circuit),
        "completeness": completeness(circuit),
        "mib": {"n_pairs": 64, "cpr": interval(0.9), "cmd": interval(0.1)},
    }
    for name, section in sections.items():
        section["sentence"] = f"What {name} found."
    pair = {"clean": ["When", " Ann", " met"], "corrupt": ["When", " Bob", " met"]}
    pair |= {"answers": [" Ann"], "wrong": [" Bob"]}
    write_json(folder / "pairs.json", {"split": "test", "n": 64, "pairs": [pair]})
    evidence = {"schema": 1, "circuit": facts, "n_pairs": 64, "sections": sections}
    write_json(folder / "verification.json", evidence)
    return folder


def interval(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half}


def around(kl):
    return {name: interval(value) for name, value in measured(kl).items() if name != "n"}


def minimality(circuit):
    """A rise of the KL for every edge: some needed, some not, one of them a fall."""
    rises = [0.5 / (i + 1) - 0.02 for i in range(circuit.n_edges)]
    rows = [
        {"edge": name, "kl": interval(rise), "metric": interval(-rise)}
        for name, rise in zip(circuit.edges, rises, strict=True)
    ]
    return {"verdict": "fail", "n_pairs": 64, "tolerance": 0.01, "edges": rows}


def completeness(circuit):
    """Points of every family of knock-outs, on and off the diagonal."""
    families = ["none", "class", "class", *["random"] * 6, "greedy"]
    points = []
    for i, family in enumerate(families):
        point = {"family": family, "name": f"{family} {i}", "nodes": list(circuit.nodes[1 : i + 1])}
        point |= {"circuit": 3.0 - i * 0.3, "model": 3.0 - i * 0.25, "gap": interval(-0.05 * i)}
        points.append(point | {"relative_gap": -0.02 * i, "telling": i % 2 == 0, "kl": 0.01 * i})
    summary = {"class": {"n": 2, "n_within": 1, "worst_nodes": ["m0"]}}
    return {"verdict": "undecided", "n_pairs": 64, "points": points, "summary": summary}
