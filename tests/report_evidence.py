"""Evidence, predictions and studies of the shape that `verify`, `stability` and `compare` write."""

from report_runs import SIZES, measured

from circuitprune.circuits.circuit import Circuit
from circuitprune.files import write_json

TOKENS = ("When", " Ann", " met", " Bob")
FAMILIES = ("none", "class", "class", *["random"] * 6, "greedy")
"""Of the knock-outs of the completeness section, in order."""


def judge(folder, tokens=TOKENS):
    """Adds `verification.json` and `pairs.json` of these tokens to a run of `make_run`."""
    graph = Circuit.load(folder / "circuits/7.json").graph
    sizes = [n for n in SIZES if n <= graph.n_edges]
    circuit = Circuit.load(folder / f"circuits/{sizes[1]}.json")
    facts = {"file": f"circuits/{circuit.n_edges}.json", "n_edges": circuit.n_edges}
    sections = {
        "faithfulness": faithfulness(graph, sizes, circuit),
        "mib": mib(),
        "function": function(circuit, list(tokens)),
        "minimality": minimality(circuit),
        "completeness": completeness(circuit),
        "random_circuits": random_circuits(),
    }
    for name, section in sections.items():
        section |= {"sentence": f"What {name} found.", "n_pairs": 64}
    evidence = {"schema": 1, "circuit": facts, "n_pairs": 64, "sections": sections}
    write_json(folder / "verification.json", evidence)
    write_json(folder / "pairs.json", pairs(circuit, list(tokens)))
    return folder


def interval(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half}


def around(kl):
    names = {**measured(kl).to_json(), "mean_of_ratios": 1 - kl}
    return {name: interval(value) for name, value in names.items() if name != "n"}


# ---------------------------------------------------------------- sections


def faithfulness(graph, sizes, circuit):
    rows = [{"size": n / graph.n_edges, "n_edges": n, **around(2 / n)} for n in sizes]
    own = {"n_edges": circuit.n_edges, **around(2 / circuit.n_edges)}
    return {"verdict": "pass", "circuit": own, "sizes": rows}


def mib():
    points = [{"size": s, "n_edges": 9, "faithfulness": interval(s)} for s in (0.1, 0.5, 1.0)]
    curve = {"cpr": interval(0.9), "cmd": interval(0.1), "points": points}
    return {"cpr": interval(0.9), "cmd": interval(0.1), "curves": {"edges_absolute": curve}}


def minimality(circuit):
    """A rise of the KL for every edge: some needed, some not, one of them a fall."""
    rises = [0.5 / (i + 1) - 0.02 for i in range(circuit.n_edges)]
    rows = [
        {"edge": name, "kl": interval(rise), "metric": interval(-rise)}
        for name, rise in zip(circuit.edges, rises, strict=True)
    ]
    return {"verdict": "fail", "tolerance": 0.01, "n_edges": len(rows), "edges": rows}


def completeness(circuit):
    """Points of every family of knock-outs, on and off the diagonal."""
    points = []
    for i, family in enumerate(FAMILIES):
        point = {"family": family, "name": f"{family} {i}", "nodes": list(circuit.nodes[1 : i + 1])}
        point |= {"circuit": 3.0 - i * 0.3, "model": 3.0 - i * 0.25, "gap": interval(-0.05 * i)}
        points.append(point | {"relative_gap": -0.02 * i, "telling": i % 2 == 0, "kl": 0.01 * i})
    summary = {"class": {"n": 2, "n_within": 1, "worst_nodes": ["m0"]}}
    facts = {"verdict": "undecided", "tolerance": 0.1, "span": 3.0, "summary": summary}
    return {**facts, "points": points}


def random_circuits():
    family = {"n_same": 0, "kl_of_each": [1.0 - i / 50 for i in range(20)]}
    both = {"uniform": family, "matched": family}
    return {
        "verdict": "pass",
        "n_random": 20,
        "circuit": measured(0.05).to_json(),
        "families": both,
    }


def function(circuit, tokens):
    """What nodes read, write and look at on one pair."""
    names = [node for node in circuit.nodes if ".h" in node]
    probes = {"to_answers": 0.5, "to_wrong": 0.1, "previous": 0.9, "labels": ["previous-token"]}
    places = [f"{kind}{layer}" for layer in range(4) for kind in "am"] + ["logits"]
    example = {"index": 0, "clean": tokens, "corrupt": tokens[::-1]}
    example |= {"answers": tokens[:1], "wrong": tokens[1:2], "lens": dict.fromkeys(places, tokens)}
    example["attention"] = {name: triangle(len(tokens)) for name in names}
    example["attention_from_answer"] = {name: triangle(len(tokens))[-1] for name in names}
    ranks = [
        {"at": at, "answer_rank": 9.0, "logit_diff": 0.5, "logit_diff_corrupt": -0.5}
        for at in places
    ]
    shares = [
        {"node": name, "share": (-0.5) ** i, "edge_to_logits_kept": i % 2 == 0}
        for i, name in enumerate(names)
    ]
    heads = [{"head": name, **probes} for name in names]
    return {"lens": ranks, "direct": shares, "heads": heads, "examples": [example]}


def triangle(n):
    """Attention of each position to those up to it, most to the first."""
    return [[round((j == 0) * 0.5 + 0.5 / (i + 1), 3) for j in range(i + 1)] for i in range(n)]


def pairs(circuit, tokens):
    """One pair with what model and circuit would say next."""
    chances = [0.5 / 2**i for i in range(len(tokens))]
    ahead = [list(pair) for pair in zip(tokens, chances, strict=True)]
    back = [list(pair) for pair in zip(tokens[::-1], chances, strict=True)]
    pair = {"clean": tokens, "corrupt": tokens[::-1], "answers": tokens[:1], "wrong": tokens[1:2]}
    pair["next"] = {"model": ahead, "model_corrupt": back, "circuit": back}
    return {"split": "test", "n": 64, "n_edges": circuit.n_edges, "pairs": [pair]}


# ---------------------------------------------------------------- studies of several runs


def stability(names):
    """A study of the seeds of runs of these names."""
    n = len(names)
    shared = [
        [1.0 if i == j else round(0.5 + 0.1 / (i + j), 2) for j in range(n)] for i in range(n)
    ]
    overlap = {"mean": 0.55, "low": 0.5, "high": 0.6}
    group = {"n_edges": 40, "runs": [{"folder": name} for name in names]}
    group |= {"sentence": "What stability found.", "jaccard": {"edges": shared, "nodes": shared}}
    group |= {"kept_by": [1400, *range(10, 10 + n)], "measured": {}}
    group["overlap"] = {"edges": overlap, "nodes": overlap, "chance_edges": 0.01}
    return {"schema": 1, "groups": {"seed": group}}


def transfer(names):
    """A comparison of circuits of these names, with their transfer to one another's pairs."""
    circuits = [
        {"name": name, "task": "ioi", "model": "zoo/small", "n_edges": 40} for name in names
    ]
    both = [
        {"a": a, "b": b, "edge_jaccard": 0.25, "node_jaccard": 0.5, "chance_edge_jaccard": 0.01}
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    cells = [
        {"circuit": a, "on": b, "faithfulness": interval(round(0.9 - 0.3 * i + 0.1 * j, 2))}
        | {"kl": 0.1, "accuracy": 0.9, "random": {"relabelled": {"mean": 0.05}}}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    settings = [{"name": name, "n_pairs": 64} for name in names]
    nothing = {"edges": [], "nodes": []}
    facts = {"schema": 1, "n_edges": 40, "n_edges_total": 1519, "circuits": circuits}
    facts |= {"private": dict.fromkeys(names, nothing), "core": nothing, "overlap": both}
    return {**facts, "transfer": {"settings": settings, "cells": cells}, "specificity": None}
