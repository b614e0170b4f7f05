"""Kinds of evidence one after the other, each kept in a file of its own as soon as it is done."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from circuitprune.engine.progress import Watch
from circuitprune.errors import CircuitPruneError, NonFiniteError, RunError
from circuitprune.evidence.case import Case
from circuitprune.evidence.results import NotComputed, Section, Sections, kind_of
from circuitprune.files.records import JsonObject, from_json
from circuitprune.files.whole import read_json, write_json
from circuitprune.views.progress import shown

Piece = TypeVar("Piece")
Kind = Callable[[Case], Section]
"""One kind of evidence."""


def gather(
    folder: Path,
    case: Case,
    kinds: Mapping[str, Kind],
    identity: Mapping[str, object],
    show: bool,
    say: Callable[[str], None],
) -> Sections:
    """The result of each section, taken from `<name>.json` in the folder or put there.

    Args:
        folder: Of the sections' files.
        case: What they are about.
        kinds: Sections by name, in their order.
        identity: Plain values; a file is only taken if it was written with the same ones.
        show: Show how far each section is.
        say: Called with a line for each section that is taken from its file.

    Raises:
        NonFiniteError: a section came upon NaN. Other errors of this package stand in a section's
            place as `error`, and are not kept.
    """
    sections: JsonObject = {}  # by names, which are fields of `Sections`
    with shown(show) as watch:
        for number, (name, kind) in enumerate(kinds.items(), start=1):
            path = folder / f"{name}.json"
            before = kept(path, kind_of(name), identity)
            if before is not None:
                say(f"{name}: found in {path}")
                sections[name] = before
                continue
            title = f"{number}/{len(kinds)} {name}"
            found = _run(kind, replace(case, watch=_of_section(title, watch)))
            if not isinstance(found, NotComputed):
                keep(path, found, identity)
            sections[name] = found
    return Sections(**sections)


def _run(kind: Kind, case: Case) -> Section | NotComputed:
    """One section; where it is undefined for this circuit, the reason in its place."""
    try:
        return _judged(kind(case), case)
    except NonFiniteError:
        raise
    except CircuitPruneError as error:
        return NotComputed(str(error), f"Not computed: {error}")


def _judged(found: Section, case: Case) -> Section:
    """The section; of one pair, which every resample is, without a verdict that passes or fails."""
    if case.n_examples > 1 or getattr(found, "verdict", None) is None:
        return found
    said = f"{found.sentence} All this is of one pair, which has no interval: undecided."
    return replace(found, verdict="undecided", sentence=said)  # type: ignore[arg-type]


def keep(path: Path, result: object, identity: Mapping[str, object]) -> None:
    """Put a piece of work into a file of its own, with all that decides it."""
    write_json(path, {"identity": identity, "result": result})


def kept(path: Path, kind: type[Piece], identity: Mapping[str, object]) -> Piece | None:
    """What `keep` put there, if it is of the very same work."""
    try:
        found = read_json(path)
        if isinstance(found, dict) and found.get("identity") == identity:
            return from_json(kind, found.get("result"), path.stem)
    except RunError:  # absent, cut short by something else than us, or of another version
        return None
    return None


def _of_section(name: str, watch: Watch) -> Watch:
    """The pieces of a section's work, under its name."""
    return lambda doing, unit: watch(f"{name}, {doing}" if doing else name, unit)
