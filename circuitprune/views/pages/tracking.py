"""Entity tracking in one model or two, on a page of Markdown."""

from circuitprune.evidence.tracking import EntityTracking, HeadGroups, Right
from circuitprune.files.text import counted, markdown, table


def tracking_page(found: EntityTracking) -> str:
    """All numbers of `tracking.json` that a reader looks for first."""
    models = [one for one in (found.tuned, found.base) if one is not None]
    lines = ["# Entity tracking", ""]
    for one in models:
        lines += _model(one)
    if found.shared:
        rows = [
            (one.group, _names(one.tuned), _names(one.base), _names(one.both))
            for one in found.shared
        ]
        head = ("group", found.tuned.model, models[-1].model, "in both")
        lines += ["## What they share", "", *table(tuple(map(markdown, head)), rows), ""]
    if found.patched:
        lines += ["## One in the other", "", *_patched(found), ""]
    return "\n".join(lines)


def _model(one: HeadGroups) -> list[str]:
    head = ("group", "place", "heads, by effect", "cannot be spared")
    rows = [
        (
            group.name,
            group.place,
            ", ".join(f"{h} {s:+.2f}" for h, s in zip(group.heads, group.scores, strict=True))
            or "none",
            _names(group.minimal),
        )
        for group in one.groups
    ]
    return [
        f"## {markdown(one.model)}",
        "",
        f"Right on {_right(one.whole)} of {counted(one.n_pairs, 'held-out prompt')}. The circuit "
        f"alone: {one.circuit:.1%}{_share(one)}; its minimal members: {one.minimal_circuit:.1%}; "
        f"no head: {one.nothing:.1%}; as many random heads: {one.random:.1%} (mean of "
        f"{one.n_random}). {_completeness(one)}",
        "",
        *table(head, rows),
        "",
        *_carriers(one),
    ]


def _share(one: HeadGroups) -> str:
    share = one.faithfulness
    return "" if share is None else f" (faithfulness {share:.2f})"


def _completeness(one: HeadGroups) -> str:
    gaps = [abs(part.circuit - part.model) for part in one.completeness]
    if not gaps:
        return ""
    return (
        f"Circuit and model without the same random part of the circuit differ by "
        f"{sum(gaps) / len(gaps):.1%} of prompts, at most {max(gaps):.1%} "
        f"({counted(len(gaps), 'part')})."
    )


def _carriers(one: HeadGroups) -> list[str]:
    rows = [
        (row.group, row.what, f"{row.accuracy:.1%}", f"{row.all_heads:.1%}", _names(row.heads))
        for row in one.carriers
    ]
    if not rows:
        return []
    head = ("group", "desired", "by these heads", "by the whole group", "heads")
    return ["What their patch carries over (DCM):", "", *table(head, rows), ""]


def _patched(found: EntityTracking) -> list[str]:
    rows = [
        (markdown(one.host), markdown(one.donor), one.groups, one.what, *_both(one.right))
        for one in found.patched
    ]
    return table(("host", "donor", "groups", "taken", "top 1", "among the boxes"), rows)


def _both(right: Right) -> tuple[str, str]:
    return f"{right.top1:.1%}", f"{right.among:.1%}"


def _right(right: Right) -> str:
    return f"{right.top1:.1%} (among the things in the boxes {right.among:.1%})"


def _names(heads: tuple[str, ...]) -> str:
    return ", ".join(heads) or "none"
