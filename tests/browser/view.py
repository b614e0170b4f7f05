"""A report in a tab: what it shows, as plain values, and whatever it says or asks for."""

from pathlib import Path

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Request, Route

LONGEST = 30_000
"""Milliseconds after which what does not come is taken for missing."""
Edge = tuple[str, str, str]
"""The nodes at its ends, and what reads: q, k, v, mlp or logits."""


class View:
    """A tab that opens one file and lets no other request out.

    Attributes:
        said: Messages on the console and errors that no script caught.
        asked: Addresses that the page asked for, except its own file.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.own = ""
        context.set_default_timeout(LONGEST)
        context.route("**/*", self._route)
        self.page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        self.said.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if not self._is_own(request.url):
            self.asked.append(request.url)

    def _route(self, route: Route) -> None:
        route.continue_() if self._is_own(route.request.url) else route.abort()

    def _is_own(self, url: str) -> bool:
        return url.split("#")[0] == self.own

    # ------------------------------------------------------------ opening

    def open(self, report: Path, fragment: str = "") -> "View":
        """Loads the file anew, at this place of it, until all of it is drawn."""
        self.begin(report, fragment)
        self.page.locator("main:not([aria-busy])").wait_for()
        return self

    def begin(self, report: Path, fragment: str = "") -> "View":
        """The same until its first screen is drawn."""
        self.own = report.as_uri()
        self.page.goto("about:blank")
        self.page.goto(self.own + fragment)
        return self

    @property
    def fragment(self) -> str:
        """What stands after the # in the address."""
        return self.page.evaluate("location.hash")

    @property
    def data(self) -> dict:
        """The report's data, as the page's script parsed it."""
        return self.page.evaluate("DATA")

    def unfold(self) -> None:
        """Opens whatever is folded away, and has drawn what waits until it is near."""
        self.page.locator("#compare").scroll_into_view_if_needed()
        script = "(found) => found.forEach((x) => { x.open = true; })"
        self.page.locator("details").evaluate_all(script)

    # ------------------------------------------------------------ the drawing

    def node(self, name: str) -> Locator:
        """A box of the drawing."""
        return self.page.locator(f'#drawing [data-node="{name}"]')

    def named(self, selector: str, *keys: str) -> list[tuple[str, ...]]:
        """`data-` attributes of elements of the drawing, in the order of the page."""
        script = "(found, keys) => found.map((x) => keys.map((key) => x.dataset[key]))"
        rows = self.page.locator(f"#drawing {selector}").evaluate_all(script, list(keys))
        return [tuple(row) for row in rows]

    def widths(self, selector: str = ".edge", drawing: str = "#drawing") -> dict[Edge, float]:
        """Edges that are drawn, with the width of their line."""
        script = """(found) => found.map((x) =>
            [x.dataset.from, x.dataset.to, x.classList[1], x.getAttribute("stroke-width")])"""
        rows = self.page.locator(f"{drawing} {selector}").evaluate_all(script)
        return {(start, end, kind): float(width) for start, end, kind, width in rows}

    def edges(self, selector: str = ".edge", drawing: str = "#drawing") -> set[Edge]:
        """Edges that are drawn."""
        return set(self.widths(selector, drawing))

    def kept_nodes(self) -> set[str]:
        """Boxes that are drawn as part of the circuit."""
        return {name for (name,) in self.named(".node:not(.cut)", "node")}

    # ------------------------------------------------------------ the panel at the side

    def lists(self) -> list[list[str]]:
        """Edges of each list in the panel, each as its other end."""
        script = """(lists) => lists.map((list) => [...list.querySelectorAll("li > button")].map(
            (button) => [...button.childNodes].filter((x) => x.nodeType === Node.TEXT_NODE)
                .map((x) => x.textContent).join("")))"""
        return self.page.locator("#node ul").evaluate_all(script)

    def listed(self) -> tuple[list[str], list[str]]:
        """In- and out-edges of the node that the panel shows."""
        into, out = self.lists()
        return into, out

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.page.locator(selector).inner_text()

    def saved(self, button: str) -> str:
        """The text of the file that a button saves."""
        with self.page.expect_download() as download:
            self.page.locator(button).click()
        self.asked = [url for url in self.asked if not url.startswith("blob:")]
        return download.value.path().read_text()
