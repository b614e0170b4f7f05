"""A run on one page of Markdown."""

from collections.abc import Sequence
from dataclasses import replace

from circuitprune.files.text import code, markdown, nats, table
from circuitprune.metrics import Evidence
from circuitprune.runs.frontier import Frontier

HEAD = ("size", "edges", "KL (nats)", "faithfulness", "metric", "accuracy", "exact match")


def summary(frontier: Frontier, command: str, notes: Sequence[str] = ()) -> str:
    """The run on one page of Markdown, with more paragraphs under the table."""
    about, graph = frontier.provenance, frontier.graph
    chosen = frontier.chosen()
    n, evidence = int(chosen.mask.sum()), chosen.evidence
    counts = f"{graph.n_edges:,} edges"
    if graph.n_edges_ungrouped != graph.n_edges:
        counts += f" ({graph.n_edges_ungrouped:,} by query head)"
    lines = [
        f"# {markdown(about['task'])} in {markdown(about['model'])}",
        "",
        f"The model has {counts}. Cut edges carry: {markdown(about['ablation'])}. Verified exactly "
        f"on {frontier.full.n} {markdown(about['split'])} pairs, task metric "
        f"{markdown(about['metric'])}.",
        "",
        f"**{n} edges ({n / graph.n_edges:.1%}) keep KL {nats(evidence.kl)} nats, faithfulness "
        f"{evidence.faithfulness:.3f}, accuracy {evidence.accuracy:.1%}** (full model "
        f"{frontier.full.accuracy:.1%}): `{frontier.file_of(chosen)}`, {frontier.choice()}.",
        "",
        *table(HEAD, _rows(frontier)),
        "",
        *(line for note in notes for line in (note, "")),
        f"Again: {code(command)}. The settings are in `config.yaml`, the versions in "
        "`versions.json`.",
        "",
    ]
    return "\n".join(lines)


def _rows(frontier: Frontier) -> list[tuple[str, ...]]:
    return [
        *(_row(f"{p.size:g}", int(p.mask.sum()), p.evidence) for p in frontier.points),
        _row("full", frontier.graph.n_edges, replace(frontier.full, faithfulness=1.0)),
        _row("empty", 0, replace(frontier.empty, faithfulness=0.0)),
    ]


def _row(size: str, n_edges: int, evidence: Evidence) -> tuple[str, ...]:
    return (
        size,
        f"{n_edges:,}",
        nats(evidence.kl, ".4g"),
        f"{evidence.faithfulness:.3f}",
        f"{evidence.metric:.3f}",
        f"{evidence.accuracy:.1%}",
        f"{evidence.exact_match:.1%}",
    )
