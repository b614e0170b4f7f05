"""`verification.md`: the evidence on a page for a reviewer, from `verification.json` alone."""

import re

from circuitprune.evidence.bootstrap import spell
from circuitprune.evidence.completeness import Completeness
from circuitprune.evidence.cross_ablation import AblationNumbers, CrossAblation
from circuitprune.evidence.faithfulness import FaithfulnessCurve, Numbers
from circuitprune.evidence.minimality import Minimality
from circuitprune.evidence.minimise import MinimisedCircuit
from circuitprune.evidence.results import NotComputed, Section, verdict_in
from circuitprune.files.text import code, counted, escaped, line, markdown, nats, table
from circuitprune.runs.verification import TestedCircuit, Verification

TITLES = {
    "faithfulness": "Faithfulness",
    "cross_ablation": "Other ablations",
    "mib": "MIB's CPR and CMD",
    "completeness": "Completeness",
    "minimality": "Minimality",
    "random_circuits": "Random circuits",
    "adversarial": "The adversarial complement",
    "rivals": "Rival circuits",
    "clusters": "Clusters of pairs",
    "hypotheses": "Hypothesis tests",
    "function": "What the circuit does",
    "minimise": "The minimised circuit",
}
"""Headings of sections; others take their name."""
MOST_ROWS = 10
"""Rows of a table; `verification.json` holds all."""
EDGE = re.compile(r"((?:\b(?:input|a\d+\.h\d+|m\d+)->)?\ba\d+\.(?:h|kv)\d+<[qkv]>)")
"""An edge, or a reader, whose name holds what Markdown would take for HTML."""
UNITS = {"edge": "edges", "node": "nodes"}
"""What gates stand on, by level; else parts."""
OF_PARTS = (
    "Gates stand on parts of what nodes write. Each part has one edge, into the stream that all "
    "that follows reads: where this page says edge, it is that of a part."
)
OF_SPANS = (
    "Gates stand at each span of tokens where they can matter: where this page says edge, it is an "
    "edge at one span."
)
OF_PATHS = "A path goes on at its span, or by attention at one that looks back."
VERDICTS = {"pass": "passes", "fail": "**fails**", "undecided": "undecided", None: "describes"}


def page(found: Verification) -> str:
    """The page of one verification: what was tested, a verdict for each section, then each."""
    run, sections = found.run, dict(found.sections.items())
    lines = [
        f"# Evidence for a circuit of {_text(run['task'])} in {_text(run['model'])}",
        "",
        *_tested(found),
        "",
        *table(
            ("section", "verdict", "pairs"),
            [_overview(name, section) for name, section in sections.items()],
        ),
        "",
    ]
    for name, section in sections.items():
        lines += [f"## {_title(name)}", "", _text(section.sentence), ""]
        if rows := table_of(section):
            lines += [*rows, ""]
    lines += [
        "How to read this page: docs/evidence.md. Every number, with its interval, is in "
        "`verification.json`.",
        "",
    ]
    return "\n".join(lines)


def _tested(found: Verification) -> list[str]:
    run, circuit, options = found.run, found.circuit, found.options
    total, level = run["n_edges_total"], run.get("level", "edge")
    split = _text(run["split"])
    judged = f"Judged on {counted(found.n_pairs, f'held-out {split} pair')}"
    if run["split"] == "train":
        judged = f"**Judged on the {counted(found.n_pairs, 'pair')} that it was found on**"
    return [
        f"{code(circuit.file)} keeps {circuit.n_edges:,} of {total:,} {UNITS.get(level, 'parts')} "
        f"({circuit.n_edges / total:.1%}) among "
        f"{counted(circuit.n_nodes, 'node')}{_text(aside(circuit))}. Cut edges carry: "
        f"{_text(run['ablation'])}. Task metric: {_text(run['metric'])}. {judged}; the run had "
        f"{counted(found.n_train_pairs, 'training pair')}.",
        *([] if level == "edge" else ["", OF_PARTS]),
        *(["", OF_SPANS] if "spans" in run else []),
        *(["", OF_PATHS] if "spans" in run and level == "edge" else []),
        "",
        f"Intervals are 95 %, from {counted(options.n_bootstrap, 'resample')} of the pairs; seed "
        f"{options.seed}.",
    ]


def aside(circuit: TestedCircuit) -> str:
    """What is told of a circuit's file beside its live edges, on the screen and the page."""
    told = ""
    if circuit.n_dangling:
        told += f"; {circuit.n_dangling:,} more in the file lie on no path and are left out"
    if circuit.says:
        said = ", ".join(f"{key} {value}" for key, value in circuit.says.items())
        told += f"; the file says of itself: {said}"
    return told


def _overview(name: str, section: Section | NotComputed) -> tuple[str, str, int | str]:
    if isinstance(section, NotComputed):
        return _title(name), "not computed", ""
    return _title(name), VERDICTS[verdict_in(section)], section.n_pairs


def _title(name: str) -> str:
    return TITLES.get(name, markdown(name.replace("_", " ").capitalize()))


def _text(value: object) -> str:
    """Text that stays on one line and is no Markdown or HTML; edges become code."""
    parts = EDGE.split(line(value))  # every second part is an edge or a reader
    parts[0] = markdown(parts[0]) + " " * parts[0].endswith(" ")
    parts[2::2] = map(escaped, parts[2::2])
    parts[1::2] = map(code, parts[1::2])
    return "".join(parts)


# ---------------------------------------------------------------- tables


def table_of(section: Section | NotComputed) -> list[str]:
    """The lines of the table under a section's sentence; none for a section without one."""
    match section:
        case FaithfulnessCurve():
            return _sizes(section)
        case CrossAblation():
            return _kinds(section)
        case Completeness():
            return _families(section)
        case Minimality():
            return _edges(section)
        case MinimisedCircuit():
            return _ends(section)
    return []


def _sizes(section: FaithfulnessCurve) -> list[str]:
    rows = [(f"{point.size:g}", point.n_edges, _numbers(point)) for point in section.sizes]
    rows += [("**this circuit**", section.circuit.n_edges, _numbers(section.circuit))]
    return table(
        ("size", "edges", "KL (nats)", "faithfulness", "accuracy", "exact match"),
        [(name, f"{n_edges:,}", *numbers) for name, n_edges, numbers in rows],
    )


def _kinds(section: CrossAblation) -> list[str]:
    return table(
        ("cut edges carry", "KL (nats)", "faithfulness", "accuracy", "exact match"),
        [
            (_text(kind), *_numbers(v))
            for kind, v in section.kinds.items()
            if isinstance(v, AblationNumbers)
        ],
    )


def _numbers(point: Numbers) -> list[str]:
    fractions = (point.faithfulness, point.accuracy, point.exact_match)
    return [spell(point.kl, 3), *map(spell, fractions)]


def _families(section: Completeness) -> list[str]:
    rows = [
        (
            _text(family),
            gaps.n,
            gaps.n_telling,
            gaps.n_within,
            f"{gaps.mean_gap:.3g}",
            f"{gaps.worst_gap:+.3g}",
            _text(", ".join(gaps.worst_nodes[:6])) + " ..." * (len(gaps.worst_nodes) > 6),
        )
        for family, gaps in section.summary.items()
    ]
    within = f"telling within {section.tolerance:.0%}"
    return table(
        ("knock-outs", "n", "telling", within, "mean gap of all", "worst gap", "worst nodes"), rows
    )


def _edges(section: Minimality) -> list[str]:
    rows = [(_text(r.edge), spell(r.kl, 4), spell(r.metric, 3)) for r in section.edges]
    head = ("edge removed", "KL rises by (nats)", "metric changes by")
    return table(head, rows[:MOST_ROWS], len(rows))


def _ends(section: MinimisedCircuit) -> list[str]:
    rows = [
        (name, f"{n:,}", nats(v.kl, ".4g"), f"{v.metric:.4g}", f"{v.accuracy:.1%}")
        for name, n, v in (
            ("before", section.n_edges_before, section.before),
            ("after", section.n_edges, section.after),
        )
    ]
    return table(("", "edges", "KL (nats)", "metric", "accuracy"), rows)
