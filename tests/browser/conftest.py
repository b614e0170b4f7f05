"""One Chromium for all tests here, and a report in it that must stay silent and ask for nothing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from report_evidence import judge
from report_runs import make_run

from browser.view import View
from circuitprune.views.report import write_report

FLAGS = (
    "--no-sandbox",  # Chromium refuses its sandbox to root, who runs CI
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
)
NEEDED = "Chromium is not installed; `apt-get install chromium`, or put one on the PATH"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser; without one tests skip, or fail if CIRCUITPRUNE_BROWSER=required."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        refuse = (
            pytest.fail if os.environ.get("CIRCUITPRUNE_BROWSER") == "required" else pytest.skip
        )
        refuse(NEEDED)
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def view(browser: Browser) -> Iterator[View]:
    """A tab; when the test is done, the page must have said nothing and asked for nothing."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, service_workers="block")
    view = View(context)
    yield view
    context.close()
    assert view.said == [] and view.asked == []


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the sizes of zoo/small with its report; tests only read it."""
    folder = make_run(tmp_path_factory.mktemp("browser"))
    write_report([folder])
    return folder


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `run`, with evidence and pairs."""
    folder = make_run(tmp_path_factory.mktemp("judged"))
    judge(folder)
    write_report([folder])
    return folder
