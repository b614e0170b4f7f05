"""Figures for papers, from what runs left behind: `write_figure` is `circuitprune figure`.

matplotlib draws them; it is imported when a figure is asked for, not before.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import to_dot
from circuitprune.errors import RunError
from circuitprune.files.whole import write_atomic
from circuitprune.runs.results import output_file
from circuitprune.views.figures.sources import Options, Source, read_circuit

FIGURES = {
    "circuit": "a circuit, layers from bottom to top; from a run, a circuit file or a circuit",
    "frontier": "KL and faithfulness over the number of edges; from one or more run folders",
    "completeness": "circuit against model under knock-outs; from a verified run folder",
    "minimality": "what removing each edge costs; from a verified run folder",
    "transfer": "every circuit on every task; from what `compare --transfer` wrote",
    "stability": "how far repeated runs agree; from what `stability` wrote",
    "sentiment": "sentiment along a direction, by layer; from what `sentiment` wrote",
}
"""Figures by name, each a module of this folder, and what each is made from."""
FORMATS = ("pdf", "svg", "png")


def write_figure(
    name: str,
    given: Sequence[str | Path | Circuit],
    path: str | Path,
    options: Options | None = None,
) -> Path:
    """Draw one figure; the same inputs give the same bytes.

    Args:
        name: A key of `FIGURES`.
        given: Run folders or files, or a `Circuit`; which and how many, `FIGURES` says.
        path: The file to write. Its ending decides the form: `pdf`, `svg` or `png`, and for a
            circuit also `dot`, text for Graphviz.
        options: Size and the like.

    Returns:
        The file written.

    Raises:
        RunError: an unknown figure or form, sources that do not fit, or matplotlib is missing.
    """
    target, options = output_file(path), options or Options()
    form = target.suffix[1:].lower()
    sources = _sources(name, given)
    if name == "circuit" and form == "dot":
        write_atomic(target, to_dot(read_circuit(sources[0], options)))
        return target
    if form not in FORMATS:
        more = " or .dot" if name == "circuit" else ""
        raise RunError(f"{str(path)!r} must end in .pdf, .svg, .png{more}")
    style = _style()
    module = import_module(f"circuitprune.views.figures.{name}")
    write_atomic(target, style.drawn(module.draw, sources, options, form))
    return target


def _sources(name: str, given: Sequence[str | Path | Circuit]) -> list[Source]:
    """What the figure is made from, if it is made from such things and from so many."""
    if name not in FIGURES:
        raise RunError(f"no figure {name!r}; there are {', '.join(FIGURES)}")
    if isinstance(given, str | Path | Circuit):
        raise RunError(f"give the sources of {name!r} as a list, as in [{type(given).__name__}]")
    if not given or (name != "frontier" and len(given) != 1):
        number = "one source or more" if name == "frontier" else "one source"
        raise RunError(f"the figure {name!r} is of {number}, got {len(given)}")
    if name != "circuit" and any(isinstance(one, Circuit) for one in given):
        raise RunError(f"the figure {name!r} is made {_made_from(name)}; got a Circuit")
    return [one if isinstance(one, Circuit) else Path(one) for one in given]


def _made_from(name: str) -> str:
    """The end of a figure's line in `FIGURES`."""
    return FIGURES[name].partition("; ")[2]


def _style() -> ModuleType:
    try:
        return import_module("circuitprune.views.figures.style")
    except ImportError as error:
        raise RunError(
            "figures are drawn by matplotlib, which is not here: "
            "pip install 'circuitprune[figures]', or from a checkout of the repository "
            "pip install -c constraints.txt -e '.[figures]'"
        ) from error


__all__ = ["FIGURES", "Options", "write_figure"]
