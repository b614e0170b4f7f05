"""A run on one page of Markdown."""

from collections.abc import Sequence

from circuitprune.circuits.span_graph import SpanGraph
from circuitprune.files.text import code, counted, markdown, nats, rounded, table
from circuitprune.metrics import Evidence
from circuitprune.runs.frontier import Frontier

UNDEFINED = (
    "Faithfulness is undefined on these pairs: the full model and the one with every edge ablated "
    "have the same metric. Check that clean and corrupt prompts have different answers."
)
HEAD = ("size", "edges", "KL (nats)", "faithfulness", "metric", "accuracy", "exact match")


def summary(frontier: Frontier, command: str, notes: Sequence[str] = ()) -> str:
    """The run on one page of Markdown, with more paragraphs under the table."""
    about, graph = frontier.provenance, frontier.graph
    chosen = frontier.chosen()
    n, evidence = int(chosen.mask.sum()), chosen.evidence
    at = " at spans" * isinstance(graph, SpanGraph)
    counts = f"{counted(graph.n_edges, graph.unit)}{at}"
    pair = f"{markdown(about['split'])} pair"
    if graph.n_edges_ungrouped != graph.n_edges:
        counts += f" ({graph.n_edges_ungrouped:,} by query head)"
    lines = [
        f"# {markdown(about['task'])} in {markdown(about['model'])}",
        "",
        f"The model has {counts}. Cut {graph.unit}s carry: {markdown(about['ablation'])}. "
        f"Verified exactly on {counted(frontier.full.n, pair)}, task metric "
        f"{markdown(about['metric'])}.",
        "",
        f"**{counted(n, graph.unit)} ({n / graph.n_edges:.1%}): KL {nats(evidence.kl)} nats, "
        f"faithfulness {_share(evidence)}, accuracy {evidence.accuracy:.1%}** (full model "
        f"{frontier.full.accuracy:.1%}): `{frontier.file_of(chosen)}`, {frontier.choice()}.",
        "",
        *table((HEAD[0], f"{graph.unit}s", *HEAD[2:]), _rows(frontier)),
        "",
        *_reached(frontier),
        *([UNDEFINED, ""] if evidence.faithfulness is None else []),
        *(line for note in notes for line in (note, "")),
        f"Again: {code(command)}. The settings are in `config.yaml`, the versions in "
        "`versions.json`.",
        "",
    ]
    return "\n".join(lines)


def _reached(frontier: Frontier) -> list[str]:
    """What reaches `gates.target`, where one is set."""
    about = frontier.provenance
    if "target" not in about:
        return []
    found = (
        "The fewest that reach "
        f"{code(about['target'])} are {counted(about['target_edges'], 'edge')}"
    )
    return [f"{found}, by bisection on pairs that are not the verified ones.", ""]


def _rows(frontier: Frontier) -> list[tuple[str, ...]]:
    return [
        *(_row(f"{p.size:g}", int(p.mask.sum()), p.evidence) for p in frontier.points),
        _row("full", frontier.graph.n_edges, frontier.full.compared(frontier.full, frontier.empty)),
        _row("empty", 0, frontier.empty.compared(frontier.full, frontier.empty)),
    ]


def _share(evidence: Evidence) -> str:
    return "undefined" if evidence.faithfulness is None else rounded(evidence.faithfulness, ".3f")


def _row(size: str, n_edges: int, evidence: Evidence) -> tuple[str, ...]:
    return (
        size,
        f"{n_edges:,}",
        nats(evidence.kl, ".4g"),
        _share(evidence),
        rounded(evidence.metric, ".3f"),
        f"{evidence.accuracy:.1%}",
        f"{evidence.exact_match:.1%}",
    )
