"""Stability: what circuits of repeated runs share, and how many runs kept an edge."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from circuitprune.files.text import counted
from circuitprune.runs.studies import Stability
from circuitprune.views.figures.sources import Options, names_of, read_study
from circuitprune.views.figures.style import COLOURS, COLUMN, matrix

GROUPS = {"seed": "other seeds", "bootstrap": "other training pairs"}
NUMBERED = 12
"""Runs up to which the matrix holds numbers."""


def draw(sources: Sequence[Path], options: Options) -> Figure:
    """For each group of runs a row: pairwise Jaccard index of edges, and edges by votes."""
    groups = read_study(sources[0], "stability", Stability, "groups").groups
    width = options.width or 2 * COLUMN
    figure = Figure(figsize=(width, 0.48 * width * len(groups)), layout="constrained")
    parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for part, (name, study) in zip(parts, groups.items(), strict=True):
        heat, bars = part.subplots(1, 2)
        jaccard = study.jaccard.edges
        runs = names_of([Path(run.folder) for run in study.runs], options)
        small = len(runs) <= NUMBERED
        texts = [
            [f"{value:.2f}" if small and value is not None else "" for value in row]
            for row in jaccard
        ]
        shown = [name.removeprefix("bootstrap").removeprefix("seed") for name in runs]
        matrix(heat, jaccard, texts, shown, shown)
        heat.set_aspect("equal")
        heat.set_title(f"shared edges (Jaccard), {GROUPS.get(name, name)}")
        heat.set_xlabel("run")
        heat.set_ylabel("run")
        votes = study.kept_by[1:]
        bars.bar(range(1, len(votes) + 1), votes, color=COLOURS[0], width=0.7)
        bars.grid(False, axis="x")
        bars.set_title(f"edges of the {study.n_edges:,}-edge circuits")
        bars.set_xlabel(f"kept by how many of {counted(len(votes), 'run')}")
        bars.set_ylabel("edges")
        bars.xaxis.get_major_locator().set_params(integer=True)
    return figure
