"""The pictures of the documents, of verified runs.

`python tests/browser/screenshots.py RUN --spans RUN --features RUN`; each is optional.

Writes `docs/images/report_*.png` at twice the size of the page, in 200 colours to keep them small.
Needs Chromium and Pillow (`pip install pillow`).
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from circuitprune.circuits.graph import Graph
from circuitprune.views.report import write_report

sys.path.insert(0, str(Path(__file__).parents[1]))
from report_runs import make_run

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="of whole edges")
    parser.add_argument("--spans", type=Path, help="of edges at spans")
    parser.add_argument("--features", type=Path, help="of features, with its part-edges")
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if given.run:
            usual(browser, given.run, Path(folder))
        if given.spans:
            page = opened(browser, write_report([given.spans], Path(folder) / "spans.html"))
            take(page, "#circuit .canvas", "report_spans.png")
        if given.features:
            page = opened(browser, write_report([given.features], Path(folder) / "parts.html"))
            page.evaluate("selectPart(PART_EDGES.edges.find(({ part }) => FINE.test(part)).part)")
            take(page, "#reading", "report_feature.png")
        browser.close()


def opened(browser: Browser, report: Path, scheme: str = "light") -> Page:
    """A report at twice its size, without what only a reader needs."""
    page = browser.new_page(
        viewport={"width": 1400, "height": 900},
        device_scale_factor=2,
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    return whole(page, report.as_uri())


def whole(page: Page, address: str) -> Page:
    """The page, once all of it is drawn."""
    page.goto(address)
    page.locator("main:not([aria-busy])").wait_for()
    return page


def usual(browser: Browser, run: Path, folder: Path) -> None:
    """The pictures of a run of whole edges, and of a large one that is made up."""
    report = write_report([run], folder / "report.html")
    for scheme, end in (("light", ""), ("dark", "_dark")):
        page = opened(browser, report, scheme)
        take(page, None, f"report_first{end}.png")
        page.evaluate("document.querySelector('#circuit .keys').hidden = true")
        take(page, "#circuit .stage > figure", f"report_circuit{end}.png")
        if scheme == "light":
            edge(page)
            node(page)
            compared(page)
            take(page, "#figure-minimality", "report_minimality.png")
            take(page, "#figure-completeness", "report_evidence.png")
    phone = browser.new_page(viewport={"width": 420, "height": 900}, device_scale_factor=2)
    whole(phone, report.as_uri())
    take(phone, None, "report_phone.png")
    paper = browser.new_page(viewport={"width": 760, "height": 1075})
    paper.emulate_media(media="print")
    whole(paper, report.as_uri())
    take(paper, None, "report_print.png")
    deep = write_report([made_up(folder)])
    large = browser.new_page(viewport={"width": 1400, "height": 1400})
    whole(large, deep.as_uri() + "#size=300")
    large.locator("#circuit").scroll_into_view_if_needed()
    large.evaluate("byId('drawn').scrollIntoView()")
    take(large, None, "report_deep.png")


def made_up(folder: Path) -> Path:
    """A run of SmolLM2-135M's sizes: 300 edges of the synthetic runs of the tests."""
    run = folder / "deep"
    run.mkdir()
    return make_run(run, Graph(30, 9, 3, d_model=576), sizes=(7, 300))


def edge(page: Page) -> None:
    """The card of the strongest edge."""
    page.evaluate("selectEdge([circuit().edges[0]])")
    take(page, "#circuit .panel", "report_edge.png")
    page.keyboard.press("Escape")


def node(page: Page) -> None:
    """A head that was selected, with what it does."""
    head = page.evaluate("DATA.evidence.sections.function.heads[0].head")
    page.locator(f'#drawing [data-node="{head}"]').click()
    take(page, "#reading", "report_node.png")
    page.keyboard.press("Escape")


def compared(page: Page) -> None:
    """The chosen circuit and the next larger one."""
    page.locator("#compare").scroll_into_view_if_needed()
    page.locator("#comparison .node").first.wait_for()
    take(page, "#compare .stage > figure", "report_compare.png")


def take(page: Page, selector: str | None, name: str) -> None:
    """Keeps a part of the page as a picture, or what of it is on the screen."""
    page.mouse.move(0, 0)
    shown = page.locator(selector).screenshot() if selector else page.screenshot()
    shot = Image.open(io.BytesIO(shown))
    palette = dict(method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    small = shot.convert("RGB").quantize(200, **palette)
    small.save(IMAGES / name, optimize=True)
    print(name, shot.size, f"{(IMAGES / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
