"""Kinds of evidence one after the other, each kept in a file of its own as soon as it is done."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from circuitprune.engine.progress import Watch
from circuitprune.errors import CircuitPruneError, NonFiniteError, RunError
from circuitprune.evidence.case import Case
from circuitprune.evidence.results import NotComputed, Section, Sections, kind_of
from circuitprune.files.records import from_json
from circuitprune.files.whole import read_json, write_json
from circuitprune.runs.shards import Ranks
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
    ranks: Ranks | None = None,
) -> Sections | None:
    """The result of each section, taken from `<name>.json` in the folder or put there.

    Args:
        folder: Of the sections' files.
        case: What they are about.
        kinds: Sections by name, in their order.
        identity: Plain values; a file is only taken if it was written with the same ones.
        show: Show how far each section is.
        say: Called with a line for each section that is taken from its file.
        ranks: Who gathers; each process takes the next section that none has taken.

    Returns:
        None on processes that do not lead.

    Raises:
        NonFiniteError: a section came upon NaN. Other errors of this package stand in a section's
            place as `error`, and are not kept.
    """
    ranks = ranks or Ranks()
    sections = _known(folder, kinds, identity)
    for name in sections:
        say(f"{name}: found in {folder / name}.json")
    ranks.wait()  # all have seen the folder as it was
    if len(sections) < len(kinds):  # whatever is gathered alone then sees the same bits
        case.references.fill([*case.batches, *case.train_batches])
    with shown(show) as watch:

        def run(name: str) -> Section | NotComputed:
            title = f"{list(kinds).index(name) + 1}/{len(kinds)} {name}"
            found = section_of(title, kinds[name], case, watch)
            if not isinstance(found, NotComputed):
                keep(folder / f"{name}.json", found, identity)
            return found

        sections |= {
            name: run(name) for name in kinds if name not in sections and ranks.first(name)
        }
        ranks.wait()
        if not ranks.leads:
            return None
        sections = _known(folder, kinds, identity) | sections
        sections |= {name: run(name) for name in kinds if name not in sections}  # undefined there
    return Sections(**{name: sections[name] for name in kinds})  # type: ignore[arg-type]  # its fields


def _known(
    folder: Path, kinds: Iterable[str], identity: Mapping[str, object]
) -> dict[str, Section | NotComputed]:
    """The sections whose files are of the very same work."""
    sections: dict[str, Section | NotComputed] = {}
    for name in kinds:
        found = kept(folder / f"{name}.json", kind_of(name), identity)
        if found is not None:
            sections[name] = found
    return sections


def section_of(title: str, kind: Kind, case: Case, watch: Watch) -> Section | NotComputed:
    """One section; where it is undefined for this circuit, the reason in its place.

    Args:
        title: What its work is shown as.
        kind: Of evidence.
        case: What it is about.
        watch: Told how far it is.
    """
    try:
        return _judged(kind(replace(case, watch=_of_section(title, watch))), case)
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
    """Put a piece of work into a file of its own, with all that decides it and a checksum."""
    write_json(path, {"identity": identity, "result": result}, checked=True)


def kept(path: Path, kind: type[Piece], identity: Mapping[str, object]) -> Piece | None:
    """What `keep` put there, if it is of the very same work and as it was written."""
    try:
        found = read_json(path, checked=True)
        if isinstance(found, dict) and found.get("identity") == identity:
            return from_json(kind, found.get("result"), path.stem)
    except RunError:  # absent, cut short by something else than us, or of another version
        return None
    return None


def _of_section(name: str, watch: Watch) -> Watch:
    """The pieces of a section's work, under its name."""
    return lambda doing, unit: watch(f"{name}, {doing}" if doing else name, unit)
