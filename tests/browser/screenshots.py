"""The pictures of the documents: `python tests/browser/screenshots.py RUN`, a verified run.

Writes `docs/images/report_*.png` at twice the size of the page, in 128 colours to keep them small.
Needs Chromium and Pillow (`pip install pillow`).
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from circuitprune.views.report import write_report

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = write_report([run], Path(folder) / "report.html")
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme, end in (("light", ""), ("dark", "_dark")):
            page = browser.new_page(
                viewport={"width": 1400, "height": 900},
                device_scale_factor=2,
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            page.goto(report.as_uri())
            page.evaluate("document.querySelector('#circuit .keys').hidden = true")
            take(page, "#circuit .stage > figure", f"report_circuit{end}.png")
            if scheme == "light":
                node(page)
                compared(page)
                take(page, "#figure-minimality", "report_minimality.png")
                take(page, "#figure-completeness", "report_evidence.png")
        browser.close()


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


def take(page: Page, selector: str, name: str) -> None:
    """Keeps a part of the page as a picture."""
    page.mouse.move(0, 0)
    shot = Image.open(io.BytesIO(page.locator(selector).screenshot()))
    small = shot.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(IMAGES / name, optimize=True)
    print(name, shot.size, f"{(IMAGES / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
