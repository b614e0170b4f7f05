"""`verification.md`: the evidence on a page for a reviewer, from `verification.json` alone."""

import re
from collections.abc import Callable

from circuitprune.evidence.bootstrap import spell
from circuitprune.files import table

TITLES = {
    "faithfulness": "Faithfulness",
    "cross_ablation": "Other ablations",
    "mib": "MIB's CPR and CMD",
    "completeness": "Completeness",
    "minimality": "Minimality",
    "random_circuits": "Random circuits",
    "hypotheses": "Hypothesis tests",
    "function": "What the circuit does",
    "minimise": "The minimised circuit",
}
"""Headings of sections; others take their name."""
MOST_ROWS = 10
"""Rows of a table; `verification.json` holds all."""
EDGE = re.compile(r"((?:\b(?:input|a\d+\.h\d+|m\d+)->)?\ba\d+\.(?:h|kv)\d+<[qkv]>)")
"""An edge, or a reader, whose name holds what Markdown would take for HTML."""
VERDICTS = {"pass": "passes", "fail": "**fails**", "undecided": "undecided", None: "describes"}


def page(found: dict) -> str:
    """The page of one verification: what was tested, a verdict for each section, then each."""
    run, sections = found["run"], found["sections"]
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
        lines += [f"## {_title(name)}", "", _text(section["sentence"]), ""]
        if name in TABLES and "error" not in section:
            lines += [*TABLES[name](section), ""]
    lines += [
        "How to read this page: docs/evidence.md. Every number, with its interval, is in "
        "`verification.json`.",
        "",
    ]
    return "\n".join(lines)


def _tested(found: dict) -> list[str]:
    run, circuit, options = found["run"], found["circuit"], found["options"]
    total = run["n_edges_total"]
    judged = f"Judged on {found['n_pairs']} held-out {run['split']} pairs"
    if run["split"] == "train":
        judged = f"**Judged on the {found['n_pairs']} pairs that it was found on**"
    return [
        f"`{circuit['file']}` keeps {circuit['n_edges']:,} of {total:,} edges "
        f"({circuit['n_edges'] / total:.1%}) among {circuit['n_nodes']} nodes. Cut edges carry: "
        f"{run['ablation']}. Task metric: {run['metric']}. {judged}; the run had "
        f"{found['n_train_pairs']} training pairs.",
        "",
        f"Intervals are 95 %, from {options['n_bootstrap']:,} resamples of the pairs; seed "
        f"{options['seed']}.",
    ]


def _overview(name: str, section: dict) -> tuple[str, str, int | str]:
    verdict = "not computed" if "error" in section else VERDICTS[section.get("verdict")]
    return _title(name), verdict, section.get("n_pairs", "")


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " ").capitalize())


def _text(value: object) -> str:
    """Text that stays on one line and opens no Markdown table or HTML; edges become code."""
    plain = " ".join(str(value).split()).replace("|", "\\|")
    parts = EDGE.split(plain)  # every second part is an edge or a reader
    parts[::2] = [part.replace("<", "\\<") for part in parts[::2]]
    parts[1::2] = [f"`{name}`" for name in parts[1::2]]
    return "".join(parts)


# ---------------------------------------------------------------- tables


def _sizes(section: dict) -> list[str]:
    rows = [(f"{point['size']:g}", point) for point in section["sizes"]]
    rows += [("**this circuit**", section["circuit"])]
    return table(
        ("size", "edges", "KL (nats)", "faithfulness", "accuracy", "exact match"),
        [(name, f"{point['n_edges']:,}", *_main_numbers(point)) for name, point in rows],
    )


def _kinds(section: dict) -> list[str]:
    return table(
        ("cut edges carry", "KL (nats)", "faithfulness", "accuracy", "exact match"),
        [(k, *_main_numbers(v)) for k, v in section["kinds"].items() if "error" not in v],
    )


def _main_numbers(point: dict) -> list[str]:
    names = (("kl", 3), ("faithfulness", 2), ("accuracy", 2), ("exact_match", 2))
    return [spell(point[name], digits) for name, digits in names]


def _families(section: dict) -> list[str]:
    rows = [
        (
            family,
            value["n"],
            value["n_telling"],
            value["n_within"],
            f"{value['mean_gap']:.3g}",
            f"{value['worst_gap']:+.3g}",
            ", ".join(value["worst_nodes"][:6]) + " ..." * (len(value["worst_nodes"]) > 6),
        )
        for family, value in section["summary"].items()
    ]
    within = f"telling within {section['tolerance']:.0%}"
    return table(
        ("knock-outs", "n", "telling", within, "mean gap of all", "worst gap", "worst nodes"), rows
    )


def _edges(section: dict) -> list[str]:
    rows = [(_text(r["edge"]), spell(r["kl"], 4), spell(r["metric"], 3)) for r in section["edges"]]
    head = ("edge removed", "KL rises by (nats)", "metric changes by")
    return table(head, rows[:MOST_ROWS], len(rows))


def _ends(section: dict) -> list[str]:
    rows = [
        (name, f"{n:,}", f"{v['kl']:.4g}", f"{v['metric']:.4g}", f"{v['accuracy']:.1%}")
        for name, n, v in (
            ("before", section["n_edges_before"], section["before"]),
            ("after", section["n_edges"], section["after"]),
        )
    ]
    return table(("", "edges", "KL (nats)", "metric", "accuracy"), rows)


TABLES: dict[str, Callable[[dict], list[str]]] = {
    "faithfulness": _sizes,
    "cross_ablation": _kinds,
    "completeness": _families,
    "minimality": _edges,
    "minimise": _ends,
}
"""Sections with a table under their sentence."""
