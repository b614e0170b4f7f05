"""What `mib.json` holds: the cells of a submission to the MIB benchmark, and their table."""

from dataclasses import dataclass

from circuitprune.evidence.ability import Ability
from circuitprune.evidence.mib import SIZES
from circuitprune.evidence.mib_areas import Areas


@dataclass(frozen=True)
class Cell:
    """One run in a submission."""

    run: str
    name: str
    """Of its folder, TASK_MODEL."""
    on_board: bool
    """Whether MIB's board has such a cell."""
    source: str
    """What the importance is: `scores`, or the `order` of a ranking without a sign."""
    files: tuple[str, ...]
    ability: Ability | None = None
    """Of the model at the task; None where no table was asked for."""
    able: bool | None = None
    """Whether that is enough."""
    areas: Areas | None = None
    """None also where they are undefined."""
    ablation: str = "patch"
    """What cut edges carry in the table; MIB's default is `patch`."""


@dataclass(frozen=True)
class Submission:
    """`mib.json`: what was written, and the table."""

    cells: tuple[Cell, ...]
    sizes: tuple[float, ...] = SIZES
