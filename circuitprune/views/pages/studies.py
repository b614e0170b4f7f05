"""What `stability` and `compare` found, in words and tables; from their plain values alone."""

from collections.abc import Mapping, Sequence

from circuitprune.circuits.layer_null import NullOverlap
from circuitprune.circuits.overlap import GroupOverlap, Names, PairOverlap, PairsSummary
from circuitprune.evidence.baselines import AmongRandom
from circuitprune.evidence.bootstrap import Interval, spell
from circuitprune.files.text import counted, line, markdown, nats, rounded, table
from circuitprune.runs.studies import (
    ComparedCircuit,
    Comparison,
    CoreEdges,
    CrossModel,
    CrossSkipped,
    Measured,
    Stability,
    StabilityGroup,
    Transfer,
    TrialRun,
)
from circuitprune.views.pages.together import against_lines


def stability_sentence(name: str, study: StabilityGroup) -> str:
    """One group of repeated runs in plain English."""
    overlap, n_runs, measured = study.overlap, len(study.runs), study.measured
    what = {
        "seed": "with other seeds",
        "bootstrap": "on training pairs drawn again with replacement",
    }[name]
    how = "Trained" if study.method == "training" else f"Attributed by {study.method}"
    kept_by_all, kept = study.kept_by[-1], sum(study.kept_by[1:])
    parts = [
        f"{how} {counted(n_runs, 'time')} {what}, circuits of {counted(study.n_edges, 'edge')} "
        f"share {_jaccard(overlap.edges)} of their edges (chance {overlap.chance_edges:.3f}) and "
        f"{_jaccard(overlap.nodes)} of their nodes, as mean pairwise Jaccard index.",
        *([_empty(overlap.n_empty, n_runs)] if overlap.n_empty else []),
        f"Of {counted(kept, 'edge')} that some run kept, {kept_by_all:,} were kept by all.",
    ]
    if not measured:
        return " ".join([*parts, "No held-out pair was unseen by all runs, so none was verified."])
    elected, runs = measured["consensus"], [v for k, v in measured.items() if k.startswith("run")]
    values = [run.faithfulness.value for run in runs]
    known = [value for value in values if value is not None]
    single = f"{sum(known) / len(known):.3f}" if len(known) == len(values) else "undefined"
    parts.append(
        f"The {counted(elected.n_edges, 'edge')} that at least half of the runs kept have "
        f"faithfulness {spell(elected.faithfulness, 3)} on {counted(elected.n, 'unseen pair')}, a "
        f"single run's circuit {single} on average."
    )
    return " ".join(parts)


def core_sentence(found: CoreEdges) -> str:
    """What all runs keep at several sizes, in plain English."""
    sizes = ", ".join(f"{size:,}" for size in found.sizes)
    n_core, all_edges = len(found.core), len(found.core) + found.n_contingent
    said = (
        f"Over {counted(found.n_views, 'view')} (every run cut to {sizes}), "
        f"{counted(n_core, 'edge')} are in all, the core; {found.n_contingent:,} of {all_edges:,} "
        f"are contingent, in some and not in others; {found.n_half:,} are in at least half."
    )
    if not found.measured:
        return said
    core, half = found.measured["core"], found.measured["half"]
    return (
        f"{said} Alone, the core's {counted(core.n_edges, 'edge')} on a path have KL "
        f"{nats(core.kl)} nats on {counted(core.n, 'unseen pair')}, those in half of the views "
        f"({half.n_edges:,}) {nats(half.kl)}."
    )


def _empty(n_empty: int, n_runs: int) -> str:
    return (
        f"{n_empty} of the {counted(n_runs, 'circuit')} kept no edge; two such circuits have no "
        "index, and the means leave that pair out."
    )


def stability_page(found: Stability) -> str:
    """`stability.md`: a page that a reviewer can read."""
    lines = [
        f"# Stability of {markdown(found.task)} in {markdown(found.model)}",
        "",
        f"The model has {counted(found.n_edges_total, 'edge')}; cut edges carry: "
        f"{markdown(found.ablation)}. Circuits were verified on "
        f"{counted(found.n_pairs, f'{markdown(found.split)} pair')} that no run was trained on "
        f"({found.n_pairs_seen} more were dropped, as some run had seen them), task metric "
        f"{markdown(found.metric)}.",
    ]
    for name, study in found.groups.items():
        lines += ["", f"## {GROUPS[name]}", "", markdown(study.sentence), "", *_group(study)]
    if found.core is not None:
        lines += ["", "## Core and contingent edges", "", markdown(found.core.sentence)]
    return "\n".join([*lines, ""])


GROUPS = {"seed": "Other seeds", "bootstrap": "Other training pairs (bootstrap)"}


def _group(study: StabilityGroup) -> list[str]:
    n_runs, measured = len(study.runs), study.measured
    kept = ", ".join(f"{n:,} by {times}" for times, n in enumerate(study.kept_by) if times)
    lines = [
        *table(
            ("edges", "shared edges (Jaccard)", "least, largest pair", "chance", "shared nodes"),
            [_overlap_row(row) for row in study.curve],
        ),
        "",
        f"Edges of the {study.n_edges:,}-edge circuits by how many of the "
        f"{counted(n_runs, 'run')} kept them: {kept}.",
    ]
    if not measured:
        return lines
    return [
        *lines,
        "",
        *table(
            ("circuit", "edges", "KL (nats)", "faithfulness", "accuracy", "exact match"),
            [_measured_row(name, row, study.runs) for name, row in measured.items()],
        ),
    ]


def _overlap_row(row: GroupOverlap) -> tuple[str, ...]:
    edges = row.edges
    return (
        f"{row.n_edges:,}",
        _jaccard(edges),
        f"{_number(edges.least, 3)}, {_number(edges.largest, 3)}",
        f"{row.chance_edges:.3f}",
        _jaccard(row.nodes),
    )


def _measured_row(name: str, row: Measured, runs: Sequence[TrialRun]) -> tuple[str, ...]:
    run = name.startswith("run")
    shown = markdown(runs[int(name[3:])].folder) if run else f"**{name}**"
    return (
        shown,
        f"{row.n_edges:,}",
        nats(row.kl, ".4g"),
        spell(row.faithfulness, 3),
        f"{row.accuracy:.1%}",
        f"{row.exact_match:.1%}",
    )


def _jaccard(summary: PairsSummary) -> str:
    return spell(Interval(summary.mean, summary.low, summary.high), 3)


# ---------------------------------------------------------------- compare


def compare_page(found: Comparison) -> str:
    """What `compare` prints: overlap, and the transfer matrix if there is one."""
    names = [one.name for one in found.circuits]
    lines = [
        f"Circuits of {found.n_edges:,} of {counted(found.n_edges_total, 'edge')}.",
        "",
        *(_circuit_line(i, one, found.private) for i, one in enumerate(found.circuits, 1)),
        f"core  {counted(len(found.core.edges), 'edge')} and "
        f"{counted(len(found.core.nodes), 'node')} in all",
        "",
        "shared (Jaccard)     edges   nodes   edges by chance",
        *(_pair_line(row, names) for row in found.overlap),
        *_by_layer(found.overlap, names),
    ]
    if found.transfer is not None:
        lines += ["", *_matrix(found.transfer, names), "", *_specific(found)]
    for one in found.against_apart or ():
        lines += ["", *against_lines(one)]
    for cross in found.cross_model or ():
        lines += ["", *_cross(cross, names)]
    return "\n".join(lines)


def _circuit_line(number: int, one: ComparedCircuit, private: Mapping[str, Names]) -> str:
    what = f", {line(one.task)} in {line(one.model)}" if one.task is not None else ""
    alone = private[one.name]
    return (
        f"{number:<5} {line(one.name)}{what}: {counted(one.n_edges, 'edge')} (found with "
        f"{one.n_edges_found:,}), {counted(len(alone.edges), 'edge')} and "
        f"{counted(len(alone.nodes), 'node')} of its own"
    )


def _pair_line(row: PairOverlap, names: Sequence[str]) -> str:
    pair = f"{names.index(row.a) + 1} and {names.index(row.b) + 1}"
    return (
        f"{pair:18}{_number(row.edge_jaccard, 3):>8}{_number(row.node_jaccard, 3):>8}"
        f"{_number(row.chance_edge_jaccard, 3):>18}"
    )


def _by_layer(rows: Sequence[PairOverlap], names: Sequence[str]) -> list[str]:
    """How much of the smaller circuit is in the other, and by chance with its counts by layer."""
    known = [(row, row.edges, row.nodes) for row in rows if row.edges and row.nodes]
    head = ["", "of the smaller       edges   by layer       p   nodes   by layer       p"]
    lines = [_null_line(row, [edges, nodes], names) for row, edges, nodes in known]
    return [*head, *lines] if known else []


def _null_line(row: PairOverlap, both: Sequence[NullOverlap], names: Sequence[str]) -> str:
    cells = []
    for one in both:
        smaller = None if not one.containment else one.shared / one.containment
        by_layer = None if smaller is None else one.expected / smaller
        cells.append(f"{_number(one.containment, 3):>8}{_number(by_layer, 3):>11}{one.p:>8.2g}")
    pair = f"{names.index(row.a) + 1} and {names.index(row.b) + 1}"
    return f"{pair:18}{''.join(cells)}"


def _matrix(transfer: Transfer, names: Sequence[str]) -> list[str]:
    """Faithfulness of each circuit (row) on the pairs of each run (column)."""
    cells = {(cell.circuit, cell.on): cell for cell in transfer.cells}
    columns = [setting.name for setting in transfer.settings if setting.n_pairs]
    head = "".join(f"{'on ' + str(names.index(name) + 1):>24}" for name in columns)
    lines = [f"{'faithfulness':14}{head}"]
    for number, name in enumerate(names, 1):
        row = (spell(cells[name, column].faithfulness) for column in columns)
        lines.append(f"{number:<14}" + "".join(f"{text:>24}" for text in row))
        row = (_chance(cells[name, column].random) for column in columns)
        lines.append(f"{'  random':14}" + "".join(f"{text:>24}" for text in row))
    for what, shown in (("KL (nats)", "kl"), ("accuracy", "accuracy")):
        lines += ["", f"{what:14}{head}"]
        for number, name in enumerate(names, 1):
            row = (nats(getattr(cells[name, column], shown), ".3f") for column in columns)
            lines.append(f"{number:<14}" + "".join(f"{text:>24}" for text in row))
    return lines + [
        f"no pair of {line(setting.name)} was unseen by all runs"
        for setting in transfer.settings
        if not setting.n_pairs
    ]


def _specific(found: Comparison) -> list[str]:
    lines = ["specificity    own task   other tasks   random there: uniform, relabelled"]
    for number, row in enumerate(found.specificity or (), 1):
        there = ", ".join(_number(value) for value in row.random_on_others.values())
        lines.append(f"{number:<12}{_number(row.own):>11}{_number(row.others):>14}{there:>37}")
    return lines


def _cross(cross: CrossModel | CrossSkipped, names: Sequence[str]) -> list[str]:
    host, donor = names.index(cross.host) + 1, names.index(cross.donor) + 1
    title = f"activations of the model of {donor} in the model of {host}"
    if isinstance(cross, CrossSkipped):
        return [f"{title}: skipped, {line(cross.skipped)}"]
    alone, itself = cross.host_alone, cross.donor_alone
    lines = [
        f"{title} ({counted(cross.n_pairs, 'pair')})",
        f"{'edges of':14}{'recovered':>24}{'metric':>9}{'accuracy':>10}{'random':>16}",
        f"{'none':14}{'0':>24}{alone.metric:>9.3f}{alone.accuracy:>10.3f}",
    ]
    for row in cross.patched:
        name = row.edges_of
        shown = str(names.index(name) + 1) if name in names else name
        lines.append(
            f"{shown:14}{spell(row.recovered):>24}{row.metric:>9.3f}"
            f"{row.accuracy:>10.3f}{_chance(row.random):>16}"
        )
    end = f"{'donor itself':14}{'1':>24}{itself.metric:>9.3f}{itself.accuracy:>10.3f}"
    return [*lines, end]


def _chance(random: Mapping[str, AmongRandom]) -> str:
    """Mean of each family of random circuits."""
    return ", ".join(_number(family.mean) for family in random.values())


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else rounded(value, f".{digits}f")
