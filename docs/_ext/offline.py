"""Refuses a site that would fetch something: a page must open as well without a network."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

LOADED = {"script", "img", "iframe", "link", "source", "video", "audio", "embed", "object", "image"}
"""Elements whose address a browser fetches by itself; a link is only followed when clicked."""
REMOTE = re.compile(r"^\s*(https?:)?//")
CSS = re.compile(r"""(?:url\(|@import\s+)\s*["']?\s*((?:https?:)?//[^"')\s]+)""")


class _Loads(HTMLParser):
    """Collects the remote addresses that an HTML page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in LOADED and values.get("rel") != "canonical":
            for name in ("src", "href", "data", "poster", "srcset"):
                if REMOTE.match(values.get(name, "")):
                    self.found.append(values[name])
        self.found += CSS.findall(values.get("style", ""))


def remote_loads(name: str, text: str) -> list[str]:
    """Remote addresses that a page (`.html`) or a style sheet (`.css`) would load."""
    found = CSS.findall(text) if name.endswith(".css") or "<style" in text else []
    if name.endswith(".html"):
        page = _Loads()
        page.feed(text)
        found += page.found
    return found


def loads_of(site: Path) -> Iterator[str]:
    """`file: address` for all that a built site would load from elsewhere."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for address in remote_loads(path.name, path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: {address}"


def check(app: Sphinx, error: Exception | None) -> None:
    """Fails the build if any page loads something from elsewhere."""
    found = [] if error else list(loads_of(Path(app.outdir)))
    if found:
        raise SphinxError("the site would fetch from a network:\n  " + "\n  ".join(found))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
