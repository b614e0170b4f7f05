"""A report's data as one HTML file that asks for nothing: no network, no server, no library."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from circuitprune.errors import RunError
from circuitprune.files.records import JsonObject, to_json
from circuitprune.files.whole import write_atomic
from circuitprune.runs.results import output_file
from circuitprune.views.report.data import report_data
from circuitprune.views.report.records import ReportData

SCRIPTS = (
    "dom.js",
    "schema.json",
    "check.js",
    "layout.js",
    "spans.js",
    "plan.js",
    "routes.js",
    "circuit.js",
    "canvas.js",
    "gestures.js",
    "picture.js",
    "roles.js",
    "panel.js",
    "edge_card.js",
    "compare.js",
    "takeaway.js",
    "address.js",
    "frontier.js",
    "plots.js",
    "rows.js",
    "curves.js",
    "matrix.js",
    "figures.js",
    "studies.js",
    "evidence.js",
    "pairs.js",
    "node_details.js",
    "part_card.js",
    "summary.js",
    "report.js",
)
"""Parts of the page's one script, in order."""
STYLES = ("report.css", "figures.css")
"""Parts of its one style, in order."""
INERT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that could end a script element, and how JSON spells them otherwise."""


def write_report(folders: Sequence[str | Path], path: str | Path | None = None) -> Path:
    """Write the report of the first run, with the frontiers of the others laid over its own.

    Args:
        folders: Run folders, and studies of runs; see `report_data`.
        path: Where to; None is `report.html` in the first folder, or beside the first file.

    Returns:
        The file written.

    Raises:
        RunError, GraphError: as `report_data`; or the file cannot be written.
    """
    data = report_data(folders)
    target = _beside(Path(folders[0])) if path is None else output_file(path)
    write_atomic(target, report_page(data))
    return target


def _beside(first: Path) -> Path:
    return (first.parent if first.is_file() else first) / "report.html"


def report_page(data: ReportData) -> str:
    """The whole HTML text.

    Its Content Security Policy allows this one style and this one script, by their hashes, and
    nothing else: no request, no inline handler, no `eval`. The data is JSON in an element that no
    browser runs, and the script shows it as text only.

    Raises:
        RunError: the data holds NaN, an infinity, or something that JSON has no form for.
    """
    style, script = ("\n".join(map(_asset, names)) for names in (STYLES, SCRIPTS))
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": inert_json(data)}
    return Template(_asset("template.html")).substitute(parts)


def inert_json(data: object) -> str:
    r"""JSON in ASCII that HTML finds no tag, comment or reference in; reads back the same.

    Example:
        >>> from circuitprune.views.report.page import inert_json
        >>> print(inert_json("</script>"))
        "\u003c/script\u003e"
    """
    try:
        text = json.dumps(to_json(data), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise RunError(f"the report was not written: {error}") from error
    for character, spelt in INERT.items():
        text = text.replace(character, spelt)
    return text


def _asset(name: str) -> str:
    text = (files("circuitprune.views.report") / name).read_text(encoding="utf-8")
    return f"const SCHEMA = {_bare(json.loads(text))};" if name == "schema.json" else text


def _bare(schema: JsonObject) -> str:
    """A schema without its words, as small as it gets."""

    def without(part: JsonObject) -> JsonObject:
        return {key: item for key, item in part.items() if key != "description"}

    kinds = {name: without(kind) for name, kind in schema["$defs"].items()}
    for kind in kinds.values():
        kind["properties"] = {name: without(part) for name, part in kind["properties"].items()}
    return json.dumps({"$defs": kinds}, separators=(",", ":"))


def _source(text: str) -> str:
    """The hash by which a Content Security Policy names an inline style or script."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
