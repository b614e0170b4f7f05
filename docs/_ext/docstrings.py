"""Docstrings are read as they stand in the source, where they are nearer to Markdown."""

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(``.+?``|`[^`]+`)")
VALUES = ("attribute", "data", "property")


def as_written(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Mends, in place, what reStructuredText and napoleon would misread.

    A bar in `|score|` is a bar and no substitution. What stands before a colon in the first line of
    a value's docstring is no type: napoleon looks for one in the first line alone, so that is left
    empty.
    """
    for i, line in enumerate(lines):
        parts = CODE.split(line)
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[i] = "".join(parts)
    if what in VALUES:
        lines.insert(0, "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_written, priority=400)  # napoleon comes at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
