"""`mib.md`: the cells of a submission, and CPR and CMD of each as MIB's board shows them."""

from circuitprune.files.text import markdown, rounded, table
from circuitprune.runs.submission import Cell, Submission


def mib_page(found: Submission) -> str:
    """The page: a table of areas, one of faithfulness by size, and what to know of the cells."""
    lines = [
        "# Submission to MIB",
        "",
        *table(
            ["cell", "on the board", "importance", "pairs", "edges", "model", "CPR", "CMD"],
            [_row(cell) for cell in found.cells],
        ),
    ]
    measured = [cell for cell in found.cells if cell.areas is not None]
    if measured:
        lines += [
            "",
            "Faithfulness of the circuits behind CPR, by share of all edges:",
            "",
            *table(
                ["cell", *(f"{100 * size:g} %" for size in found.sizes)],
                [[markdown(cell.name), *_curve(cell)] for cell in measured],
            ),
        ]
    notes = [note for cell in found.cells for note in _notes(cell)]
    tasks = {cell.name.partition("_")[0] for cell in found.cells}
    models = {cell.name.partition("_")[2] for cell in found.cells}
    if len(tasks) < 2 or len(models) < 2:
        notes.append("MIB takes submissions of at least two tasks and two models.")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) if notes else "\n".join(lines)


def _row(cell: Cell) -> list[str]:
    areas, able = cell.areas, cell.ability
    return [
        markdown(cell.name),
        "yes" if cell.on_board else "no",
        cell.source,
        "-" if areas is None else f"{areas.n_pairs:,}",
        "-" if areas is None else f"{areas.n_edges:,}",
        "-" if able is None else f"{able.accuracy:.0%} right",
        "-" if areas is None else rounded(areas.cpr, ".3f"),
        "-" if areas is None else rounded(areas.cmd, ".3f"),
    ]


def _curve(cell: Cell) -> list[str]:
    assert cell.areas is not None
    return [rounded(value, ".2f") for value in cell.areas.signed]


def _notes(cell: Cell) -> list[str]:
    """What a reader of the table must know of a cell."""
    name, notes = markdown(cell.name), []
    if cell.able is False:
        notes.append(f"{name}: the model cannot do this task, it is {cell.ability}.")
    if cell.ability is not None and cell.areas is None:
        notes.append(f"{name}: no areas, the full and the empty model score the same.")
    if cell.areas is not None and cell.ablation != "patch":
        notes.append(
            f"{name}: cut edges carry `{cell.ablation}` here; MIB's carry the corrupt run."
        )
    if cell.source == "order":
        notes.append(f"{name}: an order without a sign, so CPR and CMD are of the same circuits.")
    return notes
