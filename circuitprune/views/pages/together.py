"""A run over several tasks on one page of Markdown."""

from circuitprune.files.text import code, counted, line, markdown, nats, rounded, table
from circuitprune.runs.together import AgainstApart, NotAgainstApart, TaskShare, TogetherFile


def together_page(found: TogetherFile, command: str) -> str:
    """Edges of all tasks, shared and private, by size, and what they keep of each task."""
    row, unit = found.rows[found.chosen], f"{found.unit}s"
    tasks = ", ".join(markdown(name) for name in found.tasks)
    target = f" Target: {code(found.target)}." if found.target else ""
    lines = [
        f"# {tasks} in {markdown(found.model)}",
        "",
        f"The model has {found.n_edges_total:,} {unit}. Cut {unit} carry: "
        f"{markdown(found.ablation)}. Each circuit was verified exactly on its "
        f"own task's held-out pairs.{target}",
        "",
        f"**{row.n_edges:,} {unit} in all: {row.n_shared:,} shared and "
        f"{sum(one.n_private for one in row.tasks):,} private**, {found.choice}. A shared "
        f"{found.unit} counts once, a private one once for each task that has it; {row.n_union:,} "
        f"different {unit}. The shared ones are in `{row.file}`.",
        "",
        *table(
            ("task", unit, "private", "KL (nats)", "faithfulness", "accuracy", "circuit"),
            [_task(one) for one in row.tasks],
        ),
        "",
        f"By size, a fraction of all {unit}:",
        "",
        *table(
            ("size", f"{unit} in all", "shared", *(f"{name}: {unit}, KL" for name in found.tasks)),
            [
                (
                    f"{one.size:.4g}",
                    f"{one.n_edges:,}",
                    f"{one.n_shared:,}",
                    *(f"{task.n_edges:,}, {nats(task.kl, '.3g')}" for task in one.tasks),
                )
                for one in found.rows
            ],
        ),
        "",
        f"Each task's folder is a run of its own, with its report. Again: {code(command)}.",
        "",
    ]
    return "\n".join(lines)


def _task(one: TaskShare) -> tuple[str, ...]:
    return (
        markdown(one.name),
        f"{one.n_edges:,}",
        f"{one.n_private:,}",
        nats(one.kl),
        "undefined" if one.faithfulness is None else rounded(one.faithfulness, ".3f"),
        f"{one.accuracy:.1%}",
        code(one.file),
    )


def against_lines(found: AgainstApart | NotAgainstApart) -> list[str]:
    """Circuits learned together beside those learned apart, as plain text in columns."""
    if isinstance(found, NotAgainstApart):
        return [f"{line(found.together)} is not set beside circuits apart: {line(found.skipped)}"]
    share = found.n_edges / found.n_edges_apart if found.n_edges_apart else 1.0
    return [
        f"{line(found.together)} beside circuits apart: fewest edges found with "
        f"{line(found.target)} for every task",
        f"{'task':20}{'apart':>8}{'KL':>9}{'together':>10}{'private':>9}{'KL':>9}",
        *(
            f"{line(one.name):20}{one.n_edges_apart:>8,}{nats(one.kl_apart, '.3f'):>9}"
            f"{one.n_edges:>10,}{one.n_private:>9,}{nats(one.kl, '.3f'):>9}"
            for one in found.tasks
        ),
        f"{'in all':20}{found.n_edges_apart:>8,}{'':9}{found.n_edges:>10,}"
        f"{found.n_edges - found.n_shared:>9,}",
        f"together {rounded(share, '.1%')} of the sum apart; "
        f"{counted(found.n_shared, 'shared edge')} count once. Apart there are "
        f"{counted(found.n_union_apart, 'different edge')}",
    ]
